//! Who sent which frame when: tcpdump and its file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Error, Netns, Process, Result, run};

/// An Ethernet address, its bytes in the order of the wire.
pub type Mac = [u8; 6];

/// A frame that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When the kernel took it in, since 1970.
    pub at: Duration,
    /// Its source.
    pub source: Mac,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// How long tcpdump may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// First word of a file with times in nanoseconds, and lengths of its parts
/// (pcap-savefile(5)).
const MAGIC: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

impl Capture {
    /// Captures what comes in at `interface` and matches `filter`
    /// (pcap-filter(7)), until [`Self::frames`] is called.
    ///
    /// # Errors
    /// tcpdump cannot be started, or does not understand the filter.
    pub fn start(netns: &Netns, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        Self::of(netns, interface, &["-s", "64", "-Q", "in"], filter, file)
    }

    /// Captures all of what comes in and goes out, until [`Self::packets`] is called.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn whole(netns: &Netns, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        Self::of(netns, interface, &[], filter, file)
    }

    fn of(
        netns: &Netns,
        interface: &str,
        words: &[&str],
        filter: &str,
        file: &Path,
    ) -> Result<Self> {
        let mut command = netns.command("tcpdump");
        command.args(["-i", interface, "-n", "-Z", "root", "--immediate-mode"]).args(words);
        command.args(["--time-stamp-precision", "nano", "-w"]).arg(file).arg(filter);
        let mut process = Process::start(&mut command)?;
        process.wait_for("capture", PATIENCE, |log| log.contains("listening on"))?;
        Ok(Self { process, file: file.into() })
    }

    /// Ends it: what tcpdump says of each packet, checksums included, in the order in
    /// which they came.
    ///
    /// # Errors
    /// tcpdump cannot read its file.
    pub fn packets(self) -> Result<Vec<String>> {
        self.process.end(libc::SIGTERM)?;
        let mut command = Command::new("tcpdump");
        let text = run(command.args(["-n", "-t", "-vv", "-r"]).arg(&self.file), PATIENCE)?.stdout;
        let mut packets: Vec<String> = Vec::new();
        for line in text.lines() {
            // What belongs to a packet is indented, but for its first line.
            match packets.last_mut().filter(|_| line.starts_with(char::is_whitespace)) {
                Some(packet) => *packet += line,
                None => packets.push(line.to_owned()),
            }
        }
        Ok(packets)
    }

    /// Ends it: all frames, in the order in which they came.
    ///
    /// # Errors
    /// tcpdump's file cannot be read.
    pub fn frames(self) -> Result<Vec<Seen>> {
        self.process.end(libc::SIGTERM)?;
        let name = self.file.display();
        let bytes = fs::read(&self.file).map_err(Error::io(format!("read `{name}`")))?;
        parse(&bytes)
            .ok_or_else(|| Error::Unexpected { what: "capture".into(), found: name.to_string() })
    }
}

/// Reads a file of this machine's byte order.
fn parse(bytes: &[u8]) -> Option<Vec<Seen>> {
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)))
    };
    if word(bytes, 0)? != MAGIC {
        return None;
    }
    let (mut rest, mut frames) = (bytes.get(FILE_HEADER..)?, Vec::new());
    while !rest.is_empty() {
        let (seconds, nanoseconds) = (word(rest, 0)?, word(rest, 4)?);
        let length = word(rest, 8)? as usize;
        let frame = rest.get(RECORD_HEADER..RECORD_HEADER + length)?;
        let source = frame.get(6..12)?.try_into().ok()?;
        frames.push(Seen { at: Duration::new(seconds.into(), nanoseconds), source });
        rest = &rest[RECORD_HEADER + length..];
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_frame_by_frame() {
        let mut file = [MAGIC.to_ne_bytes().as_slice(), &[0; FILE_HEADER - 4]].concat();
        for (nanoseconds, last) in [(5_u32, 1), (7, 2)] {
            file.extend([1_u32, nanoseconds, 14, 60].map(u32::to_ne_bytes).as_flattened());
            file.extend([0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, last, 8, 0]);
        }
        let seen = |nanoseconds, last| Seen {
            at: Duration::new(1, nanoseconds),
            source: [2, 0, 0, 0, 0, last],
        };
        assert_eq!(parse(&file), Some(vec![seen(5, 1), seen(7, 2)]));
        assert_eq!(parse(&file[..file.len() - 1]), None);
        assert_eq!(parse(b"something else entirely"), None);
    }
}

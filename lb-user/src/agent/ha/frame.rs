//! Heartbeats as datagrams.
//!
//! Numbers are in network byte order (big-endian). A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `lbHA` |
//! | 1 | version, 2 |
//! | 1 | flags: 1, it is an answer; 2, `heard` is there; 4, `echo` is; 8, a group is active; no others |
//! | 1 | priority |
//! | 1 | length of the node's name, 1 to 64 |
//! | 1 | number of groups, 0 to 16 |
//! | 4 | time between heartbeats, microseconds |
//! | 4 | grant, likewise |
//! | 8 | fingerprint of the newest key that the sender has |
//! | 8 | number of the run of the witness that answers the sender; 0 if none does |
//! | 16 | stamp: number of the run, then of the frame |
//! | 0 or 16 | `heard`, likewise |
//! | 0 or 16 | `echo`, likewise |
//! | 1 to 64 | name of the node, UTF-8 |
//! | 25 each | groups: id (8), digest (8), term (8), state (1) |
//! | 32 | tag: HMAC-SHA256 (RFC 2104) of everything before it |
//!
//! A group's state has the stance in its two lowest bits (0 standby, 1
//! claiming, 2 resigned, 3 active), then whether it is preferred, then whether it
//! is fit; the others are 0. The tag's key is derived from a key of the pair and
//! its name, so it tells pairs apart as well. Every beat has one frame only for a key.
//!
//! Frames of all versions have magic, version and tag in common, frames from
//! version 2 on the flag of an active group, and none is longer than 1232 bytes: so
//! nodes of different versions know of each other, and whether the other serves.

use std::time::Duration;

use ring::hmac;

use super::{
    key::{Fingerprint, Keys},
    term::HIGHEST,
};
use crate::{
    config::value::NAME_LENGTH,
    core::{
        ha::{Beat, GroupBeat, Stamp, Stance},
        model::ha::GROUPS,
    },
};

/// Longest frame in bytes: with what is around it, it fits any path of IPv6.
pub const MOST_BYTES: usize = HEAD + 3 * STAMP + NAME_LENGTH + GROUPS * GROUP + TAG;
/// Longest frame in bytes of any version: what every path of IPv6 takes whole (1280
/// bytes, RFC 8200, section 5) without the headers of IPv6 and UDP.
pub const MOST_BYTES_EVER: usize = 1280 - 40 - 8;
/// Shortest frame in bytes.
const LEAST_BYTES: usize = HEAD + STAMP + 1 + TAG;
/// The same of any version: with flags.
const LEAST_BYTES_EVER: usize = FLAGS + 1 + TAG;

const MAGIC: &[u8; 4] = b"lbHA";
/// What nodes of this version speak.
pub const VERSION: u8 = 2;
/// What the key is derived for.
const PURPOSE: &str = "heartbeat";

/// Where the flags are.
const FLAGS: usize = 5;
/// Bytes of the parts: up to the stamp, a stamp, a group, the tag.
const HEAD: usize = 33;
const STAMP: usize = 16;
const GROUP: usize = 25;
const TAG: usize = 32;

const ANSWER: u8 = 1 << 0;
const HEARD: u8 = 1 << 1;
const ECHO: u8 = 1 << 2;
const SERVES: u8 = 1 << 3;

/// Longest time in a frame: who has the key has the right to no more.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest time between heartbeats, that of the configuration: the slower node's counts
/// for both.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// In the order of their numbers.
const STANCES: [Stance; 4] = [Stance::Standby, Stance::Claiming, Stance::Resigned, Stance::Active];
const PREFERRED: u8 = 1 << 2;
const FIT: u8 = 1 << 3;

/// Why a datagram is no frame of the pair's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It begins otherwise.
    #[error("no heartbeat")]
    Foreign,
    /// Made with the pair's key by another version of lb.
    #[error("version {version}, expected {VERSION}")]
    Version {
        /// Its version.
        version: u8,
        /// Whether a group is active; a version that does not say so says that none
        /// is.
        serves: bool,
    },
    /// No frame of its version is that short or long.
    #[error("{length} bytes, expected {least} to {most}")]
    Length {
        /// Its bytes.
        length: usize,
        /// Bytes of the shortest frame.
        least: usize,
        /// Bytes of the longest.
        most: usize,
    },
    /// Of another pair, or somebody has changed or invented it.
    #[error("another pair's key or name")]
    Key,
    /// Made with the pair's key, and yet no frame.
    #[error("malformed")]
    Malformed,
}

/// What a datagram of the pair's says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub beat: Beat,
    /// The key that it was made with.
    pub key: Fingerprint,
    /// The newest key that its sender has.
    pub newest: Fingerprint,
}

/// Makes and reads the frames of a pair.
#[derive(Clone, Debug)]
pub struct Codec {
    /// By each key of the pair, the newest first.
    seals: Vec<(Fingerprint, hmac::Key)>,
}

impl Codec {
    /// Of the pair of these keys and this name.
    #[must_use]
    pub fn new(keys: &Keys, pair: &str) -> Self {
        let seals = keys.iter().map(|key| (key.fingerprint(), key.derive(PURPOSE, pair)));
        Self { seals: seals.collect() }
    }

    /// The frame of a beat that keeps the limits which its parts state, made with
    /// a key of the pair; with the newest if it has no such key.
    #[must_use]
    pub fn encode(&self, beat: &Beat, by: Fingerprint) -> Vec<u8> {
        let Beat { node, stamp, answer, interval, heard, grant, .. } = beat;
        let Beat { echo, witness, priority, groups, .. } = beat;
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let flags = flag(*answer, ANSWER)
            | flag(heard.is_some(), HEARD)
            | flag(echo.is_some(), ECHO)
            | flag(serves(groups), SERVES);
        let (newest, seal) = &self.seals[0];
        let mut frame = Vec::with_capacity(MOST_BYTES);
        frame.extend(MAGIC);
        frame.extend([VERSION, flags, *priority, node.len() as u8, groups.len() as u8]);
        for time in [interval, grant] {
            frame.extend((time.as_micros() as u32).to_be_bytes());
        }
        frame.extend([newest.0, *witness].map(u64::to_be_bytes).as_flattened());
        for stamp in [Some(stamp), heard.as_ref(), echo.as_ref()].into_iter().flatten() {
            frame.extend(stamp_bytes(stamp));
        }
        frame.extend(node.as_bytes());
        for GroupBeat { id, digest, term, stance, preferred, fit } in groups {
            frame.extend([id, digest, term].map(|number| number.to_be_bytes()).as_flattened());
            frame.push(*stance as u8 | flag(*preferred, PREFERRED) | flag(*fit, FIT));
        }
        let asked = self.seals.iter().find(|(key, _)| *key == by);
        let seal = asked.map_or(seal, |(_, seal)| seal);
        frame.extend(hmac::sign(seal, &frame).as_ref());
        frame
    }

    /// The beat in a datagram. Until the tag is verified nothing is allocated,
    /// and nothing looked at but the first bytes and the length.
    ///
    /// # Errors
    /// It is no frame of this pair's.
    pub fn decode(&self, datagram: &[u8]) -> Result<Frame, FrameError> {
        let rest = datagram.strip_prefix(MAGIC).ok_or(FrameError::Foreign)?;
        let version = *rest.first().unwrap_or(&VERSION);
        let (length, (least, most)) = (
            datagram.len(),
            match version {
                VERSION => (LEAST_BYTES, MOST_BYTES),
                _ => (LEAST_BYTES_EVER, MOST_BYTES_EVER),
            },
        );
        if !(least..=most).contains(&length) {
            return Err(FrameError::Length { length, least, most });
        }
        let (signed, tag) = datagram.split_at(length - TAG);
        let sealed = |(_, seal): &&(_, _)| hmac::verify(seal, signed, tag).is_ok();
        let (key, _) = self.seals.iter().find(sealed).ok_or(FrameError::Key)?;
        if version != VERSION {
            let serves = signed[FLAGS] & SERVES != 0;
            return Err(FrameError::Version { version, serves });
        }
        let (beat, newest) = read(&signed[FLAGS..]).ok_or(FrameError::Malformed)?;
        Ok(Frame { beat, key: *key, newest })
    }
}

/// Whether a group is active.
fn serves(groups: &[GroupBeat]) -> bool {
    groups.iter().any(|group| group.stance == Stance::Active)
}

fn stamp_bytes(stamp: &Stamp) -> [u8; STAMP] {
    let Stamp { boot, sequence } = stamp;
    (u128::from(*boot) << 64 | u128::from(*sequence)).to_be_bytes()
}

/// Reads what stands between version and tag, with the sender's newest key.
fn read(body: &[u8]) -> Option<(Beat, Fingerprint)> {
    let mut rest = Rest(body);
    let [flags, priority, name, groups] = rest.bytes()?;
    let within = (1..=NAME_LENGTH).contains(&name.into()) && usize::from(groups) <= GROUPS;
    if flags & !(ANSWER | HEARD | ECHO | SERVES) != 0 || !within {
        return None;
    }
    let interval = rest.time().filter(|interval| *interval <= LONGEST_INTERVAL)?;
    let grant = rest.time()?;
    let (newest, witness) = (Fingerprint(rest.number()?), rest.number()?);
    let stamp = rest.stamp()?;
    let heard = if flags & HEARD != 0 { Some(rest.stamp()?) } else { None };
    let echo = if flags & ECHO != 0 { Some(rest.stamp()?) } else { None };
    let node = str::from_utf8(rest.slice(name.into())?).ok()?.to_owned();
    let groups = (0..groups).map(|_| rest.group()).collect::<Option<Vec<_>>>()?;
    let answer = flags & ANSWER != 0;
    let whole = rest.0.is_empty() && serves(&groups) == (flags & SERVES != 0);
    let beat =
        Beat { node, stamp, answer, interval, heard, grant, echo, witness, priority, groups };
    whole.then_some((beat, newest))
}

/// What is still to be read.
struct Rest<'f>(&'f [u8]);

impl<'f> Rest<'f> {
    fn slice(&mut self, length: usize) -> Option<&'f [u8]> {
        self.0.split_off(..length)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { boot: self.number()?, sequence: self.number()? })
    }

    fn time(&mut self) -> Option<Duration> {
        let time = Duration::from_micros(u32::from_be_bytes(self.bytes()?).into());
        (time <= LONGEST).then_some(time)
    }

    fn group(&mut self) -> Option<GroupBeat> {
        let (id, digest, term) = (self.number()?, self.number()?, self.number()?);
        let [state] = self.bytes()?;
        let stance = *STANCES.get(usize::from(state & !(PREFERRED | FIT)))?;
        let (preferred, fit) = (state & PREFERRED != 0, state & FIT != 0);
        let group = GroupBeat { id, digest, term, stance, preferred, fit };
        (term <= HIGHEST).then_some(group)
    }
}

#[cfg(test)]
mod tests;

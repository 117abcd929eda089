//! Network namespaces.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::{Error, Result, command::line, run, tool};

/// Where iproute2 keeps names of namespaces.
pub(super) const NAMES: &str = "/run/netns";

/// A named network namespace, removed when dropped (it goes on existing while
/// processes or sockets live in it).
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Makes the namespace `name`, with its loopback interface up.
    ///
    /// # Errors
    /// The name is taken, or we are not privileged.
    pub fn create(name: String) -> Result<Self> {
        run(tool("ip").args(["netns", "add", &name]), Duration::from_secs(10))?;
        let path = Path::new(NAMES).join(&name);
        let file = File::open(&path).map_err(Error::io(format!("open `{}`", path.display())))?;
        let netns = Self { name, path, file };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to type before a command to run it inside. `ip netns exec` would
    /// mount `/sys` anew and so hide the BPF file system.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("nsenter --net={}", self.path.display())
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = tool("nsenter");
        // nsenter becomes the program: its process is the one that we signal.
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs lines of `ip` commands inside, each without the leading `ip`. A
    /// line for IPv6 starts with `-6`.
    ///
    /// # Errors
    /// A line fails; the lines before it have taken effect.
    pub fn ip(&self, lines: &str) -> Result<()> {
        // Without a flag `ip` takes the family from the addresses, but has none
        // to look at in `rule` or `default`.
        for (v6, flags) in [(false, &[][..]), (true, &["-6"])] {
            let lines: String = lines
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && line.starts_with("-6 ") == v6)
                .map(|line| format!("{}\n", line.trim_start_matches("-6 ")))
                .collect();
            if !lines.is_empty() {
                self.ip_batch(flags, &lines)?;
            }
        }
        Ok(())
    }

    fn ip_batch(&self, flags: &[&str], lines: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(flags).args(["-batch", "-"]);
        let name = line(&command);
        let start = |source| Error::Start { command: name.clone(), source };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).map_err(Error::io(format!("write to `{name}`")))?;
        }
        let output = child.wait_with_output().map_err(Error::io(format!("wait for `{name}`")))?;
        if output.status.success() {
            return Ok(());
        }
        let output_text = format!("{}of:\n{lines}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Failed { command: name, status: output.status, output: output_text })
    }

    /// Switches offloads of an interface: `ethtool -K INTERFACE WORDS`.
    ///
    /// # Errors
    /// ethtool fails.
    pub fn offload(&self, interface: &str, words: &[&str]) -> Result<()> {
        let limit = Duration::from_secs(10);
        run(self.command("ethtool").args(["-K", interface]).args(words), limit).map(drop)
    }

    /// Runs `work` inside, on a thread of its own. Sockets that it makes belong
    /// to the namespace and go on working elsewhere.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// If `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                // SAFETY: the descriptor is open and a namespace's; this moves
                // only the calling thread, which ends right after.
                if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    let error = std::io::Error::last_os_error();
                    return Err(Error::io(format!("enter namespace `{}`", self.name))(error));
                }
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes settings below `/proc/sys/net`, which shows each thread the
    /// settings of its own namespace: `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// A setting does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys/net").join(key);
                std::fs::write(&path, value)
                    .map_err(Error::io(format!("write `{value}` to `{}`", path.display())))
            })
        })?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the name of a namespace.
pub(super) fn remove(name: &str) {
    // Nobody to tell while dropping; what stays is swept by the next run.
    let _ = run(tool("ip").args(["netns", "del", name]), Duration::from_secs(10));
}

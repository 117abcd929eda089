//! The balancer's agent, run from its binary.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use super::{Netns, Process, Result};

/// Names the `lb` binary to test.
const BINARY: &str = "LB_BIN";
/// The line of the log that says that everything is attached and published.
const READY: &str = "data plane ready";
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The `lb` binary: what the environment variable `LB_BIN` names, else the
/// workspace's release build.
#[must_use]
pub fn lb_binary() -> PathBuf {
    env::var_os(BINARY).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lb"),
        PathBuf::from,
    )
}

/// A running `lb agent`. Dropping it ends the agent, not the forwarding.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Starts `binary` inside `netns` and waits until its data plane is ready.
    ///
    /// # Errors
    /// It cannot be started, or ends, or is not ready in time; with its log.
    pub fn start(binary: &Path, netns: &Netns, config: &Path) -> Result<Self> {
        Self::start_with(binary, netns, config, &[])
    }

    /// As [`Self::start`], with further `words`.
    ///
    /// # Errors
    /// It cannot be started, or ends, or is not ready in time; with its log.
    pub fn start_with(binary: &Path, netns: &Netns, config: &Path, words: &[&str]) -> Result<Self> {
        let mut command = netns.command(binary);
        command.arg("agent").arg("--config").arg(config).args(words);
        let mut process = Process::start(&mut command)?;
        process.wait_for(READY, PATIENCE, |log| log.contains(READY))?;
        Ok(Self { process })
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Tells it to read its configuration again.
    ///
    /// # Errors
    /// It has ended.
    pub fn reload(&self) -> Result<()> {
        self.process.signal(libc::SIGHUP)
    }

    /// Makes it stand still; the forwarding does not.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)
    }

    /// Lets it go on after [`Self::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    /// Kills it without a chance to say farewell.
    ///
    /// # Errors
    /// It has ended already.
    pub fn kill(self) -> Result<()> {
        self.process.end(libc::SIGKILL).map(drop)
    }

    /// Asks it to end, and waits until its log has these words.
    ///
    /// # Errors
    /// It ends without them.
    pub fn terminate_saying(mut self, words: &str) -> Result<()> {
        self.process.signal(libc::SIGTERM)?;
        self.process.wait_for(words, PATIENCE, |log| log.contains(words))
    }

    /// Asks it to end, and says how it did.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.process.end(libc::SIGTERM)
    }
}

//! A program that runs until it is told to end.

use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{Error, Result, command::line, eventually};

/// How long a program may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running program and what it wrote to its standard error. Dropping it ends
/// the program: by SIGTERM, then by SIGKILL.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `command` in a process group of its own: an interrupt typed at
    /// the terminal is for us to hand on, in the order that suits us.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { command: name.clone(), source })?;
        let log = Arc::new(Mutex::new(String::new()));
        let reader = child.stderr.take().map(|stderr| {
            let log = Arc::clone(&log);
            thread::spawn(move || copy(stderr, &log))
        });
        Ok(Self { child, name, log, reader })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `ready` holds for what it wrote so far.
    ///
    /// # Errors
    /// The program ended before that, or `limit` passed; with all that it wrote.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        let (mut is_ready, mut ended) = (false, None);
        let _ = eventually(limit, || {
            ended = self.child.try_wait().ok().flatten();
            is_ready = ready(&self.log());
            is_ready || ended.is_some()
        });
        match (is_ready, ended) {
            (true, _) => Ok(()),
            (false, Some(status)) => {
                // Its last words may still be in the pipe.
                self.reader.take().map(thread::JoinHandle::join);
                let output = self.log();
                if ready(&output) {
                    return Ok(());
                }
                Err(Error::Failed { command: self.name.clone(), status, output })
            }
            (false, None) => {
                let what = format!("`{}`: no {what} in:\n{}", self.name, self.log());
                Err(Error::TimedOut { what, limit })
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: takes two numbers. The process is not reaped before `self` is
        // given up, so the number cannot have become somebody else's.
        match unsafe { libc::kill(self.child.id().cast_signed(), signal) } {
            0 => Ok(()),
            _ => Err(Error::io(format!("kill {}", self.name))(std::io::Error::last_os_error())),
        }
    }

    /// Kills it and its children, none of which gets to see another end.
    ///
    /// # Errors
    /// It has ended already, or does not end.
    pub fn kill_all(self) -> Result<()> {
        // SAFETY: takes two numbers; the group is the process's own and named
        // after it, see `start`, and `signal` says why it is nobody else's.
        match unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) } {
            0 => self.end(libc::SIGKILL).map(drop),
            _ => Err(Error::io(format!("kill {}", self.name))(std::io::Error::last_os_error())),
        }
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// It does not end in time, and is then killed.
    pub fn end(mut self, signal: libc::c_int) -> Result<ExitStatus> {
        self.signal(signal)?;
        let mut ended = None;
        let in_time = eventually(GRACE, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) if in_time => Ok(status),
            _ => {
                let what = format!("`{}` ignores signal {signal}:\n{}", self.name, self.log());
                Err(Error::TimedOut { what, limit: GRACE })
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(libc::SIGTERM);
        if !eventually(GRACE, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Appends all that `from` yields to `log`.
fn copy(mut from: impl Read, log: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
    }
}

//! Running other programs to their end.

use std::{
    env,
    ffi::OsStr,
    io::Read,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use super::{Error, Result, eventually};

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command that is also looked for where system tools live: an ordinary
/// user's `PATH`, kept by sudo, lacks these.
#[must_use]
pub fn tool(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"));
    command
}

/// The command line, as one would type it.
pub(super) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs `command` to its end, whatever its exit status.
///
/// # Errors
/// It cannot be started, or takes longer than `limit` (and is then killed).
pub fn finish(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { command: name.clone(), source })?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let mut ended = None;
    let in_time = eventually(limit, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some()
    });
    if !in_time {
        child.kill().map_err(Error::io("kill"))?;
    }
    let status = child.wait().map_err(Error::io("wait"))?;
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let output = Output { status, stdout: text(stdout), stderr: text(stderr) };
    if in_time {
        Ok(output)
    } else {
        let what = format!("`{name}` does not end: {}{}", output.stdout, output.stderr);
        Err(Error::TimedOut { what, limit })
    }
}

/// Runs `command` to its end and wants success.
///
/// # Errors
/// Those of [`finish`], and an exit status other than 0.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = finish(command, limit)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Failed {
        command: line(command),
        status: output.status,
        output: format!("{}{}", output.stdout, output.stderr),
    })
}

/// Reads to the end on a thread of its own, so that no pipe fills up.
fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends the text: what came before it still counts.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

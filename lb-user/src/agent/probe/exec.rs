//! `exec` probes: a program whose exit status tells.

use std::{
    env, io,
    net::IpAddr,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{net::unix::pipe::Receiver, process::Command};

use super::reason::{Reason, said};

/// Most of a program's output that is kept, in bytes.
const KEPT: usize = 1024;

/// A program, ready to be run again and again.
pub(super) struct Exec {
    pub(super) program: Vec<String>,
    /// "service/backend".
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
}

impl Exec {
    /// Runs it once. Dropped before its end, it kills the program and whatever
    /// that has started.
    pub(super) async fn run(&self) -> Result<(), Reason> {
        let [program, arguments @ ..] = self.program.as_slice() else {
            return Err("no program to run".into());
        };
        // One pipe, so that the first line is the first in time.
        let (output, input) = io::pipe().map_err(Reason::of_host)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LB_SERVICE_BACKEND", &self.name)
            .env("LB_ADDRESS", self.address.to_string())
            .envs(self.port.map(|port| ("LB_PORT", port.to_string())))
            .stdin(Stdio::null())
            .stdout(input.try_clone().map_err(Reason::of_host)?)
            .stderr(input)
            .process_group(0)
            .kill_on_drop(true);
        let spawned = command.spawn();
        // Whatever it is, that the program is not there say, it is this host's.
        let unable = |why| format!("cannot run `{program}`: {why}");
        let mut child = spawned.map_err(|error| Reason::of_host(error).map(unable))?;
        let mut group = Group::of(child.id());
        // Else the agent's own ends would keep the pipe open.
        drop(command);
        let pipe = Receiver::from_owned_fd(output.into()).map_err(Reason::of_host)?;
        let mut output = Output { pipe, kept: Vec::new() };
        let mut open = true;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(Reason::of_host)?,
                more = output.more(), if open => open = more,
            }
        };
        group.0 = None;
        if status.success() {
            return Ok(());
        }
        Err(Reason::Backend(match (outcome(status), output.first_line()) {
            (outcome, said) if said.is_empty() => outcome,
            (outcome, said) => format!("{outcome}: {said}"),
        }))
    }
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => status.to_string(),
    }
}

/// What a program says. All of it is read, so that it need not wait.
struct Output {
    pipe: Receiver,
    kept: Vec<u8>,
}

impl Output {
    /// Waits for more; `false`: nothing more will come.
    async fn more(&mut self) -> bool {
        if self.pipe.readable().await.is_err() {
            return false;
        }
        match self.read() {
            Ok(length) => length > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// The first line of what has been said. That there is an end to it is not
    /// waited for: what the program left running may hold the pipe.
    fn first_line(&mut self) -> String {
        while self.kept.len() < KEPT && self.read().is_ok_and(|length| length > 0) {}
        said(&self.kept)
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        let length = self.pipe.try_read(&mut bytes)?;
        let kept = length.min(KEPT - self.kept.len());
        self.kept.extend_from_slice(&bytes[..kept]);
        Ok(length)
    }
}

/// A process group whose leader has not been waited for, so that no other
/// group can have its number. Killed when dropped.
pub(in crate::agent) struct Group(pub(in crate::agent) Option<Pid>);

impl Group {
    pub(in crate::agent) fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It fails only if nobody of the group is left.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

//! The program that makes sure that the peer does not serve (`ha.fence`): it takes
//! its power, or its ports.

use std::{
    env,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{agent::probe::Group, core::model::ha::Fence, sys::priority};

/// How long to wait before a program that failed is run again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs it once; whether it says that the peer does not serve. One that takes too
/// long is killed, with whatever it has started. Dropped before its end, likewise.
pub(super) async fn run(Fence { command, timeout: limit }: Fence, pair: String) -> bool {
    let program = command.first().cloned().unwrap_or_default();
    tracing::warn!(program, "the peer is silent: it is fenced before this node takes over");
    let trouble = match timeout(limit, finish(&command, &pair)).await {
        Ok(Ok(status)) if status.success() => {
            tracing::warn!(program, "the peer is fenced");
            return true;
        }
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no end after {limit:?}"),
    };
    tracing::error!(program, trouble, "the peer is not fenced: this node does not take over");
    sleep(AGAIN).await;
    false
}

async fn finish(command: &[String], pair: &str) -> std::io::Result<ExitStatus> {
    let [program, arguments @ ..] = command else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    // SAFETY: a system call, which is all that is allowed there.
    unsafe {
        command.pre_exec(|| {
            priority::come_in_turn();
            Ok(())
        })
    };
    let mut child = command
        .args(arguments)
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LB_PAIR", pair)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut group = Group::of(child.id());
    let status = child.wait().await?;
    group.0 = None;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn fence(script: &str, limit: Duration) -> Fence {
        let command = ["/bin/sh", "-c", script].map(Into::into).into();
        Fence { command, timeout: limit }
    }

    #[tokio::test]
    async fn only_a_program_that_succeeds_in_time_has_fenced_the_peer() {
        let long = Duration::from_secs(3600);
        assert!(run(fence("test \"$LB_PAIR\" = edge", long), "edge".into()).await);
        assert!(!run(fence("exit 1", long), "edge".into()).await);
        assert!(!run(fence("kill -9 $$", long), "edge".into()).await);
        let missing = Fence { command: vec!["/no/such/program".into()], timeout: long };
        assert!(!run(missing, "edge".into()).await);
    }

    #[tokio::test]
    async fn the_program_does_not_come_before_others_as_its_thread_does() {
        // Where that is not allowed it does not, either.
        let _ = priority::come_first();
        assert!(run(fence("test $(nice) = 0", Duration::from_secs(3600)), "edge".into()).await);
    }

    #[tokio::test]
    async fn what_a_program_that_hangs_has_started_ends_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        assert!(!run(fence(&script, Duration::from_millis(500)), "edge".into()).await);
        let pid = fs::read_to_string(&file).expect("it ran");
        let status = format!("/proc/{}/stat", pid.trim());
        // It is gone, or dead and not yet waited for.
        let ended = || fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
        while !ended() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

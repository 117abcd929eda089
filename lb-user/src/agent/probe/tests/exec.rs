//! `exec` probes.

use std::{
    fs,
    io::{self, Write},
    sync::Mutex,
};

use tempfile::NamedTempFile;

use super::*;

fn shell(script: &str) -> Probe {
    Probe::Exec(["/bin/sh", "-c", script].map(Into::into).into())
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 8080).into()
}

#[tokio::test]
async fn the_exit_status_decides() {
    success(address(), shell("echo all is well")).await;
    assert_eq!(failure(address(), shell("exit 3")).await, "exit status 3");
    let disk = shell("echo; exit 1");
    assert_eq!(failure(address(), disk).await, "exit status 1");
    let killed = shell("kill -TERM $$");
    assert_eq!(failure(address(), killed).await, "killed by signal 15");
}

#[tokio::test]
async fn the_first_line_of_a_failure_is_shown() {
    let disk = shell("echo 'disk\tfull' >&2; echo more; exit 1");
    assert_eq!(failure(address(), disk).await, "exit status 1: disk\u{fffd}full");
    let much = shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 1");
    assert_eq!(failure(address(), much).await, format!("exit status 1: {}", "x".repeat(200)));
}

#[tokio::test]
async fn a_program_knows_whom_it_is_to_look_at_and_little_else() {
    let script = "test \"$LB_SERVICE_BACKEND $LB_ADDRESS $LB_PORT\" = 'web/0 127.0.0.1 8080' \
                  && test -n \"$PATH\" && test -z \"$CARGO_PKG_NAME$HOME\"";
    success(address(), shell(script)).await;
    let mut portless = target(0, address(), shell("test -z \"${LB_PORT+set}\""));
    portless.port = None;
    assert!(succeeded(&observe(&portless).await));
}

#[tokio::test]
async fn a_program_that_cannot_be_run_says_nothing_of_the_backend() {
    let unable = async |program: &str| {
        why_not(observe(&target(0, address(), Probe::Exec(vec![program.into()]))).await)
    };
    let missing = unable("/no/such/check").await;
    assert_eq!(missing, "cannot run `/no/such/check`: no such file or directory");
    let script = NamedTempFile::new().unwrap();
    let name = script.path().to_str().unwrap();
    assert_eq!(unable(name).await, format!("cannot run `{name}`: permission denied"));
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_once() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || Log(writer.clone())).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let missing = Probe::Exec(vec!["/no/such/check".into()]);
    let (mut prober, mut events) = Prober::new(Handle::current(), 8);
    let targets = [0, 1].map(|number| {
        let target = target(number, address(), missing.clone());
        Target { health: Health { interval: SHORT, ..target.health }, ..target }
    });
    prober.set(targets.into());
    for _ in 0..8 {
        why_not(events.recv().await.unwrap().observation);
    }
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("/no/such/check").count(), 1, "{log}");
}

/// What is logged.
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_program_that_does_not_end_is_a_failure() {
    assert_eq!(failure_soon(address(), shell("sleep 1000")).await, "no answer within 50ms");
    assert_eq!(failure_soon(address(), shell("yes")).await, "no answer within 50ms");
}

#[tokio::test]
async fn what_a_program_leaves_running_is_not_waited_for() {
    let file = NamedTempFile::new().unwrap();
    let script = format!("sleep 1000 & echo $! > {}; echo no; exit 1", file.path().display());
    assert_eq!(failure(address(), shell(&script)).await, "exit status 1: no");
    let id = fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_program_is_killed_with_all_that_it_started() {
    let file = NamedTempFile::new().unwrap();
    let script = format!("sleep 1000 & echo $! > {}; wait", file.path().display());
    let (mut prober, _events) = Prober::new(Handle::current(), 1);
    prober.set(vec![target(0, address(), shell(&script))]);
    let id = loop {
        let text = fs::read_to_string(file.path()).unwrap();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        sleep(Duration::from_millis(1)).await;
    };
    prober.set(vec![]);
    // Killed is also what nobody has waited for yet.
    while fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        sleep(Duration::from_millis(1)).await;
    }
}

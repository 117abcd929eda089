//! `lb stats --watch`.

use std::{
    io::{BufRead as _, BufReader, Lines},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, Stdio},
    thread,
};

use lb_tests::harness::{Lab, Load, Result, eventually};
use serde_json::Value;

use super::{PATIENCE, URL, WEB, rows, web};

/// Lines that are looked at before something must have shown.
const LINES: usize = 400;

/// A command that goes on until it is stopped; it goes with this.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(lab: &Lab, words: &[&str]) -> Self {
        let mut command = lab.lb();
        command.arg("--socket").arg(lab.socket()).args(words);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lb starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    fn next_line(&mut self) -> String {
        self.lines.next().expect("it goes on").expect("text")
    }

    /// Not by SIGINT: whoever runs tests in the background may ignore it for
    /// all that they start.
    fn terminate(&self) {
        let pid = self.child.id().cast_signed();
        // SAFETY: takes two numbers; the process is not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn rates_are_shown_until_it_is_ended() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let load = Load::new(URL).start(&lab.client)?;
    let mut watch = Watch::start(&lab, &["stats", "--watch", "0.2"]);
    let headings = "SERVICE BACKEND PACKETS/S BYTES/S REPLIES/S REPLY BYTES/S NEW FLOWS/S";
    assert_eq!(rows(&watch.next_line())[0].join(" "), headings);
    // A service's own row has no backend.
    let is_busy = |line: &str| {
        let row = &rows(line)[0];
        let rate = row.iter().skip(1).find_map(|word| word.parse::<f64>().ok());
        row[0] == WEB && rate.is_some_and(|rate| rate > 100.0)
    };
    let busy = (0..LINES).any(|_| {
        let line = watch.next_line();
        !line.is_empty() && is_busy(&line)
    });
    assert!(busy, "no rate of {WEB} in {LINES} lines");
    watch.terminate();
    let mut status = None;
    let ended = eventually(PATIENCE, || {
        status = watch.child.try_wait().expect("a child");
        status.is_some()
    });
    assert!(ended, "it goes on");
    assert_eq!(status.and_then(|status| status.signal()), Some(libc::SIGTERM), "{status:?}");
    assert!(load.report()?.is_clean());
    Ok(())
}

#[test]
fn json_is_an_object_a_line() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let mut watch = Watch::start(&lab, &["--json", "stats", "--watch", "0.1"]);
    for _ in 0..3 {
        let stats: Value = serde_json::from_str(&watch.next_line()).expect("whole JSON");
        assert_eq!(stats["services"][0]["service"], WEB);
    }
    Ok(())
}

#[test]
fn a_watch_whose_reader_has_gone_ends_quietly() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    for words in [&["stats", "--watch", "0.1"][..], &["--json", "stats", "--watch", "0.1"]] {
        let mut command = lab.lb();
        command.arg("--socket").arg(lab.socket()).args(words);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lb starts");
        drop(child.stdout.take());
        // The pipe of errors is read to its end, so this ends with the child.
        let ended = thread::spawn(move || child.wait_with_output());
        assert!(eventually(PATIENCE, || ended.is_finished()), "{words:?} goes on");
        let output = ended.join().unwrap().expect("an exit status");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}: {}", output.status);
    }
    Ok(())
}

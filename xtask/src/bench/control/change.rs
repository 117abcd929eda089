//! Changes, from the command until the data plane goes by them.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{Agent, Config, Lab, fleet, private_memory, processor_time, run};

use super::{Effort, published::Published};
use crate::bench::{
    figures::{Report, Unit::Mebibytes, Unit::Milliseconds},
    os::go_on,
};

/// Services of the large configuration, and backends of each service.
const SERVICES: u16 = 1000;
/// See [`SERVICES`].
const BACKENDS: u16 = 10;
/// How long a change may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the data plane.
const LOOK: Duration = Duration::from_micros(100);
/// A weight by command is to be in the data plane in so many milliseconds.
const COMMAND: Option<f64> = Some(20.0);
/// So is a file with one weight changed.
const RELOAD: Option<f64> = Some(200.0);
/// And a file from cold.
const COLD: Option<f64> = Some(2000.0);
/// The agent's own memory, in MiB.
const MEMORY: Option<f64> = Some(64.0);

/// Edits of a balancer with one service.
pub(super) fn small(lab: &Lab, binary: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    eprintln!("control: weights by command");
    let config = lab.config(fleet(1, BACKENDS, ""));
    let agent = lab.start_agent(&config)?;
    edits(lab, binary, &config, effort, "1 service", report)?;
    stop(lab, agent)
}

/// Starts, edits and reloads of a balancer with many services; its memory.
pub(super) fn large(lab: &Lab, binary: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    eprintln!("control: {SERVICES} services x {BACKENDS} backends");
    let mut config = lab.config(fleet(SERVICES, BACKENDS, ""));
    let file = lab.write(&config)?;
    let (mut times, mut processor) = (Vec::new(), Vec::new());
    let mut start = || -> Result<Agent> {
        go_on()?;
        let begin = Instant::now();
        let agent = Agent::start(binary, &lab.balancer, &file)?;
        times.push(milliseconds(begin.elapsed()));
        processor.push(milliseconds(processor_time(agent.id())?));
        Ok(agent)
    };
    for _ in 1..effort.starts {
        stop(lab, start()?)?;
    }
    let agent = start()?;
    let size = format!("{SERVICES} services x {BACKENDS}");
    report.add(format!("{size}: file from cold, until ready"), Milliseconds, times, COLD);
    report.add(format!("{size}: file from cold, processor time"), Milliseconds, processor, None);

    let memory = |when: &str, report: &mut Report| -> Result<()> {
        let private = mebibytes(&agent)?;
        report.add(format!("{size}: private memory {when}"), Mebibytes, vec![private], MEMORY);
        Ok(())
    };
    memory("from cold", report)?;
    edits(lab, binary, &config, effort, &size, report)?;
    memory("after edits", report)?;
    let published = Published::of(lab)?;
    let (mut timings, before) = (Vec::new(), processor_time(agent.id())?);
    for number in 0..effort.changes {
        go_on()?;
        config.services[usize::from(SERVICES) / 2].set("b1", &format!("weight = {}", 10 + number));
        lab.write(&config)?;
        timings.push(time(lb(lab, binary).arg("reload"), &published)?);
    }
    let each = milliseconds(processor_time(agent.id())? - before) / effort.changes as f64;
    add(report, &format!("{size}: one weight in the file"), "lb reload", &timings, RELOAD);
    report.add(
        format!("{size}: one weight in the file, processor time"),
        Milliseconds,
        vec![each],
        None,
    );
    memory("after reloads", report)?;
    stop(lab, agent)
}

/// Weights set by command, and by requests to the admin socket.
fn edits(
    lab: &Lab,
    binary: &Path,
    config: &Config,
    effort: Effort,
    size: &str,
    report: &mut Report,
) -> Result<()> {
    let service = config.services[0].name();
    let published = Published::of(lab)?;
    let (mut timings, mut answers) = (Vec::new(), Vec::new());
    for number in 0..effort.changes {
        go_on()?;
        let mut command = lb(lab, binary);
        command.args(["backend", "set", service, "b1", "--weight"]);
        timings.push(time(command.arg((200 + number).to_string()), &published)?);
        answers.push(milliseconds(request(lab, service, 400 + number)?));
    }
    add(report, &format!("{size}: weight by command"), "lb backend set", &timings, COMMAND);
    report.add(format!("{size}: the request alone"), Milliseconds, answers, None);
    Ok(())
}

/// How long a command took.
struct Timing {
    /// From its start until the data plane went by it.
    in_force: Duration,
    /// Until it had ended.
    ended: Duration,
}

fn time(command: &mut Command, published: &Published) -> Result<Timing> {
    let before = published.tables();
    let begin = Instant::now();
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let in_force = loop {
        // In this order: what it changed it has changed before it ends.
        let ended = child.try_wait()?.is_some();
        if published.tables() != before {
            break Some(begin.elapsed());
        } else if ended {
            break None;
        }
        thread::sleep(LOOK);
    };
    let output = child.wait_with_output()?;
    let ended = begin.elapsed();
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {says}", output.status);
    let in_force = in_force.with_context(|| format!("{command:?} changed no table: {says}"))?;
    Ok(Timing { in_force, ended })
}

/// Sets a weight over the admin socket: the time from the connection to the
/// end of the answer, which comes when the edit is on disk and in force.
fn request(lab: &Lab, service: &str, weight: usize) -> Result<Duration> {
    let body = format!("{{\"weight\": {weight}}}");
    let head = format!(
        "PATCH /v1/services/{service}/backends/b1 HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let begin = Instant::now();
    let mut stream = UnixStream::connect(lab.socket()).context("connect to the admin socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all((head + &body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let taken = begin.elapsed();
    ensure!(answer.starts_with("HTTP/1.1 200"), "the agent answers: {answer}");
    Ok(taken)
}

fn add(report: &mut Report, what: &str, command: &str, timings: &[Timing], limit: Option<f64>) {
    let times = |time: fn(&Timing) -> Duration| {
        timings.iter().map(|timing| milliseconds(time(timing))).collect()
    };
    let in_force = times(|timing| timing.in_force);
    report.add(format!("{what}, in the data plane"), Milliseconds, in_force, limit);
    let ended = times(|timing| timing.ended);
    report.add(format!("{what}, `{command}` ends"), Milliseconds, ended, None);
}

/// `lb`, run as is: a Unix socket is reached from any network namespace.
fn lb(lab: &Lab, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--socket").arg(lab.socket());
    command
}

/// Ends the agent and takes the data plane away, edits too: the next start is
/// from cold.
pub(super) fn stop(lab: &Lab, agent: Agent) -> Result<()> {
    let status = agent.terminate()?;
    ensure!(status.success(), "the agent ended with {status}");
    let config = lab.config([]);
    run(lab.lb().args(["detach", "--pin-dir"]).arg(&config.pin_dir), PATIENCE)?;
    std::fs::remove_dir_all(&config.state_dir).context("remove the agent's edits")
}

fn mebibytes(agent: &Agent) -> Result<f64> {
    Ok(private_memory(agent.id())? as f64 / f64::from(1 << 20))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! What it takes to probe 1,000 backends every second.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{Lab, eventually, fleet, processor_time, run, tool};

use super::{Effort, change};
use crate::bench::{
    figures::{Report, Unit::Percent},
    os::go_on,
    process::kernel_threads,
};

/// Services, and backends of each.
const SERVICES: u16 = 100;
/// See [`SERVICES`].
const BACKENDS: u16 = 10;
/// The balancer's interface towards the server.
const OUT: &str = "l1";
/// How the names of threads that receive on it begin.
const RECEIVERS: &str = "napi/l1-";
/// Time between two looks: ticks of 10 ms are a five-hundredth of it.
const SPAN: Duration = Duration::from_secs(5);
/// What the probes may cost the agent, in hundredths of a core.
const LIMIT: Option<f64> = Some(10.0);
/// How long all may take to be found up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Watches the agent while it probes backends that are all up.
pub(super) fn measure(lab: &Lab, effort: Effort, report: &mut Report) -> Result<()> {
    let others = kernel_threads(RECEIVERS)?;
    thread_receivers(lab)?;
    for kind in ["tcp", "http"] {
        watch(lab, kind, &others, effort, report)?;
    }
    Ok(())
}

fn watch(
    lab: &Lab,
    kind: &str,
    others: &BTreeSet<u32>,
    effort: Effort,
    report: &mut Report,
) -> Result<()> {
    let count = SERVICES * BACKENDS;
    eprintln!("control: {count} {kind} probes a second");
    let path = if kind == "http" { "path = \"/1k\"\n" } else { "" };
    let health = format!("[service.health]\nkind = \"{kind}\"\ninterval = \"1s\"\n{path}");
    let agent = lab.start_agent(&lab.config(fleet(SERVICES, BACKENDS, &health)))?;
    let up = eventually(PATIENCE, || are_up(lab, count));
    ensure!(up, "not all backends are up: {}", agent.log());

    let receivers = &kernel_threads(RECEIVERS)? - others;
    ensure!(!receivers.is_empty(), "no thread of the kernel receives on `{OUT}`");
    let (mut own, mut all) = (Vec::new(), Vec::new());
    for _ in 0..effort.spans {
        go_on()?;
        let look = || -> Result<_> {
            let received: Duration =
                receivers.iter().map(|&pid| processor_time(pid)).sum::<Result<_, _>>()?;
            Ok((Instant::now(), processor_time(agent.id())?, received, connections(lab)?))
        };
        let before = look()?;
        thread::sleep(SPAN);
        let after = look()?;
        let seconds = (after.0 - before.0).as_secs_f64();
        let (sent, received) = (after.1 - before.1, after.2 - before.2);
        own.push(100.0 * sent.as_secs_f64() / seconds);
        all.push(100.0 * (sent + received).as_secs_f64() / seconds);
        let rate = (after.3 - before.3) as f64 / seconds;
        ensure!((rate / f64::from(count) - 1.0).abs() < 0.1, "{rate:.0} probes a second");
    }
    let what = format!("{count} {kind} probes a second, share of a core");
    report.add(format!("{what}: agent"), Percent, own, LIMIT);
    report.add(format!("{what}: agent and receiving"), Percent, all, None);
    change::stop(lab, agent)
}

/// Gives each end of the links between agent and server a thread of the kernel
/// that receives. Else who sends receives as well, for the peer, the bridge and
/// the server, and all that would count as the agent's doing.
fn thread_receivers(lab: &Lab) -> Result<()> {
    let server = &lab.backends[0];
    let ends = [
        (&lab.balancer, OUT),
        (&lab.switch, "balancer"),
        (&lab.switch, server.name.as_str()),
        (&server.netns, "eth0"),
    ];
    for (netns, interface) in ends {
        // Without it a veth has no receiver of its own.
        netns.offload(interface, &["gro", "on"])?;
        let script = format!("echo 1 > /sys/class/net/{interface}/threaded");
        // It mounts the namespace's own `/sys`.
        run(tool("ip").args(["netns", "exec", netns.name(), "sh", "-c", &script]), PATIENCE)?;
    }
    Ok(())
}

fn are_up(lab: &Lab, count: u16) -> bool {
    let list = lab.json(&["backend", "list"]).unwrap_or_default();
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.len() == usize::from(count)
        && list.iter().all(|backend| backend["health"] == "up" && backend["latency_us"].is_u64())
}

/// TCP connections opened in the balancer's namespace so far: `ActiveOpens` of
/// RFC 4022.
fn connections(lab: &Lab) -> Result<u64> {
    let text = lab.balancer.within(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs.find(|(name, _)| *name == "ActiveOpens").context("no `ActiveOpens`")?.1;
    Ok(value.parse()?)
}

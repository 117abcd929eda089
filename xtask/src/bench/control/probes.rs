//! What it takes to probe 1,000 backends every second.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{Lab, eventually, fleet};

use super::{
    Effort, change,
    process::Usage,
    report::{Report, Unit::Percent},
};
use crate::bench::os::go_on;

/// Services, and backends of each.
const SERVICES: u16 = 100;
/// See [`SERVICES`].
const BACKENDS: u16 = 10;
/// How long all may take to be found up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Watches the agent while it probes backends that are all up.
pub(super) fn measure(lab: &Lab, kind: &str, effort: Effort, report: &mut Report) -> Result<()> {
    let count = SERVICES * BACKENDS;
    eprintln!("control: {count} {kind} probes a second");
    let path = if kind == "http" { "path = \"/1k\"\n" } else { "" };
    let health = format!("[service.health]\nkind = \"{kind}\"\ninterval = \"1s\"\n{path}");
    let agent = lab.start_agent(&lab.config(fleet(SERVICES, BACKENDS, &health)))?;
    let up = eventually(PATIENCE, || are_up(lab, count));
    ensure!(up, "not all backends are up: {}", agent.log());

    let (mut users, mut totals) = (Vec::new(), Vec::new());
    let mut opened = connections(lab)?;
    for _ in 0..effort.seconds / SPAN.as_secs() as u32 {
        let (begin, before) = (Instant::now(), Usage::of(agent.id())?);
        go_on()?;
        thread::sleep(SPAN);
        let used = Usage::of(agent.id())?.since(before);
        let share = |time: Duration| 100.0 * time.as_secs_f64() / begin.elapsed().as_secs_f64();
        users.push(share(used.user));
        totals.push(share(used.user + used.system));
        let now = connections(lab)?;
        let rate = (now - opened) as f64 / begin.elapsed().as_secs_f64();
        opened = now;
        ensure!((rate / f64::from(count) - 1.0).abs() < 0.1, "{rate:.0} probes a second");
    }
    let what = format!("{count} {kind} probes a second, share of a core");
    report.add(format!("{what}, the agent's own code"), Percent, users, None);
    report.add(format!("{what}, with the kernel's"), Percent, totals, Some(10.0));
    change::stop(lab, agent)
}

/// Time between two looks: ticks of 10 ms are a thousandth of it.
const SPAN: Duration = Duration::from_secs(5);

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

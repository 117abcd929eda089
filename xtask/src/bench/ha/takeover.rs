//! How long nobody serves when a node ends in good order, and when it dies: lb,
//! and keepalived at the same interval, in labs of the same kind and by turns.

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::harness::{
    Agent, Keepalived, Load, Mode, NAT_V4, PairLab, Prober, Protocol, Service, ask_udp, eventually,
    source_addresses,
};

use super::{Effort, PATIENCE, milliseconds, settle};
use crate::bench::{
    figures::{
        Report,
        Unit::{Milliseconds, Number},
    },
    median,
    os::go_on,
};

/// Time between two heartbeats, or adverts.
const INTERVAL: Duration = Duration::from_millis(50);
/// Port of a service.
const ECHO: u16 = 7;
/// See [`ECHO`].
const WEB: u16 = 80;
/// Answers after which service counts as going on.
const ENOUGH: usize = 200;
/// What a death may cost at most, in milliseconds; and an end in good order.
const DEATH: f64 = 200.0;
const END: Option<f64> = Some(20.0);
/// How long wrk runs, and when the node dies meanwhile.
const LOAD: Duration = Duration::from_secs(6);
const LATER: Duration = Duration::from_secs(2);

/// Milliseconds without service, by contender.
#[derive(Default)]
struct Gaps {
    end: Vec<f64>,
    death: Vec<f64>,
}

/// Measures both contenders by turns.
pub(super) fn measure(binary: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let (mut ours, mut theirs) = (Gaps::default(), Gaps::default());
    for round in 1..=effort.takeovers {
        go_on()?;
        eprintln!("ha: takeovers, round {round} of {}", effort.takeovers);
        // It matters when after a heartbeat a node dies: all moments are as frequent.
        let moment = INTERVAL * round as u32 / effort.takeovers as u32;
        lb(binary, moment, &mut ours)?;
        go_on()?;
        keepalived(binary, moment, &mut theirs)?;
    }
    let limit = DEATH.min(median(&mut theirs.death));
    report.add("a node dies, nobody serves: lb", Milliseconds, ours.death, Some(limit));
    report.add("a node dies, nobody serves: keepalived", Milliseconds, theirs.death, None);
    report.add("a node ends, nobody serves: lb", Milliseconds, ours.end, END);
    report.add("a node ends, nobody serves: keepalived", Milliseconds, theirs.end, None);
    eprintln!("ha: a node dies under wrk");
    let errors = under_load(binary)?;
    report.add("a node dies under wrk: errors", Number, vec![errors], Some(0.0));
    Ok(())
}

/// Node 0 ends and returns, then node 1 dies, a `moment` later.
fn lb(binary: &Path, moment: Duration, gaps: &mut Gaps) -> Result<()> {
    let pair = lab(binary)?;
    let start = |node: usize| pair.nodes[node].start_agent(&pair.config(node, services(&pair)));
    let [first, second] = [start(0)?, start(1)?];
    settle(&pair.nodes[0], &pair.nodes[1])?;
    gaps.end.push(gap(&pair, || {
        let status = first.terminate()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    })?);
    let _first = start(0)?;
    settle(&pair.nodes[1], &pair.nodes[0])?;
    gaps.death.push(gap(&pair, || {
        thread::sleep(moment);
        die(&pair, second)
    })?);
    Ok(())
}

/// The same. Beside it the balancers run, as those of no pair.
fn keepalived(binary: &Path, moment: Duration, gaps: &mut Gaps) -> Result<()> {
    let pair = lab(binary)?;
    let agent =
        |node: usize| pair.nodes[node].start_agent(&pair.lone_config(node, services(&pair)));
    let _agents = [agent(0)?, agent(1)?];
    let start = |node| Keepalived::start(&pair, node, INTERVAL);
    let first = start(0)?;
    answers(&pair)?;
    let second = start(1)?;
    gaps.end.push(gap(&pair, || {
        // By SIGTERM.
        drop(first);
        Ok(())
    })?);
    let _first = start(0)?;
    gaps.death.push(gap(&pair, || {
        thread::sleep(moment);
        second.kill()?;
        Ok(pair.unplug(1)?)
    })?);
    Ok(())
}

/// wrk's errors while node 0 dies.
fn under_load(binary: &Path) -> Result<f64> {
    let pair = lab(binary)?;
    let start = |node: usize| pair.nodes[node].start_agent(&pair.config(node, services(&pair)));
    let [first, _second] = [start(0)?, start(1)?];
    settle(&pair.nodes[0], &pair.nodes[1])?;
    let load = Load { duration: LOAD, ..Load::new(format!("http://{NAT_V4}:{WEB}/1k")) };
    let load = load.start(&pair.client)?;
    thread::sleep(LATER);
    first.kill()?;
    pair.unplug(0)?;
    let report = load.report()?;
    ensure!(report.requests > 0, "wrk had no answer:\n{}", report.text);
    Ok((report.socket_errors + report.bad_answers) as f64)
}

fn die(pair: &PairLab, agent: Agent) -> Result<()> {
    agent.kill()?;
    Ok(pair.unplug(1)?)
}

pub(super) fn lab(binary: &Path) -> Result<PairLab> {
    let pair = PairLab::new(1)?.with_binary(binary);
    pair.make_key()?;
    Ok(pair)
}

pub(super) fn services(pair: &PairLab) -> [Service; 2] {
    [(Protocol::Udp, ECHO), (Protocol::Tcp, WEB)].map(|(protocol, port)| {
        Service::new(NAT_V4, protocol, port, Mode::Nat).with(&pair.backends)
    })
}

/// Waits until somebody serves.
fn answers(pair: &PairLab) -> Result<()> {
    let asks = || ask_udp(&pair.client, (NAT_V4, ECHO).into(), "hello").is_ok();
    ensure!(eventually(PATIENCE, asks), "nobody serves");
    Ok(())
}

/// The longest time without an answer while something happens, in milliseconds.
pub(super) fn gap(pair: &PairLab, event: impl FnOnce() -> Result<()>) -> Result<f64> {
    let prober = Prober::start(&pair.client, source_addresses(true)[0], (NAT_V4, ECHO).into())?;
    let goes_on = || {
        let enough = prober.answers() + ENOUGH;
        ensure!(eventually(PATIENCE, || prober.answers() >= enough), "nobody serves");
        Ok(())
    };
    goes_on()?;
    event()?;
    goes_on()?;
    Ok(milliseconds(prober.stop()?.gap))
}

//! How soon, and at what cost, the standby knows the flows of who serves.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{
    Agent, Config, DSR_V4, Mode, PairLab, Protocol, Service, processor_time, run,
};

use super::{
    Effort, PATIENCE,
    load::{PORT, QUIET, Source},
    milliseconds, packet, settle,
    table::Table,
};
use crate::bench::{
    figures::{
        Report,
        Unit::{Milliseconds, Number, Percent},
    },
    os::go_on,
};

/// Backends of each service.
const BACKENDS: usize = 2;
/// `ha.heartbeat`: long, since nobody is to take over here, however busy the
/// machine is.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// `node.flows`.
const RATED: u32 = 1_000_000;
/// Flows that a joiner is told.
const ALL: u32 = 1_000_000;
/// New flows each second, and those sent at once.
const RATE: u32 = 20_000;
const BATCH: u32 = 128;
/// Between two looks at the standby's table.
const LOOK: Duration = Duration::from_micros(500);
/// Length of a span without new flows.
const IDLE: Duration = Duration::from_secs(5);
/// What 99 of 100 flows are to be known after, in milliseconds.
const LAG: Option<f64> = Some(50.0);
/// What flow sync may cost an agent, in hundredths of a core.
const SHARE: Option<f64> = Some(25.0);
/// What a joiner is to know all flows after, in milliseconds.
const JOIN: Option<f64> = Some(5000.0);
/// Of what is lost.
const NONE: Option<f64> = Some(0.0);

/// The VIP in the pair's group.
pub(super) const OF_PAIR: IpAddr = DSR_V4;
/// A VIP in no group.
pub(super) const ALONE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 30));

/// Measures it in a lab of its own.
pub(super) fn measure(
    object: &[u8],
    binary: &Path,
    effort: Effort,
    report: &mut Report,
) -> Result<()> {
    let pair = PairLab::new(BACKENDS)?.with_binary(binary);
    pair.make_key()?;
    let bench = Bench { pair: &pair, object, effort };
    pair.nodes[0].netns.within(|| bench.measure(report))?
}

struct Bench<'a> {
    pair: &'a PairLab,
    object: &'a [u8],
    effort: Effort,
}

impl Bench<'_> {
    /// To be called in the namespace of node 0, which is the one that serves.
    fn measure(&self, report: &mut Report) -> Result<()> {
        self.pair.nodes[0].netns.ip(&format!("link add {QUIET} type veth peer name {QUIET}p"))?;
        eprintln!("ha: {RATE} new flows a second without a peer");
        let alone = self.alone()?;
        let agents = [self.start(0)?, self.start(1)?];
        let [first, second] = &self.pair.nodes;
        settle(first, second)?;
        let mut source = self.source()?;
        source.wait(&[OF_PAIR, ALONE])?;
        eprintln!("ha: nothing happens");
        let idle = shares(&agents, || {
            thread::sleep(IDLE);
            Ok(())
        })?;
        report.add("no new flows, share of a core: active", Percent, vec![idle[0]], None);
        report.add("no new flows, share of a core: standby", Percent, vec![idle[1]], None);
        self.spans(&mut source, &agents, alone, report)?;
        eprintln!("ha: packets");
        packet::measure(&mut source, &mut self.table(0)?, self.effort, report)?;
        let [_first, second] = agents;
        self.joiners(&mut source, second, report)
    }

    /// What an agent without a peer takes, in hundredths of a core.
    fn alone(&self) -> Result<f64> {
        let agent = self.pair.nodes[0].start_agent(&self.config(0, false))?;
        let mut source = self.source()?;
        source.wait(&[OF_PAIR])?;
        let share = shares([&agent], || pour(&mut source, 0..self.flows(), None).map(drop))?;
        self.stop(0, agent)?;
        Ok(share[0])
    }

    /// New flows at a steady rate: their ages until the standby knows them.
    fn spans(
        &self,
        source: &mut Source,
        agents: &[Agent; 2],
        alone: f64,
        report: &mut Report,
    ) -> Result<()> {
        let tables = [self.table(0)?, self.table(1)?];
        let (mut middle, mut late, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        let mut rates = Vec::new();
        let mut costs = [Vec::new(), Vec::new()];
        for span in 0..self.effort.spans as u32 {
            eprintln!("ha: {RATE} new flows a second, {} of {}", span + 1, self.effort.spans);
            let flows = span * self.flows()..(span + 1) * self.flows();
            let mut poured = Poured::default();
            let shares = shares(agents, || {
                poured = pour(source, flows.clone(), Some(&tables[1]))?;
                Ok(())
            })?;
            let Poured { mut ages, rate } = poured;
            rates.push(rate);
            ages.sort_by(f64::total_cmp);
            middle.push(ages[ages.len() / 2]);
            late.push(ages[ages.len() * 99 / 100]);
            lost.push(differing(&tables, flows)?);
            costs.iter_mut().zip(shares).for_each(|(all, share)| all.push(share - alone));
        }
        let rate = "20,000 new flows a second";
        report.add(format!("{rate}, so many were made"), Number, rates, None);
        report.add(format!("{rate}, until the standby knows: half"), Milliseconds, middle, None);
        report.add(format!("{rate}, until the standby knows: 99 %"), Milliseconds, late, LAG);
        report.add(format!("{rate}, unlike at the standby at the end"), Number, lost, NONE);
        let [active, standby] = costs;
        report.add(format!("{rate}, more of a core: active"), Percent, active, SHARE);
        report.add(format!("{rate}, more of a core: standby"), Percent, standby, SHARE);
        Ok(())
    }

    /// A standby that knows nothing starts beside a node with many flows.
    fn joiners(&self, source: &mut Source, agent: Agent, report: &mut Report) -> Result<()> {
        let [first, second] = &self.pair.nodes;
        self.table(0)?.clear();
        source.establish(OF_PAIR, 0..ALL)?;
        let (mut agent, mut times, mut lost) = (Some(agent), Vec::new(), Vec::new());
        for span in 1..=self.effort.spans {
            go_on()?;
            eprintln!("ha: a node joins, {span} of {}", self.effort.spans);
            agent.take().map(|agent| self.stop(1, agent)).transpose()?;
            let begin = Instant::now();
            agent = Some(self.start(1)?);
            settle(first, second)?;
            times.push(milliseconds(begin.elapsed()));
            lost.push(differing(&[self.table(0)?, self.table(1)?], 0..ALL)?);
        }
        let all = "1,000,000 flows told to who joins";
        report.add(format!("{all}, from its start"), Milliseconds, times, JOIN);
        report.add(format!("{all}, unlike there at the end"), Number, lost, NONE);
        Ok(())
    }

    fn config(&self, node: usize, paired: bool) -> Config {
        let service = |vip| {
            let service = Service::new(vip, Protocol::Tcp, PORT, Mode::Dsr);
            service.with(&self.pair.backends)
        };
        let services = [OF_PAIR, ALONE].map(service);
        let pair = self.pair;
        let mut config =
            if paired { pair.config(node, services) } else { pair.lone_config(node, services) };
        config.flows = RATED;
        if let Some(ha) = &mut config.ha {
            ha.heartbeat = HEARTBEAT;
        }
        config
    }

    fn start(&self, node: usize) -> Result<Agent> {
        Ok(self.pair.nodes[node].start_agent(&self.config(node, true))?)
    }

    /// Ends an agent and its data plane.
    fn stop(&self, node: usize, agent: Agent) -> Result<()> {
        let status = agent.terminate()?;
        ensure!(status.success(), "the agent ended with {status}");
        let mut detach = self.pair.nodes[node].lb();
        run(detach.args(["detach", "--pin-dir"]).arg(self.pins(node)), PATIENCE)?;
        Ok(())
    }

    fn pins(&self, node: usize) -> PathBuf {
        self.pair.lone_config(node, []).pin_dir
    }

    fn source(&self) -> Result<Source> {
        let node = &self.pair.nodes[0];
        Source::to(node, &self.pair.router, &self.pins(0), self.object)
    }

    /// What a node knows of the flows of [`OF_PAIR`].
    fn table(&self, node: usize) -> Result<Table> {
        let table = Table::of(&self.pins(node), OF_PAIR);
        table.with_context(|| format!("node {node}"))
    }

    /// Flows of a span: whole batches.
    fn flows(&self) -> u32 {
        self.effort.length.as_secs() as u32 * RATE / BATCH * BATCH
    }
}

/// Flows that were made at a steady rate.
#[derive(Default)]
struct Poured {
    /// How long each took from its second packet until it was in the standby's table,
    /// in milliseconds; infinite where it never was.
    ages: Vec<f64>,
    /// Flows a second.
    rate: f64,
}

/// Establishes flows of [`OF_PAIR`] at a steady rate, and looks for them in the table
/// of the `standby`.
fn pour(source: &mut Source, flows: Range<u32>, standby: Option<&Table>) -> Result<Poured> {
    let begin = Instant::now();
    let due = |flow: u32| begin + Duration::from_secs(1) * (flow - flows.start) / RATE;
    let (mut next, mut awaited, mut ages) = (flows.start, Vec::new(), Vec::new());
    let mut rate = 0.0;
    while next < flows.end || !awaited.is_empty() && Instant::now() < due(flows.end) + PATIENCE {
        go_on()?;
        if next < flows.end && Instant::now() >= due(next) {
            let batch = next..next + BATCH;
            next = batch.end;
            source.establish(OF_PAIR, batch.clone())?;
            let sent = Instant::now();
            rate = f64::from(next - flows.start) / (sent - begin).as_secs_f64();
            awaited.extend(batch.filter(|_| standby.is_some()).map(|flow| (flow, sent)));
        }
        awaited.retain(|&(flow, sent)| {
            let known = standby.is_some_and(|table| table.backend(flow).is_some());
            ages.extend(known.then(|| milliseconds(sent.elapsed())));
            !known
        });
        thread::sleep(LOOK);
    }
    ages.extend(awaited.iter().map(|_| f64::INFINITY));
    Ok(Poured { ages, rate })
}

/// Flows of the first table that the second has not, or at another backend.
fn differing(tables: &[Table; 2], flows: Range<u32>) -> Result<f64> {
    let all = flows.len();
    let [first, second] = tables;
    let recorded: Vec<_> =
        flows.filter_map(|flow| Some((first.backend(flow)?, second.backend(flow)))).collect();
    // Of a full table some buckets have no room.
    ensure!(recorded.len() + all / 1000 >= all, "{} of {all} flows recorded", recorded.len());
    let differ = recorded.iter().filter(|(backend, there)| *there != Some(*backend));
    Ok(differ.count() as f64)
}

/// What agents take while something goes on, in hundredths of a core each.
fn shares<'a>(
    agents: impl IntoIterator<Item = &'a Agent>,
    work: impl FnOnce() -> Result<()>,
) -> Result<Vec<f64>> {
    let ids: Vec<_> = agents.into_iter().map(Agent::id).collect();
    let spent = || ids.iter().map(|&id| Ok(processor_time(id)?)).collect::<Result<Vec<_>>>();
    let (begin, before) = (Instant::now(), spent()?);
    work()?;
    let (after, length) = (spent()?, begin.elapsed());
    let share =
        |(after, before): (Duration, Duration)| 100.0 * (after - before).div_duration_f64(length);
    Ok(after.into_iter().zip(before).map(share).collect())
}

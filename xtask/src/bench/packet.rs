//! Nanoseconds per packet, by `BPF_PROG_TEST_RUN`.
//!
//! The driver (an XDP program) writes the frame of the next flow and
//! tail-calls the program that is measured; its own cost, taken with a program
//! that does nothing, is subtracted. Rows are measured in turn, round after
//! round, so that whatever else the machine does meets them all; a row's
//! figure is the least over the rounds. Costs depend on the machine: what is
//! to be compared are ratios to the baselines of the same run.

mod report;
mod rows;
mod subject;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use lb_tests::harness::{Lab, Mode, eventually};

use self::{
    rows::{COLUMNS, ROWS, Row, verdict},
    subject::{Ingress, Subject},
};
use super::{
    baseline::Lru,
    driver::{Driver, Stream, expect_verdict},
    frame::Macs,
    os::{go_on, stay_on_this_cpu},
};

pub(super) use self::report::Report;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How often every row is measured.
    pub(super) rounds: u32,
    /// Measurements of a row per round.
    pub(super) repeats: u32,
    /// Packets of one measurement.
    pub(super) packets: u32,
    /// Packets that fill the tables before a flood is measured.
    pub(super) flood: u32,
}

impl Effort {
    /// For figures to publish.
    pub(super) const FULL: Self =
        Self { rounds: 5, repeats: 3, packets: 1_000_000, flood: 4 * subject::FLOWS };
    /// For a look.
    pub(super) const QUICK: Self =
        Self { rounds: 2, repeats: 2, packets: 300_000, flood: subject::FLOWS };
}

/// One figure to be measured.
struct Cell {
    row: Row,
    flows: Option<u32>,
    stream: Stream,
    samples: Vec<Sample>,
    /// Of the other build, each beside one of `samples`.
    others: Vec<Sample>,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy)]
struct Sample {
    /// Of the driver alone.
    idle: f64,
    /// Of the driver and the program measured.
    total: f64,
}

/// Measures the baselines only; needs no balancer.
pub(super) fn baselines(object: &[u8], effort: Effort) -> Result<Report> {
    let loopback = Ingress { ifindex: 1, macs: Macs { to: [2, 0, 0, 0, 0, 1], from: [2; 6] } };
    Bench::new(object, effort, &loopback, None)?.measure()
}

/// What of the balancer is measured.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    /// Rows whose names contain this.
    pub(super) rows: &'a str,
    /// Another build, by turns.
    pub(super) against: Option<&'a Path>,
}

/// Measures the baselines and the balancer.
pub(super) fn run(
    object: &[u8],
    binary: &Path,
    choice: Choice<'_>,
    effort: Effort,
) -> Result<Report> {
    let lab = subject::lab()?;
    let other = choice.against.map(Other::start).transpose()?;
    let measure = || -> Result<Report> {
        let ingress = Ingress::of(&lab)?;
        let subject = Subject::start(&lab, binary, &MODES)?;
        let mut bench = Bench::new(object, effort, &ingress, Some(subject))?;
        bench.other = other;
        let chosen = |row: Row| row.is_baseline() || row.name().contains(choice.rows);
        bench.cells.retain(|cell| chosen(cell.row));
        bench.measure()
    };
    lab.balancer.within(measure)?
}

/// Modes that are measured.
const MODES: [Mode; 4] = [Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue];

/// Another build of the balancer, in a lab of its own.
struct Other {
    subject: Subject,
    lab: Lab,
    /// Modes that it knows.
    modes: Vec<Mode>,
}

impl Other {
    fn start(binary: &Path) -> Result<Self> {
        let lab = subject::lab()?;
        let start = |modes: &[Mode]| Subject::start(&lab, binary, modes);
        let (subject, modes) = match start(&MODES) {
            Ok(subject) => (subject, MODES.to_vec()),
            // It may be older than the others.
            Err(_) => (start(&MODES[..2])?, MODES[..2].to_vec()),
        };
        Ok(Self { subject, lab, modes })
    }

    /// Whether it does what a row measures.
    fn knows(&self, row: Row) -> bool {
        match row {
            Row::Lookup | Row::Insert => false,
            Row::Established { mode, .. } => self.modes.contains(&mode),
            _ => true,
        }
    }
}

struct Bench {
    effort: Effort,
    driver: Driver,
    lookups: Vec<(u32, Lru)>,
    insert: Lru,
    subject: Option<Subject>,
    other: Option<Other>,
    cells: Vec<Cell>,
}

impl Bench {
    fn new(
        object: &[u8],
        effort: Effort,
        ingress: &Ingress,
        subject: Option<Subject>,
    ) -> Result<Self> {
        stay_on_this_cpu()?;
        let macs = ingress.macs;
        let mut driver = Driver::load(object, ingress.ifindex)?;
        let mut lookups = Vec::new();
        for flows in COLUMNS {
            let stream = Row::Lookup.stream(macs, Some(flows));
            lookups.push((flows, Lru::of_flows(object, &mut driver, &stream)?));
        }
        let insert = Lru::full(object, &mut driver, &Row::Insert.stream(macs, None))?;
        let cells = ROWS
            .into_iter()
            .filter(|row| row.is_baseline() || subject.is_some())
            .flat_map(|row| {
                let columns =
                    if row.has_columns() { COLUMNS.map(Some).to_vec() } else { vec![None] };
                columns.into_iter().map(move |flows| (row, flows))
            })
            .map(|(row, flows)| Cell {
                row,
                flows,
                stream: row.stream(macs, flows),
                samples: Vec::new(),
                others: Vec::new(),
            })
            .collect();
        Ok(Self { effort, driver, lookups, insert, subject, other: None, cells })
    }

    fn measure(mut self) -> Result<Report> {
        let mut cells = std::mem::take(&mut self.cells);
        for cell in &cells {
            self.driver.check(&cell.stream)?;
        }
        for cell in cells.iter().filter(|cell| !cell.row.is_baseline()) {
            self.check(cell).with_context(|| format!("before measuring `{}`", cell.row.name()))?;
        }
        for round in 1..=self.effort.rounds {
            eprintln!("packet: round {round} of {}", self.effort.rounds);
            for cell in &mut cells {
                go_on()?;
                self.sample(cell).with_context(|| format!("measure `{}`", cell.row.name()))?;
            }
        }
        for lru in self.lookups.iter().map(|(_, lru)| lru).chain([&self.insert]) {
            lru.check()?;
        }
        Ok(Report::of(&cells))
    }

    /// Sends a few packets and looks what becomes of them: next hops may not be
    /// known at first.
    fn check(&mut self, cell: &Cell) -> Result<()> {
        const PACKETS: u32 = 1_000;
        let program = self.program(cell)?;
        let mut seen = u32::MAX;
        let mut failure = Ok(());
        let _ = eventually(Duration::from_secs(5), || {
            match self.driver.run(&cell.stream, &program, 1) {
                Ok(run) => seen = run.verdict,
                Err(error) => failure = Err(error),
            }
            failure.is_err() || seen == cell.row.verdict()
        });
        failure?;
        expect_verdict(&cell.row.name(), seen, cell.row.verdict())?;
        self.counted(cell, |bench| {
            bench.driver.run(&cell.stream, &program, PACKETS).map(|_| PACKETS.into())
        })
    }

    /// Runs `work`, which returns how many packets it sent, and fails unless
    /// just these were forwarded (or none, for packets that are not ours). One
    /// in ten thousand is neither here nor there.
    fn counted(&mut self, cell: &Cell, work: impl FnOnce(&mut Self) -> Result<u64>) -> Result<()> {
        let Some(pins) = self.subject.as_ref().map(|subject| subject.pins.clone()) else {
            return work(self).map(drop);
        };
        let forwarded = || pins.traffic().map(|traffic| traffic.packets + traffic.replies);
        let before = forwarded()?;
        let sent = work(self)?;
        let expected = if cell.row.verdict() == verdict::TX { sent } else { 0 };
        let seen = forwarded()? - before;
        ensure!(
            seen.abs_diff(expected) <= expected / 10_000,
            "{seen} of {sent} packets forwarded, expected {expected}; counters: {:?}",
            pins.counters()?
        );
        Ok(())
    }

    fn sample(&mut self, cell: &mut Cell) -> Result<()> {
        let program = self.program(cell)?;
        let Effort { repeats, packets, .. } = self.effort;
        let (mut samples, mut others) = (Vec::new(), Vec::new());
        if cell.row.is_baseline() {
            (samples, others) = self.timed(cell, &program, repeats, packets)?;
        } else {
            let cell = &*cell;
            self.counted(cell, |bench| {
                let warmed = bench.warm(cell, &program)?;
                (samples, others) = bench.timed(cell, &program, repeats, packets)?;
                Ok(warmed + u64::from(repeats) * u64::from(packets))
            })?;
        }
        cell.samples.append(&mut samples);
        cell.others.append(&mut others);
        Ok(())
    }

    /// Samples, and those of the other build that were taken beside them.
    fn timed(
        &mut self,
        cell: &Cell,
        program: &ProgramFd,
        repeats: u32,
        packets: u32,
    ) -> Result<(Vec<Sample>, Vec<Sample>)> {
        let (mut samples, mut others) = (Vec::new(), Vec::new());
        let verdict = cell.row.verdict();
        for _ in 0..repeats {
            let idle = self.driver.idle(&cell.stream, packets)?.ns;
            let run = self.driver.run(&cell.stream, program, packets)?;
            expect_verdict(&cell.row.name(), run.verdict, verdict)?;
            samples.push(Sample { idle, total: run.ns });
            if let Some(other) = self.other.as_ref().filter(|other| other.knows(cell.row)) {
                let (driver, program) = (&mut self.driver, other.subject.program.try_clone()?);
                let run = || driver.run(&cell.stream, &program, packets);
                let run = other.lab.balancer.within(run)??;
                expect_verdict(&cell.row.name(), run.verdict, verdict)?;
                others.push(Sample { idle, total: run.ns });
            }
        }
        Ok((samples, others))
    }

    /// Makes the tables what they are to be; returns how many packets it sent to the
    /// balancer.
    fn warm(&mut self, cell: &Cell, program: &ProgramFd) -> Result<u64> {
        let Self { driver, effort, subject, other, .. } = self;
        let mut warm = |subject: &mut Subject, program: &ProgramFd| {
            subject.forget_flows();
            match cell.row {
                Row::Established { .. } | Row::Reply => {
                    // A flow is established by its second packet.
                    for _ in 0..2 {
                        driver.visit_all(&cell.stream, program)?;
                    }
                    Ok(2 * u64::from(cell.stream.flows))
                }
                Row::Flood(_) => {
                    // The longer it goes on the less room is left.
                    driver.run(&cell.stream, program, effort.flood)?;
                    Ok(effort.flood.into())
                }
                _ => Ok(0),
            }
        };
        if let Some(other) = other.as_mut().filter(|other| other.knows(cell.row)) {
            let program = other.subject.program.try_clone()?;
            let Other { subject, lab, .. } = other;
            lab.balancer.within(|| warm(subject, &program))??;
        }
        subject.as_mut().map_or(Ok(0), |subject| warm(subject, program))
    }

    fn program(&self, cell: &Cell) -> Result<ProgramFd> {
        let program = match (cell.row, &self.subject) {
            (Row::Insert, _) => &self.insert.insert,
            (Row::Lookup, _) => {
                let lru = self.lookups.iter().find(|&&(flows, _)| Some(flows) == cell.flows);
                &lru.context("no such column")?.1.lookup
            }
            (_, subject) => &subject.as_ref().context("no balancer runs")?.program,
        };
        Ok(program.try_clone()?)
    }
}

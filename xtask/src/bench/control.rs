//! What the control plane takes: time until a change is in the data plane,
//! memory, and the cost of probes. The agent runs as ever, in a lab whose one
//! server answers at all addresses of the backends.

mod change;
mod maglev;
mod probes;
mod published;

use std::path::Path;

use anyhow::Result;
use lb_tests::harness::Lab;

use super::figures::Report;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Agents started from cold.
    starts: usize,
    /// Changes of each kind.
    changes: usize,
    /// Maglev tables built.
    tables: usize,
    /// Spans of five seconds for which probes are watched.
    spans: usize,
}

impl Effort {
    /// For figures to publish.
    pub(super) const FULL: Self = Self { starts: 5, changes: 40, tables: 100, spans: 6 };
    /// For a look.
    pub(super) const QUICK: Self = Self { starts: 2, changes: 10, tables: 20, spans: 2 };
}

/// Measures all of it; `maglev` is the program that builds tables.
pub(super) fn run(binary: &Path, maglev: &Path, effort: Effort) -> Result<Report> {
    let lab = Lab::new(1)?.with_binary(binary);
    lab.answer_for_fleet()?;
    let mut report = Report::of("control plane");
    eprintln!("control: Maglev tables");
    maglev::measure(maglev, effort, &mut report)?;
    change::small(&lab, binary, effort, &mut report)?;
    change::large(&lab, binary, effort, &mut report)?;
    probes::measure(&lab, effort, &mut report)?;
    Ok(report)
}

//! What two balancers take to stand in for each other: how soon the standby
//! knows a flow, what that costs, and how long nobody serves when a node dies or
//! ends, side by side with keepalived.

mod faults;
mod load;
mod packet;
mod sync;
mod table;
mod takeover;

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::harness::{Node, eventually};

use super::figures::Report;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How often a node ends and another one dies, under each contender.
    takeovers: usize,
    /// Spans of new flows, and of packets; joiners that are told all.
    spans: usize,
    /// Length of a span of new flows.
    length: Duration,
    /// Packets of one measurement.
    packets: u32,
}

impl Effort {
    /// For figures to publish.
    pub(super) const FULL: Self =
        Self { takeovers: 5, spans: 3, length: Duration::from_secs(10), packets: 1_000_000 };
    /// For a look.
    pub(super) const QUICK: Self =
        Self { takeovers: 1, spans: 1, length: Duration::from_secs(3), packets: 300_000 };
}

/// How long nodes may take to agree.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pair's one group.
const GROUP: &str = "all";

/// Measures all of it.
pub(super) fn run(object: &[u8], binary: &Path, effort: Effort) -> Result<Report> {
    let mut report = Report::of("two balancers");
    sync::measure(object, binary, effort, &mut report)?;
    takeover::measure(binary, effort, &mut report)?;
    faults::measure(binary, effort, &mut report)?;
    Ok(report)
}

/// Waits until `active` serves and `standby` knows all its flows.
fn settle(active: &Node, standby: &Node) -> Result<()> {
    let serves = || active.groups_by("role").is_ok_and(|roles| roles[GROUP] == "active");
    ensure!(eventually(PATIENCE, serves), "{} does not serve", active.name);
    let knows = || {
        let status = standby.json(&["ha", "status"]);
        status.is_ok_and(|status| status["sync"]["heard"]["complete"] == true)
    };
    let told = eventually(PATIENCE, knows);
    let sync = |node: &Node| node.json(&["ha", "status"]).map(|status| status["sync"].clone());
    ensure!(told, "{} is not told all flows: {}, {}", standby.name, sync(active)?, sync(standby)?);
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

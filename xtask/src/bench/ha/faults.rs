//! How long nobody serves when the node that serves is there, but stands still, is not
//! heard any more, or is cut off from peer and witness.

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::harness::{Network, PairLab, eventually};

use super::{
    Effort, PATIENCE, settle,
    takeover::{gap, lab, services},
};
use crate::bench::{
    figures::{Report, Unit::Milliseconds},
    os::go_on,
};

/// How long a witness gives no vote after its start.
const QUIET: Duration = Duration::from_secs(10);
/// What each may cost at most, in milliseconds: as much as a death; with a witness its
/// votes have to end before.
const ALONE: Option<f64> = Some(200.0);
const WITH_WITNESS: Option<f64> = Some(500.0);

/// Measures each a few times.
pub(super) fn measure(binary: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let (mut frozen, mut unheard, mut cut_off) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=effort.takeovers {
        eprintln!("ha: faults, round {round} of {}", effort.takeovers);
        go_on()?;
        alone(binary, &mut frozen, &mut unheard)?;
        go_on()?;
        cut_off.push(with_witness(binary)?);
    }
    report.add("a node stands still, nobody serves", Milliseconds, frozen, ALONE);
    report.add("a node is not heard, nobody serves", Milliseconds, unheard, ALONE);
    let what = "a node is cut off from peer and witness, nobody serves";
    report.add(what, Milliseconds, cut_off, WITH_WITNESS);
    Ok(())
}

/// Node 0 stands still, and what node 1 says is lost then.
fn alone(binary: &Path, frozen: &mut Vec<f64>, unheard: &mut Vec<f64>) -> Result<()> {
    let pair = lab(binary)?;
    let start = |node: usize| pair.nodes[node].start_agent(&pair.config(node, services(&pair)));
    let agents = [start(0)?, start(1)?];
    settle(&pair.nodes[0], &pair.nodes[1])?;
    frozen.push(gap(&pair, || Ok(agents[0].freeze()?))?);
    agents[0].thaw()?;
    settle(&pair.nodes[1], &pair.nodes[0])?;
    let both = [Network::Front, Network::Back];
    unheard.push(gap(&pair, || Ok(both.into_iter().try_for_each(|one| pair.cut(one, 1))?))?);
    Ok(())
}

fn with_witness(binary: &Path) -> Result<f64> {
    let pair = lab(binary)?;
    let start = |node: usize| {
        let mut config = pair.config(node, services(&pair));
        if let Some(ha) = &mut config.ha {
            ha.witness = Some(PairLab::witness_address());
        }
        pair.nodes[node].start_agent(&config)
    };
    let _witness = pair.start_witness()?;
    let _agents = [start(0)?, start(1)?];
    thread::sleep(QUIET);
    settle(&pair.nodes[0], &pair.nodes[1])?;
    let heard = |node: usize| {
        let status = pair.nodes[node].json(&["ha", "status"]);
        status.is_ok_and(|status| status["witness"]["heard_ms"].is_number())
    };
    ensure!(eventually(PATIENCE, || heard(0) && heard(1)), "the witness is not heard");
    gap(&pair, || {
        pair.cut_witness(0)?;
        Ok(pair.part()?)
    })
}

//! The nodes' clocks count from different moments, as those of two hosts do.

use std::time::Duration;

use lb_tests::harness::{DSR_V4, PairLab, Result};

use super::{ECHO, Pair, assert_kept, nodes};

/// A host that has run for eleven days more.
const AHEAD: Duration = Duration::from_secs(1_000_000);

#[test]
fn leases_are_right_whatever_moment_clocks_count_from() -> Result<()> {
    let mut lab = PairLab::new(2)?;
    lab.nodes[1].shift_clocks(AHEAD)?;
    let pair = Pair::inside(lab, |_| {})?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(DSR_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    // Each in turn ends by its lease alone.
    for (frozen, successor) in [(0, 1), (1, 0)] {
        let agent = pair.agents[frozen].as_ref().expect("it runs");
        agent.freeze()?;
        pair.serves("all", successor);
        pair.goes_on(&offered[successor]);
        agent.thaw()?;
        pair.settles("all", successor);
        pair.is_told(frozen);
    }
    pair.lab.nodes[0].done(&["ha", "failover"])?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b", "lb-a", "lb-b"]);
    assert_kept(&mut flows);
    Ok(())
}

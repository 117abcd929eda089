//! A node dies while it takes over.

use std::{thread::sleep, time::Duration};

use lb_tests::harness::{NAT_V4, Result, eventually};

use super::{ECHO, PATIENCE, Pair};

/// After the death of its peer: before, during and after the takeover, which
/// begins three heartbeats later.
const INSTANTS: [u64; 14] = [0, 100, 130, 140, 145, 150, 155, 160, 165, 170, 180, 200, 250, 400];

#[test]
fn whenever_a_node_dies_that_takes_over_one_serves_then_in_a_term_of_its_own() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    let mut active = 0;
    for instant in INSTANTS {
        pair.goes_on(&offered[active]);
        let term = pair.lab.nodes[active].groups_by("term")?["all"].as_u64();
        pair.agent(active).kill()?;
        sleep(Duration::from_millis(instant));
        let died = pair.agent(1 - active);
        let served = died.log().matches("this node serves ").count();
        died.kill()?;
        pair.start(0)?;
        pair.start(1)?;
        let roles = || [0, 1].map(|node| pair.role(node, "all").unwrap_or_default());
        let one = || {
            let mut roles = roles();
            roles.sort();
            roles == ["active", "standby"]
        };
        assert!(eventually(PATIENCE, one), "after {instant} ms: {}", pair.words());
        active = usize::from(pair.is(1, "all", "active"));
        let next = pair.lab.nodes[active].groups_by("term")?["all"].as_u64();
        // That of the node that died in between was higher by one, if it had any.
        assert!(next > term.map(|term| term + 1), "{term:?}, {next:?}: {}", pair.words());
        println!("killed after {instant} ms, having served {served} times");
    }
    pair.goes_on(&offered[active]);
    drop(offered);
    // Two that served at a time would take hundreds.
    let turns = watch.turns()?;
    assert!(turns.len() <= 1 + 2 * INSTANTS.len(), "{turns:?}");
    Ok(())
}

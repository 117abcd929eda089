//! An agent stands still, and its data plane does not.

use lb_tests::harness::{DSR_V4, NAT_V4, Result};

use super::{ECHO, Pair, assert_kept, nodes};

#[test]
fn a_frozen_node_never_serves_beside_its_successor() -> Result<()> {
    let pair = Pair::new(2)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    let frozen = pair.agents[0].as_ref().expect("it runs");
    frozen.freeze()?;
    pair.serves("all", 1);
    pair.goes_on(&offered[1]);
    assert_kept(&mut flows);
    frozen.thaw()?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    if let [a, b] = turns[..] {
        println!("nobody served for {:?}", b.first - a.last);
    }
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn a_frozen_peer_is_not_said_to_have_taken_over() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    let frozen = pair.agents[1].as_ref().expect("it runs");
    frozen.freeze()?;
    assert!(pair.lab.nodes[0].done(&["ha", "failover", "--force"]).is_err());
    pair.serves("all", 0);
    frozen.thaw()?;
    pair.settles("all", 0);
    Ok(())
}

#[test]
fn a_frozen_standby_is_of_no_consequence() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(DSR_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    let frozen = pair.agents[1].as_ref().expect("it runs");
    frozen.freeze()?;
    pair.goes_on(&offered[0]);
    pair.goes_on(&offered[0]);
    frozen.thaw()?;
    pair.settles("all", 0);
    pair.goes_on(&offered[0]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a"]);
    Ok(())
}

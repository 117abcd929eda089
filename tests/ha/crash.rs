//! A node dies, and returns.

use std::time::Duration;

use lb_tests::harness::{NAT_V4, Result, eventually};

use super::{ECHO, PATIENCE, Pair, VIPS, assert_kept, nodes};

#[test]
fn when_the_active_node_is_gone_the_other_serves_its_flows() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let probers: Vec<_> = VIPS.iter().map(|(vip, _)| pair.prober(*vip)).collect::<Result<_>>()?;
    let watch = pair.lab.watch()?;
    probers.iter().for_each(|prober| pair.goes_on(prober));
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    probers.iter().for_each(|prober| pair.goes_on(prober));
    for (prober, (vip, mode)) in probers.into_iter().zip(VIPS) {
        let probes = prober.stop()?;
        println!("{mode} at {vip}, node gone: {probes:?}");
        assert_eq!(probes.repeated, 0, "{mode} at {vip}");
    }
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn what_an_agent_leaves_behind_serves_no_longer_than_its_lease() -> Result<()> {
    let mut pair = Pair::new(2)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    // The program and its maps stay, and so do the cables.
    pair.agent(0).kill()?;
    pair.serves("all", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    Ok(())
}

#[test]
fn the_death_of_the_standby_is_not_noticed() -> Result<()> {
    let mut pair = Pair::new(2)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let prober = pair.prober(NAT_V4)?;
    pair.agent(1).kill()?;
    pair.lab.unplug(1)?;
    let deaf = || {
        let status = pair.lab.nodes[0].json(&["ha", "status"]);
        status.is_ok_and(|status| status["peer"].is_null())
    };
    assert!(eventually(PATIENCE, deaf), "{}", pair.words());
    pair.goes_on(&prober);
    println!("the standby dies: {:?}", prober.stop()?);
    assert_eq!(watch.turns()?.len(), 1);
    assert_kept(&mut flows);
    Ok(())
}

/// The node that served before returns, and ends up with this one's group.
fn return_of_the_first(preempt: bool, serves: usize) -> Result<()> {
    let mut pair = Pair::with(3, |config| {
        if let Some(ha) = &mut config.ha {
            ha.preempt = preempt;
            // Who starts takes the processors of the other's host, too, here.
            ha.heartbeat = Duration::from_millis(100);
        }
    })?;
    pair.settles("all", 0);
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[1]);
    pair.lab.replug(0)?;
    pair.start(0)?;
    pair.settles("all", serves);
    pair.goes_on(&offered[serves]);
    drop(offered);
    let nodes = nodes(&watch.turns()?);
    let expected: &[&str] = if serves == 0 { &["lb-b", "lb-a"] } else { &["lb-b"] };
    assert_eq!(nodes, expected);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn a_node_that_returns_stands_by() -> Result<()> {
    return_of_the_first(false, 1)
}

#[test]
fn with_preemption_a_node_of_higher_priority_takes_its_group_back() -> Result<()> {
    return_of_the_first(true, 0)
}

#[test]
fn an_agent_that_is_started_again_at_once_costs_no_connection() -> Result<()> {
    let mut pair = Pair::new(2)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let prober = pair.prober(NAT_V4)?;
    pair.agent(0).kill()?;
    pair.start(0)?;
    // Whether that was soon enough to go on serving is a matter of luck.
    let one = || {
        let mut roles = [0, 1].map(|node| pair.role(node, "all"));
        roles.sort();
        roles == ["active", "standby"].map(|role| Some(role.to_owned()))
    };
    assert!(eventually(PATIENCE, one), "{}", pair.words());
    pair.goes_on(&prober);
    let probes = prober.stop()?;
    println!("an agent starts again: {probes:?}");
    assert_eq!(probes.repeated, 0);
    assert_kept(&mut flows);
    Ok(())
}

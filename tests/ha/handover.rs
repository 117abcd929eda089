//! A node hands over because it is told to.

use std::time::Duration;

use lb_tests::harness::{DSR_V4, Group, Load, NAT_V4, PairLab, Result, eventually};

use super::{ECHO, PATIENCE, Pair, assert_kept, nodes};

#[test]
fn an_agent_that_is_told_to_end_hands_over() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let duration = Duration::from_secs(6);
    let load = |close| Load { duration, close, ..Load::new(format!("http://{NAT_V4}/1k")) };
    let loads = [load(false).start(&pair.lab.client)?, load(true).start(&pair.lab.client)?];
    let prober = pair.prober(NAT_V4)?;
    assert!(pair.agent(0).terminate()?.success());
    pair.serves("all", 1);
    pair.goes_on(&prober);
    println!("told to end: {:?}", prober.stop()?);
    for load in loads {
        let report = load.report()?;
        assert!(report.is_clean(), "{}\n{}", report.text, pair.words());
    }
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn failover_by_command_hands_over_and_back() -> Result<()> {
    let pair = Pair::new(3)?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    let prober = pair.prober(NAT_V4)?;
    for (from, to) in [(0, 1), (1, 0)] {
        let term = pair.lab.nodes[from].groups_by("term")?["all"].as_u64();
        pair.lab.nodes[from].done(&["ha", "failover"])?;
        // Who is told that it is done finds it done.
        assert!(pair.is(to, "all", "active"), "{}", pair.words());
        pair.settles("all", to);
        let log = pair.log(from);
        assert!(log.contains("this node serves no more"), "{log}");
        assert!(pair.lab.nodes[to].groups_by("term")?["all"].as_u64() > term);
        pair.goes_on(&offered[to]);
        pair.goes_on(&prober);
        assert_kept(&mut flows);
    }
    println!("handed over by command, twice: {:?}", prober.stop()?);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b", "lb-a"]);
    Ok(())
}

#[test]
fn an_agent_says_at_its_end_what_becomes_of_its_groups() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.agent(0).terminate_saying("the agent ends, the peer serves its groups")?;
    pair.serves("all", 1);
    let alone = || {
        let status = pair.lab.nodes[1].json(&["ha", "status"]);
        status.is_ok_and(|status| status["peer"].is_null())
    };
    assert!(eventually(PATIENCE, alone), "{}", pair.words());
    let shown = pair.lab.nodes[1].done(&["ha", "status"])?.stdout;
    assert!(shown.contains("peer: gone (heard "), "{shown}");
    pair.agent(1).terminate_saying("there is no peer: nobody serves its groups")
}

#[test]
fn who_has_nobody_to_hand_over_to_keeps_serving() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.agent(1).kill()?;
    let noticed = || {
        let status = pair.lab.nodes[0].json(&["ha", "status"]);
        status.is_ok_and(|status| status["peer"].is_null())
    };
    assert!(eventually(PATIENCE, noticed), "{}", pair.words());
    assert!(pair.lab.nodes[0].done(&["ha", "failover"]).is_err());
    assert!(pair.is(0, "all", "active"));
    let prober = pair.prober(NAT_V4)?;
    assert_eq!(prober.stop()?.repeated, 0);
    Ok(())
}

#[test]
fn each_group_is_served_where_it_is_preferred_while_that_node_lives() -> Result<()> {
    let group = |name: &str, node: &str, addresses| Group {
        name: name.into(),
        prefer: Some(node.into()),
        addresses,
    };
    let mut pair = Pair::with(2, |config| {
        if let Some(ha) = &mut config.ha {
            ha.preempt = true;
            ha.groups = vec![
                group("blue", "lb-a", PairLab::nat_addresses()),
                group("green", "lb-b", PairLab::dsr_addresses()),
            ];
        }
    })?;
    pair.settles("blue", 0);
    pair.settles("green", 1);
    let mut flows = pair.open()?;
    let (blue, green) = (pair.prober(NAT_V4)?, pair.prober(DSR_V4)?);
    assert!(pair.agent(0).terminate()?.success());
    pair.serves("blue", 1);
    assert!(pair.is(1, "green", "active"), "{}", pair.words());
    pair.goes_on(&blue);
    pair.goes_on(&green);
    assert_kept(&mut flows);
    pair.start(0)?;
    pair.settles("blue", 0);
    pair.settles("green", 1);
    pair.goes_on(&blue);
    pair.goes_on(&green);
    assert_kept(&mut flows);
    println!("blue, moved twice: {:?}; green: {:?}", blue.stop()?, green.stop()?);
    Ok(())
}

#[test]
fn a_group_is_renamed_on_one_node_after_the_other() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    for config in &mut pair.configs {
        config.ha.as_mut().expect("a pair").groups[0].name = "new".into();
    }
    assert!(pair.agent(1).terminate()?.success());
    pair.start(1)?;
    let told = || pair.log(1).contains("the peer has no group of this name");
    assert!(eventually(PATIENCE, told), "{}", pair.words());
    pair.goes_on(&offered[0]);
    assert!(pair.is(1, "new", "standby"), "{}", pair.words());
    assert!(pair.agent(0).terminate()?.success());
    pair.serves("new", 1);
    pair.goes_on(&offered[1]);
    pair.start(0)?;
    pair.settles("new", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    assert_eq!(nodes(&watch.turns()?), ["lb-a", "lb-b"]);
    Ok(())
}

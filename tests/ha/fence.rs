//! A silent peer is fenced before its groups are taken over.

use std::fs;

use lb_tests::harness::{Error, NAT_V4, Result, eventually};

use super::{ECHO, PATIENCE, Pair, nodes};

#[test]
fn a_node_takes_over_once_the_silent_peer_is_fenced() -> Result<()> {
    // What the script kills: an id that the test writes where the agent's files are.
    let script = "test \"$LB_PAIR\" = lab && kill -KILL $(cat \"$0\")";
    let pair = Pair::with(1, |config| {
        let ha = config.ha.as_mut().expect("a pair");
        let id = ha.key_file.with_file_name("frozen.pid").display().to_string();
        ha.fence = Some(vec!["/bin/sh".into(), "-c".into(), script.into(), id]);
    })?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    let frozen = pair.agents[0].as_ref().expect("it runs");
    frozen.freeze()?;
    let log = || pair.agents[1].as_ref().expect("it runs").log();
    let tried = || log().contains("the peer is not fenced");
    assert!(eventually(PATIENCE, tried), "{}", pair.words());
    assert!(pair.is(1, "all", "standby"), "{}", pair.words());
    let file = pair.lab.path("frozen.pid");
    let failed = Error::io(format!("write `{}`", file.display()));
    fs::write(&file, frozen.id().to_string()).map_err(failed)?;
    pair.serves("all", 1);
    pair.goes_on(&offered[1]);
    let log = log();
    let [fenced, serves] = ["the peer is fenced", "this node serves"].map(|words| log.find(words));
    assert!(fenced.is_some() && fenced < serves, "{log}");
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    Ok(())
}

#[test]
fn what_is_handed_over_in_good_order_needs_no_fence() -> Result<()> {
    let mut pair = Pair::with(1, |config| {
        let ha = config.ha.as_mut().expect("a pair");
        ha.fence = Some(vec!["/bin/false".into()]);
    })?;
    pair.settles("all", 0);
    pair.is_told(1);
    pair.lab.nodes[0].done(&["ha", "failover"])?;
    pair.settles("all", 1);
    assert!(pair.agent(1).terminate()?.success());
    pair.serves("all", 0);
    Ok(())
}

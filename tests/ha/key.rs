//! What follows from the pair's key, and how it is changed.

use std::{collections::BTreeSet, fs, path::PathBuf};

use lb_tests::harness::{Config, NAT_V4, Result, eventually, run};
use serde_json::Value;

use super::{FLOWS, PATIENCE, Pair, VIPS, assert_kept, web_services};

/// What places flows at both nodes.
fn seeds(pair: &Pair) -> Result<[[u64; 2]; 2]> {
    let seed = |node: usize| pair.lab.nodes[node].pins().place_seed();
    Ok([seed(0)?, seed(1)?])
}

#[test]
fn both_nodes_place_flows_by_the_key_and_another_key_forgets_them() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    let before = seeds(&pair)?;
    assert_eq!(before[0], before[1]);

    let _flows = pair.open()?;
    let recorded = |pair: &Pair| pair.lab.nodes[0].pins().recorded();
    assert!(recorded(&pair)? >= VIPS.len() * FLOWS);
    pair.agent(0).kill()?;
    pair.start(0)?;
    assert_eq!(seeds(&pair)?, before);
    assert!(recorded(&pair)? >= VIPS.len() * FLOWS);

    pair.agent(0).kill()?;
    let key_file = pair.lab.path("other.key");
    run(pair.lab.nodes[0].lb().args(["ha", "keygen"]).arg(&key_file), PATIENCE)?;
    pair.configs[0].ha.as_mut().expect("a pair").key_file = key_file;
    pair.start(0)?;
    let after = seeds(&pair)?;
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    assert_eq!(recorded(&pair)?, 0);
    assert!(pair.words().contains("recorded flows are forgotten"), "{}", pair.words());
    Ok(())
}

/// Questions that may be on their way when a client stops asking.
const UNDER_WAY: usize = 32;

/// Gives a node a key file of its own, with what the pair's has.
pub(super) fn own_file(config: &mut Config) {
    let own = config.socket.with_file_name("pair.key");
    let ha = config.ha.as_mut().expect("a pair");
    fs::copy(&ha.key_file, &own).expect("a copy");
    ha.key_file = own;
}

pub(super) fn file(pair: &Pair, node: usize) -> PathBuf {
    pair.lab.nodes[node].path("pair.key")
}

/// Changes a node's key file by `lb ha keygen`.
pub(super) fn keygen(pair: &Pair, node: usize, how: &str) -> Result<()> {
    let mut lb = pair.lab.nodes[node].lb();
    run(lb.args(["ha", "keygen", how]).arg(file(pair, node)), PATIENCE).map(drop)
}

/// Brings a node's key file to its peer.
fn copy(pair: &Pair, from: usize) {
    fs::copy(file(pair, from), file(pair, 1 - from)).expect("a copy");
}

/// What a node says of its keys.
pub(super) fn key(pair: &Pair, node: usize) -> Result<Value> {
    Ok(pair.lab.nodes[node].json(&["ha", "status"])?["key"].clone())
}

/// Waits until both nodes speak with the newest key, as they say.
pub(super) fn both_speak(pair: &Pair, newest: &Value) {
    let speaks = |node| {
        key(pair, node).is_ok_and(|key| {
            ["spoken", "newest", "peer_newest"].iter().all(|what| key[what] == *newest)
        })
    };
    assert!(eventually(PATIENCE, || speaks(0) && speaks(1)), "{}", pair.words());
}

/// Takes a step that neither a client nor the other node notices.
fn unnoticed(pair: &Pair, step: impl FnOnce() -> Result<()>) -> Result<()> {
    let term = pair.term(0, "all")?;
    let watch = pair.lab.watch()?;
    let prober = pair.prober(NAT_V4)?;
    step()?;
    pair.goes_on(&prober);
    let probes = prober.stop()?;
    println!("a step of the change: {probes:?}");
    assert_eq!((watch.turns()?.len(), pair.term(0, "all")?), (1, term), "{}", pair.words());
    assert_eq!(probes.repeated, 0);
    assert!(probes.asked - probes.answered <= UNDER_WAY, "{probes:?}");
    Ok(())
}

#[test]
fn the_key_is_changed_under_live_connections_without_a_lost_answer() -> Result<()> {
    let mut pair = Pair::with(3, own_file)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let seeds_before = seeds(&pair)?;
    let mut flows = pair.open()?;
    // The tables would send these elsewhere: the other node has to know them.
    for (node, service) in [0, 1].into_iter().flat_map(|n| web_services().map(move |s| (n, s))) {
        pair.lab.nodes[node].done(&["backend", "drain", service.name(), "b2"])?;
    }
    let old = key(&pair, 0)?["newest"].clone();
    both_speak(&pair, &old);

    // One node has the new key, for as long as it may take.
    unnoticed(&pair, || {
        keygen(&pair, 0, "--rotate")?;
        pair.lab.nodes[0].done(&["reload"]).map(drop)
    })?;
    let new = key(&pair, 0)?["newest"].clone();
    assert_ne!(new, old);
    let speak_the_old = || {
        let said = [0, 1].map(|node| key(&pair, node).ok());
        let [Some(ours), Some(theirs)] = said else { return false };
        ours["spoken"] == old && theirs["spoken"] == old && theirs["peer_newest"] == new
    };
    assert!(eventually(PATIENCE, speak_the_old), "{}", pair.words());
    // An agent that starts meanwhile is understood.
    assert!(pair.agent(1).terminate()?.success());
    pair.start(1)?;
    pair.settles("all", 0);
    pair.is_told(1);
    // Then the other has it.
    unnoticed(&pair, || {
        copy(&pair, 0);
        pair.agents[1].as_ref().expect("it runs").reload()?;
        both_speak(&pair, &new);
        Ok(())
    })?;
    assert!(pair.agent(1).terminate()?.success());
    pair.start(1)?;
    both_speak(&pair, &new);
    pair.settles("all", 0);
    pair.is_told(1);

    // The old one is retired, at the other node first.
    unnoticed(&pair, || {
        keygen(&pair, 1, "--retire")?;
        pair.lab.nodes[1].done(&["reload"]).map(drop)
    })?;
    unnoticed(&pair, || {
        copy(&pair, 1);
        pair.lab.nodes[0].done(&["reload"]).map(drop)
    })?;
    both_speak(&pair, &new);
    pair.is_told(0);
    pair.is_told(1);
    for node in [0, 1] {
        // First frames of a new run, last ones of the old one, and nothing else.
        let reasons: Vec<_> = pair.refused(node)?.into_keys().collect();
        let usual = |why: &String| ["unproven", "replayed"].contains(&why.as_str());
        assert!(reasons.iter().all(usual), "{}", pair.words());
    }
    assert_kept(&mut flows);

    // What was recorded by the old key goes on by the new one.
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    assert_kept(&mut flows);
    pair.lab.replug(0)?;
    pair.start(0)?;
    pair.settles("all", 1);
    pair.is_told(0);
    pair.lab.nodes[1].done(&["ha", "failover"])?;
    pair.settles("all", 0);
    assert_kept(&mut flows);
    assert_eq!(seeds(&pair)?, seeds_before);
    assert!(!pair.words().contains("recorded flows are forgotten"), "{}", pair.words());
    Ok(())
}

#[test]
fn a_key_that_the_peer_needs_is_not_retired_by_mistake() -> Result<()> {
    let pair = Pair::with(1, own_file)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, super::ECHO)?;
    pair.goes_on(&offered[0]);
    let old = key(&pair, 0)?["newest"].clone();
    both_speak(&pair, &old);
    keygen(&pair, 0, "--rotate")?;
    keygen(&pair, 0, "--retire")?;
    let refused = pair.lab.nodes[0].done(&["reload"]).expect_err("the peer has the old key");
    assert!(refused.to_string().contains("the peer knows no key of"), "{refused}");
    both_speak(&pair, &old);
    pair.goes_on(&offered[0]);
    drop(offered);
    assert_eq!(watch.turns()?.len(), 1);
    Ok(())
}

/// Connections of a node with its peer, by their ports.
fn connections(pair: &Pair, node: usize) -> Result<BTreeSet<String>> {
    let mut ss = pair.lab.nodes[node].netns.command("ss");
    ss.args(["-tnH", "state", "established", "( sport = :4790 or dport = :4790 )"]);
    let listed = run(&mut ss, PATIENCE)?.stdout;
    let ends = |line: &str| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    Ok(listed.lines().map(ends).collect())
}

/// Whoever had the old one is not listened to any more, about nothing.
#[test]
fn a_retired_key_leaves_no_connection() -> Result<()> {
    let pair = Pair::with(1, |config| {
        own_file(config);
        config.ha.as_mut().expect("a pair").replicate = true;
    })?;
    pair.settles("all", 0);
    let old = key(&pair, 0)?["newest"].clone();
    both_speak(&pair, &old);
    // Flows and the configuration, in both directions.
    let four = || connections(&pair, 0).is_ok_and(|all| all.len() == 4);
    assert!(eventually(PATIENCE, four), "{:?}", connections(&pair, 0)?);
    let before = connections(&pair, 0)?;
    for how in ["--rotate", "--retire"] {
        keygen(&pair, 0, how)?;
        copy(&pair, 0);
        for node in &pair.lab.nodes {
            node.done(&["reload"])?;
        }
        both_speak(&pair, &key(&pair, 0)?["newest"].clone());
    }
    let others =
        || connections(&pair, 0).is_ok_and(|now| now.len() == 4 && now.is_disjoint(&before));
    assert!(eventually(PATIENCE, others), "{before:?}, then {:?}", connections(&pair, 0)?);
    Ok(())
}

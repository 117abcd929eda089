//! A third host decides between two that do not hear each other.

use std::{fs, thread::sleep, time::Duration};

use lb_tests::harness::{NAT_V4, Network, PairLab, Process, Result, eventually};

use super::{
    ECHO, PATIENCE, Pair, assert_kept,
    key::{both_speak, file, key, keygen, own_file},
    nodes,
};

const BOTH: [Network; 2] = [Network::Front, Network::Back];
/// How long a witness gives no vote after its start.
const QUIET: Duration = Duration::from_secs(10);

/// A pair with a witness that runs for long enough, of which node 0 serves all.
fn pair() -> Result<(Pair, Process)> {
    let pair = Pair::with(2, |config| {
        let ha = config.ha.as_mut().expect("a pair");
        ha.witness = Some(PairLab::witness_address());
        own_file(config);
    })?;
    let witness = pair.lab.start_witness()?;
    sleep(QUIET);
    pair.settles("all", 0);
    let heard = |node: usize| {
        let status = pair.lab.nodes[node].json(&["ha", "status"]);
        status.is_ok_and(|status| status["witness"]["heard_ms"].is_number())
    };
    assert!(eventually(PATIENCE, || heard(0) && heard(1)), "{}", pair.words());
    Ok((pair, witness))
}

/// Has the nodes hear nothing of each other.
fn part(pair: &Pair) -> Result<()> {
    for network in BOTH {
        [0, 1].into_iter().try_for_each(|from| pair.lab.cut(network, from))?;
    }
    let alone = |node: usize| {
        let status = pair.lab.nodes[node].json(&["ha", "status"]);
        status.is_ok_and(|status| status["peer"].is_null())
    };
    assert!(eventually(PATIENCE, || alone(0) && alone(1)), "{}", pair.words());
    Ok(())
}

#[test]
fn of_two_that_are_cut_off_from_each_other_the_one_that_serves_goes_on() -> Result<()> {
    let (pair, _witness) = pair()?;
    let mut flows = pair.open()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    part(&pair)?;
    pair.goes_on(&offered[0]);
    assert!(pair.is(1, "all", "standby"), "{}", pair.words());
    pair.lab.heal()?;
    pair.settles("all", 0);
    pair.goes_on(&offered[0]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a"]);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn who_is_cut_off_from_peer_and_witness_never_serves_beside_its_successor() -> Result<()> {
    let (pair, _witness) = pair()?;
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    pair.lab.cut_witness(0)?;
    part(&pair)?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    pair.lab.heal()?;
    pair.settles("all", 1);
    pair.goes_on(&offered[1]);
    drop(offered);
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    Ok(())
}

#[test]
fn when_the_active_node_is_gone_the_other_has_the_vote_and_serves() -> Result<()> {
    let (mut pair, _witness) = pair()?;
    let mut flows = pair.open()?;
    let prober = pair.prober(NAT_V4)?;
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    pair.goes_on(&prober);
    println!("node gone, with a witness: {:?}", prober.stop()?);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn the_key_is_changed_with_a_witness_that_gets_it_last() -> Result<()> {
    let (pair, _witness) = pair()?;
    let files = [0, 1].map(|node| file(&pair, node));
    let reload = |node: usize| pair.lab.nodes[node].done(&["reload"]);
    keygen(&pair, 0, "--rotate")?;
    fs::copy(&files[0], &files[1]).expect("a copy");
    (0..2).try_for_each(|node| reload(node).map(drop))?;
    both_speak(&pair, &key(&pair, 0)?["newest"]);
    // The older one is not given up before the witness has the other.
    let both = fs::read(&files[0]).expect("a key file");
    keygen(&pair, 0, "--retire")?;
    let refused = reload(0).expect_err("the witness has the old key").to_string();
    assert!(refused.contains("the witness has not answered by the key"), "{refused}");
    fs::write(pair.lab.key_file(), both).expect("another key file");
    assert!(eventually(PATIENCE, || reload(0).is_ok()), "{}", pair.words());
    fs::copy(&files[0], &files[1]).expect("a copy");
    assert!(eventually(PATIENCE, || reload(1).is_ok()), "{}", pair.words());

    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    part(&pair)?;
    pair.goes_on(&offered[0]);
    assert!(pair.is(1, "all", "standby"), "{}", pair.words());
    drop(offered);
    assert_eq!(nodes(&watch.turns()?), ["lb-a"]);
    Ok(())
}

#[test]
fn a_witness_that_is_gone_is_missed_only_by_who_is_alone() -> Result<()> {
    let (pair, witness) = pair()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    witness.end(libc::SIGKILL)?;
    pair.goes_on(&offered[0]);
    pair.settles("all", 0);
    let missed = |level: &str, words: &str| {
        let says = |node: usize| {
            pair.log(node).lines().any(|line| line.contains(level) && line.contains(words))
        };
        assert!(eventually(PATIENCE, || says(0) && says(1)), "{}", pair.words());
    };
    missed("WARN", "the witness does not answer");
    let watch = pair.lab.watch()?;
    part(&pair)?;
    let nobody = || [0, 1].into_iter().all(|node| pair.is(node, "all", "standby"));
    assert!(eventually(PATIENCE, nobody), "{}", pair.words());
    missed("ERROR", "neither the peer nor the witness answers");
    // One that starts gives votes once those it may have given before are over.
    let _witness = pair.lab.start_witness()?;
    let one = || pair.is(0, "all", "active") != pair.is(1, "all", "active");
    assert!(eventually(PATIENCE, one), "{}", pair.words());
    let active = usize::from(pair.is(1, "all", "active"));
    pair.goes_on(&offered[active]);
    assert!(pair.is(1 - active, "all", "standby"), "{}", pair.words());
    drop(offered);
    let turns = watch.turns()?;
    let names = nodes(&turns);
    assert!(names.len() <= 2 && names.last() == Some(&["lb-a", "lb-b"][active]), "{names:?}");
    Ok(())
}

//! What the nodes know of each other's flows, whatever becomes of the connection
//! between them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_tests::harness::{Flows, NAT_V4, Result, eventually, source_addresses};
use serde_json::Value;

use super::{
    ECHO, FLOWS, PATIENCE, Pair, WEB, assert_kept,
    flows::{displace_all, heard, with_short_passes},
};

/// Longer than a node knows of a flow that it is not told again, with short passes:
/// `affinity_timeout`, two passes, and a second.
const LONG: Duration = Duration::from_secs(16);

/// Live flows that a node knows.
fn count(pair: &Pair, node: usize) -> u64 {
    let count = pair.lab.nodes[node].json(&["flow", "count"]);
    count.ok().and_then(|count| count["flows"].as_u64()).expect("a number")
}

/// The backends of a client's flows, by its ports, as a node knows them.
fn backends(pair: &Pair, node: usize, client: &str) -> Result<BTreeMap<u64, String>> {
    let list = ["flow", "list", "--client", client, "--limit", "1000"];
    let service = pair.configs[0].services[0].name();
    let list = pair.lab.nodes[node].json(&[&list[..], &["--service", service]].concat())?;
    let flows = list.as_array().into_iter().flatten();
    let flow =
        |flow: &Value| Some((flow["client_port"].as_u64()?, flow["backend"].as_str()?.to_owned()));
    Ok(flows.filter_map(flow).collect())
}

#[test]
fn what_is_flushed_at_one_node_is_gone_at_both() -> Result<()> {
    let pair = with_short_passes()?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    assert_kept(&mut flows);
    pair.is_told(1);
    let all = || count(&pair, 1) >= (FLOWS * flows.len()) as u64;
    assert!(eventually(PATIENCE, all), "{}", pair.words());
    let before = heard(&pair, 1, "removed").expect("a number");
    let service = pair.configs[0].services[0].name();
    pair.lab.nodes[0].done(&["flow", "flush", "--service", service])?;
    let gone = || heard(&pair, 1, "removed").is_some_and(|now| now >= before + FLOWS as u64);
    assert!(eventually(PATIENCE, gone), "{}", pair.words());
    let left = pair.lab.nodes[1].json(&["flow", "count", "--service", service])?;
    assert_eq!(left["flows"], 0);
    // All others are where they were.
    let others = (FLOWS * (flows.len() - 1)) as u64;
    assert!(count(&pair, 1) >= others, "{}", pair.words());
    Ok(())
}

/// Uses all connections for so long that what the standby knows of them would run out.
fn use_for_long(flows: &mut Flows) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert_eq!(flows.survey(None).kept, FLOWS);
    }
}

/// Says whether a node tells its peer flows.
fn tells(pair: &Pair, node: usize) -> bool {
    let status = pair.lab.nodes[node].json(&["ha", "status"]);
    status.is_ok_and(|status| status["sync"]["told"]["connected"] == true)
}

#[test]
fn what_goes_on_while_the_nodes_cannot_tell_each_other_is_told_after_that() -> Result<()> {
    let pair = with_short_passes()?;
    pair.settles("all", 0);
    pair.is_told(1);
    let sources = source_addresses(true);
    let mut flows = Flows::open(&pair.lab.client, &sources, (NAT_V4, WEB).into(), FLOWS)?;
    displace_all(&pair)?;
    pair.lab.cut_sync()?;
    use_for_long(&mut flows);
    assert!(!tells(&pair, 0), "{}", pair.words());
    let mut more = Flows::open(&pair.lab.client, &sources, (NAT_V4, WEB).into(), FLOWS)?;
    assert_eq!(more.survey(None).kept, FLOWS);
    pair.settles("all", 0);
    pair.lab.heal()?;
    // It is refused until the peer knows all flows.
    let given = || pair.lab.nodes[0].done(&["ha", "failover"]).is_ok();
    assert!(eventually(PATIENCE, given), "{}", pair.words());
    pair.settles("all", 1);
    for flows in [&mut flows, &mut more] {
        assert_eq!(flows.survey(None).kept, FLOWS, "{}", pair.words());
    }
    Ok(())
}

#[test]
fn who_loses_after_a_partition_tells_what_it_recorded_alone() -> Result<()> {
    let pair = with_short_passes()?;
    pair.settles("all", 0);
    pair.is_told(1);
    pair.lab.part()?;
    pair.serves("all", 1);
    pair.serves("all", 0);
    // The first packets find the way.
    pair.lab.offer(NAT_V4, ECHO)?.into_iter().try_for_each(|one| one.stop().map(drop))?;
    let clients = [0, 1].map(|node| pair.lab.nodes[node].steered());
    let open = |client| Flows::open(&pair.lab.client, &[client], (NAT_V4, WEB).into(), FLOWS);
    let [mut by_a, mut by_b] = [open(clients[0])?, open(clients[1])?];
    // No table leads to those at b2 any more.
    displace_all(&pair)?;
    use_for_long(&mut by_a);
    assert_eq!(by_b.survey(None).kept, FLOWS);
    assert!(!tells(&pair, 0) && !tells(&pair, 1), "{}", pair.words());
    let clients = clients.map(|client| client.to_string());
    let known = |node: usize, of: usize| backends(&pair, node, &clients[of]);
    let recorded = [known(0, 0)?, known(1, 1)?];
    for node in [0, 1] {
        assert_eq!((recorded[node].len(), known(1 - node, node)?.len()), (FLOWS, 0));
    }
    pair.lab.heal()?;
    let one = || pair.is(0, "all", "active") != pair.is(1, "all", "active");
    assert!(eventually(PATIENCE, one), "{}", pair.words());
    let winner = usize::from(pair.is(1, "all", "active"));
    pair.settles("all", winner);
    let loser = 1 - winner;
    let told = || known(winner, loser).is_ok_and(|known| known == recorded[loser]);
    assert!(eventually(PATIENCE, told), "{}", pair.words());
    Ok(())
}

//! What the nodes know of each other's flows, whatever becomes of the connection
//! between them.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use lb_tests::harness::{Flows, NAT_V4, Network, Result, eventually, source_addresses};
use serde_json::Value;

use super::{
    FLOWS, PATIENCE, Pair, WEB, assert_kept,
    flows::{displace_all, heard, with_short_passes},
};

/// Longer than the nodes wait for each other's word.
const LONG: Duration = Duration::from_secs(4);

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

#[test]
fn a_connection_that_breaks_is_gone_on_with() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = pair.open()?;
    let anew = || pair.log(0).matches("resumed=false").count();
    let resumed = || pair.log(0).matches("resumed=true").count();
    let before = anew();
    assert_eq!(resumed(), 0, "{}", pair.words());
    pair.lab.cut_sync()?;
    // What happens meanwhile the peer is told later, and all else it knows.
    displace_all(&pair)?;
    let sources = source_addresses(true);
    let mut more = Flows::open(&pair.lab.client, &sources, (NAT_V4, WEB).into(), FLOWS)?;
    let broken = || {
        let status = pair.lab.nodes[0].json(&["ha", "status"]);
        status.is_ok_and(|status| status["sync"]["told"]["connected"] == false)
    };
    assert!(eventually(PATIENCE, broken), "{}", pair.words());
    sleep(LONG);
    pair.settles("all", 0);
    pair.lab.heal()?;
    assert!(eventually(PATIENCE, || resumed() > 0), "{}", pair.words());
    pair.is_told(1);
    assert_eq!(anew(), before, "{}", pair.words());
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    assert_kept(&mut flows);
    assert_eq!(more.survey(None).kept, FLOWS);
    Ok(())
}

#[test]
fn who_loses_after_a_partition_tells_what_it_recorded_alone() -> Result<()> {
    let pair = Pair::new(3)?;
    pair.settles("all", 0);
    for network in [Network::Front, Network::Back] {
        [0, 1].into_iter().try_for_each(|from| pair.lab.cut(network, from))?;
    }
    pair.serves("all", 1);
    pair.serves("all", 0);
    // The first packets find the way.
    pair.lab.offer(NAT_V4, super::ECHO)?.into_iter().try_for_each(|one| one.stop().map(drop))?;
    let client = pair.lab.nodes[0].steered();
    let mut flows = Flows::open(&pair.lab.client, &[client], (NAT_V4, WEB).into(), FLOWS)?;
    assert_eq!(flows.survey(None).kept, FLOWS);
    let client = client.to_string();
    let recorded = backends(&pair, 0, &client)?;
    assert_eq!(recorded.len(), FLOWS);
    assert_eq!(backends(&pair, 1, &client)?.len(), 0);
    pair.lab.heal()?;
    // The higher term wins.
    pair.settles("all", 1);
    let told = || backends(&pair, 1, &client).is_ok_and(|known| known == recorded);
    assert!(eventually(PATIENCE, told), "{}", pair.words());
    Ok(())
}

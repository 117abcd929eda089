//! Connections outlive the node that they went through, also those that no
//! table would send where they are.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lb_tests::harness::{
    DSR_V4, DSR_V6, Flows, Mode, NAT_V4, Network, PairLab, Protocol, Result, Service, Survey,
    eventually, source_addresses, spread_udp, tunnel_sources, unwrap_for,
};

use super::{ECHO, FLOWS, PATIENCE, Pair, SHARED, VIPS, WEB, assert_kept, web_services};

/// Connections to each of the six VIPs.
pub(super) const EACH: usize = 1700;

/// Opens connections at node 0.
fn open(pair: &Pair) -> Result<Vec<(IpAddr, Flows)>> {
    let vips = VIPS.into_iter().chain(SHARED).map(|(vip, _)| vip);
    let open = |vip: IpAddr| {
        let sources = source_addresses(vip.is_ipv4());
        Ok((vip, Flows::open(&pair.lab.client, &sources, (vip, WEB).into(), EACH)?))
    };
    vips.map(open).collect()
}

/// Has the tables of a node send a third of a service's connections elsewhere.
pub(super) fn drain(pair: &Pair, node: usize, service: &Service) -> Result<()> {
    let node = &pair.lab.nodes[node];
    node.done(&["backend", "drain", service.name(), "b2"])?;
    node.done(&["backend", "set", service.name(), "b1", "--weight", "80"]).map(drop)
}

/// The same of all web services, at both nodes.
pub(super) fn displace_all(pair: &Pair) -> Result<()> {
    [0, 1]
        .into_iter()
        .try_for_each(|node| web_services().try_for_each(|service| drain(pair, node, &service)))
}

/// The same of all web services. The tables send nobody to b2 then, so that all
/// connections that are there, and some of b1's, are elsewhere than they say: a third.
fn displace(pair: &Pair, node: usize, flows: &[(IpAddr, Flows)]) -> Result<()> {
    web_services().try_for_each(|service| drain(pair, node, &service))?;
    for (vip, flows) in flows {
        let drained = flows.by_backend().get("b2").copied().unwrap_or_default();
        // Five standard deviations below a third of as many random choices.
        assert!(drained as f64 > EACH as f64 * (1.0 / 3.0 - 0.057), "{drained} of {vip} at b2");
    }
    Ok(())
}

/// Ends a node's data plane; its agent does not run.
fn detach(pair: &Pair, node: usize) -> Result<()> {
    let node = &pair.lab.nodes[node];
    let config = node.path("lb.toml");
    node.done(&["detach", "--config", &config.to_string_lossy()]).map(drop)
}

pub(super) fn assert_none_broke(flows: &mut [(IpAddr, Flows)]) {
    for (vip, flows) in flows {
        assert_eq!(flows.survey(None), Survey { kept: EACH, moved: 0, broken: 0 }, "{vip}");
    }
}

/// Asks all connections all the time while something happens: how often each was
/// asked at least. None may break, nor get another's answer.
fn ask_while(flows: &mut [(IpAddr, Flows)], happens: impl FnOnce() -> Result<()>) -> Result<usize> {
    let over = AtomicBool::new(false);
    let ask = |(vip, flows): &mut (IpAddr, Flows)| {
        let mut times = 0;
        // Once more after it is over.
        let mut last = false;
        while !last {
            last = over.load(Ordering::Relaxed);
            let survey = flows.survey(None);
            assert_eq!(survey, Survey { kept: EACH, moved: 0, broken: 0 }, "{vip}");
            times += 1;
        }
        times
    };
    thread::scope(|scope| {
        let askers: Vec<_> = flows.iter_mut().map(|one| scope.spawn(move || ask(one))).collect();
        let done = happens();
        over.store(true, Ordering::Relaxed);
        let times = askers.into_iter().map(|asker| asker.join().expect("no connection breaks"));
        let times = times.min().unwrap_or_default();
        done.map(|()| times)
    })
}

/// Waits until a node has entries of all connections.
pub(super) fn knows_all(pair: &Pair, node: usize, flows: usize) {
    let known = || pair.lab.nodes[node].json(&["status"]).ok()?["flows"].as_u64();
    let all = || known().is_some_and(|known| known >= flows as u64);
    assert!(eventually(PATIENCE, all), "{:?} of {flows}: {}", known(), pair.words());
}

/// Node 0, which serves, dies; no connection breaks, nor gets another's answer.
pub(super) fn dies_under(pair: &mut Pair, flows: &mut [(IpAddr, Flows)]) -> Result<()> {
    println!("flows: {}", pair.lab.nodes[0].json(&["ha", "status"])?["sync"]["told"]);
    let times = ask_while(flows, || {
        pair.agent(0).kill()?;
        pair.lab.unplug(0)?;
        pair.serves("all", 1);
        Ok(())
    })?;
    println!("each asked {times} times while its node died");
    Ok(())
}

/// Node 0 returns, and knows nothing but what it is told.
pub(super) fn returns_empty(pair: &mut Pair) -> Result<()> {
    detach(pair, 0)?;
    pair.lab.replug(0)?;
    pair.start(0)?;
    pair.settles("all", 1);
    Ok(())
}

/// Node 0 is failed back to, by command; no connection breaks.
pub(super) fn fails_back_under(pair: &Pair, flows: &mut [(IpAddr, Flows)]) -> Result<()> {
    let times = ask_while(flows, || {
        pair.lab.nodes[1].done(&["ha", "failover"])?;
        pair.settles("all", 0);
        Ok(())
    })?;
    println!("each asked {times} times while its node returned");
    Ok(())
}

#[test]
fn no_connection_breaks_when_its_node_dies_nor_when_that_returns() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = open(&pair)?;
    let all = flows.len() * EACH;
    [0, 1].into_iter().try_for_each(|node| displace(&pair, node, &flows))?;
    assert_none_broke(&mut flows);
    knows_all(&pair, 1, all);
    dies_under(&mut pair, &mut flows)?;
    returns_empty(&mut pair)?;
    displace(&pair, 0, &flows)?;
    pair.is_told(0);
    knows_all(&pair, 0, all);
    fails_back_under(&pair, &mut flows)
}

#[test]
fn a_node_that_knows_nothing_is_told_everything() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    pair.agent(1).kill()?;
    let mut flows = open(&pair)?;
    let all = flows.len() * EACH;
    displace(&pair, 0, &flows)?;
    // Its data plane goes, too.
    detach(&pair, 1)?;
    pair.start(1)?;
    pair.settles("all", 0);
    displace(&pair, 1, &flows)?;
    pair.is_told(1);
    knows_all(&pair, 1, all);
    assert!(pair.agent(0).terminate()?.success());
    pair.serves("all", 1);
    assert_none_broke(&mut flows);
    Ok(())
}

pub(super) fn heard(pair: &Pair, node: usize, what: &str) -> Option<u64> {
    pair.lab.nodes[node].json(&["ha", "status"]).ok()?["sync"]["heard"][what].as_u64()
}

/// With passes every three seconds.
pub(super) fn with_short_passes() -> Result<Pair> {
    Pair::with(3, |config| {
        let short = |service: Service| service.lines("affinity_timeout = \"6s\"");
        config.services = config.services.drain(..).map(short).collect();
        // Roles are to stay for long, and a busy machine may stand still for a moment.
        config.ha.as_mut().expect("a pair").heartbeat = Duration::from_millis(250);
    })
}

#[test]
fn connections_that_are_seldom_used_live_on_at_the_standby() -> Result<()> {
    let mut pair = with_short_passes()?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = pair.open()?;
    displace_all(&pair)?;
    // Of packets that change nothing a pass tells, every three seconds. Six of them
    // are longer than what the standby gave the connections at first.
    for _ in 0..6 {
        let before = heard(&pair, 1, "records").unwrap_or_default();
        let all = before + (FLOWS * flows.len()) as u64;
        let told = || heard(&pair, 1, "records").is_some_and(|now| now >= all);
        assert!(eventually(PATIENCE, told), "{}", pair.words());
        assert_kept(&mut flows);
    }
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn what_the_standby_lost_is_found_and_repaired() -> Result<()> {
    let mut pair = with_short_passes()?;
    pair.settles("all", 0);
    pair.is_told(1);
    let mut flows = pair.open()?;
    displace_all(&pair)?;
    pair.is_told(1);
    let before = heard(&pair, 1, "repaired").expect("a number");
    let lost = pair.lab.nodes[1].pins().lose_flows()?;
    assert!(lost > FLOWS, "{lost}");
    // Unused: nothing but a pass tells of them.
    let all = before + lost as u64;
    let repaired = || heard(&pair, 1, "repaired").is_some_and(|repaired| repaired >= all);
    assert!(eventually(PATIENCE, repaired), "{lost}: {}", pair.words());
    assert_kept(&mut flows);
    pair.agent(0).kill()?;
    pair.lab.unplug(0)?;
    pair.serves("all", 1);
    assert_kept(&mut flows);
    Ok(())
}

/// Flows of one packet, to the echo service at [`NAT_V4`].
fn embryonic(pair: &Pair, node: usize) -> Result<BTreeSet<(String, u64)>> {
    let list = pair.lab.nodes[node].json(&["flow", "list"])?;
    let flows = list.as_array().into_iter().flatten();
    let embryonic = flows.filter(|flow| flow["state"] == "embryonic");
    let client = |flow: &serde_json::Value| {
        Some((flow["client"].as_str()?.to_owned(), flow["client_port"].as_u64()?))
    };
    Ok(embryonic.filter_map(client).collect())
}

#[test]
fn an_exception_of_one_packet_is_told_to_who_lost_it() -> Result<()> {
    let mut pair = Pair::new(3)?;
    pair.settles("all", 0);
    pair.is_told(1);
    // The first packets find the way.
    pair.prober(NAT_V4)?.stop()?;
    let echo = Service::new(NAT_V4, Protocol::Udp, ECHO, Mode::Nat);
    [0, 1].into_iter().try_for_each(|node| drain(&pair, node, &echo))?;
    let sources = source_addresses(true);
    spread_udp(&pair.lab.client, &sources, (NAT_V4, ECHO).into(), 60)?;
    let all = embryonic(&pair, 0)?;
    let mut told = BTreeSet::new();
    let some = || {
        told = embryonic(&pair, 1).unwrap_or_default();
        told.len() > 10
    };
    assert!(eventually(PATIENCE, some), "{}", pair.words());
    // About the others the tables agree.
    assert!(told.len() < all.len() && told.is_subset(&all), "{told:?} of {all:?}");
    assert!(pair.agent(1).terminate()?.success());
    detach(&pair, 1)?;
    pair.start(1)?;
    pair.is_told(1);
    let again = embryonic(&pair, 1)?;
    assert!(told.is_subset(&again), "{told:?}, then {again:?}: {}", pair.words());
    Ok(())
}

#[test]
fn flows_are_told_by_the_path_that_is_left() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.is_told(1);
    [0, 1].into_iter().try_for_each(|from| pair.lab.cut(Network::Front, from))?;
    let flows = pair.open()?;
    knows_all(&pair, 1, FLOWS * flows.len());
    pair.is_told(1);
    Ok(())
}

#[test]
fn everything_is_told_again_when_an_operator_asks_for_it() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let flows = pair.open()?;
    let all = FLOWS * flows.len();
    knows_all(&pair, 1, all);
    for asked in &pair.lab.nodes {
        let before = heard(&pair, 1, "records").unwrap_or_default();
        asked.done(&["ha", "resync"])?;
        let again = || heard(&pair, 1, "records").is_some_and(|now| now >= before + all as u64);
        assert!(eventually(PATIENCE, again), "{}", pair.words());
        pair.is_told(1);
    }
    Ok(())
}

#[test]
fn flows_of_a_backend_that_the_peer_gets_later_are_told_then() -> Result<()> {
    let pair = Pair::with(2, |config| {
        config.services.iter_mut().for_each(|service| service.remove("b2"));
    })?;
    pair.settles("all", 0);
    pair.is_told(1);
    let add = |node: usize| -> Result<()> {
        let address = pair.lab.backends[1].address(true).to_string();
        let service = web_services().next().expect("one at an IPv4 VIP");
        let node = &pair.lab.nodes[node];
        node.done(&["backend", "add", service.name(), "b2", &address]).map(drop)
    };
    add(0)?;
    let flows = pair.open()?;
    assert!(flows[0].by_backend().contains_key("b2"));
    let unknown = || heard(&pair, 1, "unknown").is_some_and(|unknown| unknown > 0);
    assert!(eventually(PATIENCE, unknown), "{}", pair.words());
    // Until then it is given nothing.
    let complete = |node: usize, how: &str| {
        let status = pair.lab.nodes[node].json(&["ha", "status"]).ok()?;
        status["sync"][how]["complete"].as_bool()
    };
    let left_out = || complete(0, "told") == Some(false) && complete(1, "heard") == Some(false);
    assert!(eventually(PATIENCE, left_out), "{}", pair.words());
    let refused = pair.lab.nodes[0].done(&["ha", "failover"]).expect_err("flows would break");
    assert!(refused.to_string().contains("does not know all flows"), "{refused}");
    add(1)?;
    knows_all(&pair, 1, FLOWS * flows.len());
    pair.is_told(1);
    Ok(())
}

/// The peer may call where nobody else may.
#[test]
fn flows_are_told_to_a_host_that_is_protected() -> Result<()> {
    let pair = Pair::with(1, |config| config.firewall = "host = \"drop\"".into())?;
    pair.settles("all", 0);
    pair.is_told(1);
    pair.is_told(0);
    Ok(())
}

#[test]
fn who_does_not_know_all_flows_is_given_none() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.is_told(1);
    // Another seed gives flows other backends.
    assert!(pair.agent(1).terminate()?.success());
    detach(&pair, 1)?;
    pair.configs[1].hash_seed = Some("f".repeat(32));
    pair.start(1)?;
    pair.settles("all", 0);
    let refused = || {
        let status = pair.lab.nodes[0].json(&["ha", "status"]).ok()?;
        Some(status["sync"]["told"]["trouble"].as_str()?.to_owned())
    };
    let named = || refused().is_some_and(|why| why.contains("node.hash_seed"));
    assert!(eventually(PATIENCE, named), "{}", pair.words());
    let failover = pair.lab.nodes[0].done(&["ha", "failover"]);
    assert!(failover.is_err_and(|error| error.to_string().contains("does not know all flows")));
    assert!(pair.is(0, "all", "active"));
    pair.lab.nodes[0].done(&["ha", "failover", "--force"])?;
    pair.settles("all", 1);
    Ok(())
}

#[test]
fn connections_through_tunnels_outlive_their_node() -> Result<()> {
    let vips = [(DSR_V4, Mode::Ipip), (DSR_V6, Mode::Gue)];
    let web = || vips.map(|(vip, mode)| Service::new(vip, Protocol::Tcp, WEB, mode));
    let lab = PairLab::new(3)?;
    for backend in &lab.backends {
        unwrap_for(&backend.netns, "eth0", &vips.map(|(vip, _)| vip))?;
    }
    let services = web().map(|service| service.with(&lab.backends));
    let mut pair = Pair::inside(lab, |config| {
        config.node = tunnel_sources();
        config.services = services.to_vec();
    })?;
    pair.settles("all", 0);
    pair.is_told(1);
    let open = |(vip, _): (IpAddr, Mode)| {
        let sources = source_addresses(vip.is_ipv4());
        Ok((vip, Flows::open(&pair.lab.client, &sources, (vip, WEB).into(), EACH)?))
    };
    let mut flows = vips.into_iter().map(open).collect::<Result<Vec<_>>>()?;
    for node in [0, 1] {
        web().iter().try_for_each(|service| drain(&pair, node, service))?;
    }
    assert_none_broke(&mut flows);
    knows_all(&pair, 1, flows.len() * EACH);
    let times = ask_while(&mut flows, || {
        pair.agent(0).kill()?;
        pair.lab.unplug(0)?;
        pair.serves("all", 1);
        Ok(())
    })?;
    println!("each asked {times} times while its node died");
    Ok(())
}

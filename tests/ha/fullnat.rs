//! Mode `fullnat`: who takes over goes on with the same source addresses and ports, so
//! that backends notice nothing.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_tests::harness::{
    DSR_V4, DSR_V6, Flows, Mode, NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6, PairLab, Protocol,
    Result, Service, eventually, source_addresses,
};

use super::{
    ECHO, FLOWS, PATIENCE, Pair, WEB,
    flows::{
        EACH, assert_none_broke, dies_under, drain, fails_back_under, knows_all, returns_empty,
    },
};

/// All VIPs: 10,200 connections.
const VIPS: [IpAddr; 6] = [NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6, DSR_V4, DSR_V6];
/// `node.nat_sources`, which move with the VIPs.
pub(super) const SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 2, 0, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x200)),
];

fn web_services() -> impl Iterator<Item = Service> {
    VIPS.into_iter().map(|vip| Service::new(vip, Protocol::Tcp, WEB, Mode::FullNat))
}

/// A pair whose services have these lines beside, at backends that reach their own
/// network only.
fn pair(lines: &str) -> Result<Pair> {
    let lab = PairLab::new(3)?;
    for backend in &lab.backends {
        backend.netns.ip("route del default\n-6 route del default")?;
    }
    let echo = [NAT_V4, NAT_V6].map(|vip| Service::new(vip, Protocol::Udp, ECHO, Mode::FullNat));
    let services: Vec<_> = web_services()
        .chain(echo)
        .map(|service| service.with(&lab.backends).lines(lines))
        .collect();
    Pair::inside(lab, |config| {
        config.node = format!("nat_sources = {:?}\n", SOURCES.map(|source| source.to_string()));
        config.services.clone_from(&services);
        let groups = config.ha.iter_mut().flat_map(|ha| &mut ha.groups);
        groups.for_each(|group| group.addresses.extend(SOURCES.map(|source| (source, "l1"))));
    })
}

fn open(pair: &Pair, count: usize) -> Result<Vec<(IpAddr, Flows)>> {
    let open = |vip: IpAddr| {
        let sources = source_addresses(vip.is_ipv4());
        Ok((vip, Flows::open(&pair.lab.client, &sources, (vip, WEB).into(), count)?))
    };
    VIPS.into_iter().map(open).collect()
}

/// Has the tables of a node send a third of all connections elsewhere.
fn displace(pair: &Pair, node: usize) -> Result<()> {
    web_services().try_for_each(|service| drain(pair, node, &service))
}

/// Source addresses, by family, and ports that a node has flows at.
fn ports(pair: &Pair, node: usize) -> BTreeSet<(bool, u16)> {
    pair.lab.nodes[node].pins().held_ports().unwrap_or_default().into_iter().collect()
}

/// Waits until a node has all of these.
fn has_ports(pair: &Pair, node: usize, all: &BTreeSet<(bool, u16)>) {
    let known = || ports(pair, node).is_superset(all);
    assert!(
        eventually(PATIENCE, known),
        "{} of {}: {}",
        ports(pair, node).intersection(all).count(),
        all.len(),
        pair.words()
    );
}

#[test]
fn no_connection_breaks_when_its_node_dies_nor_when_that_returns() -> Result<()> {
    let mut pair = pair("")?;
    pair.settles("all", 0);
    pair.is_told(1);
    let probers = [NAT_V4, NAT_V6].map(|vip| pair.prober(vip)).into_iter();
    let probers = probers.collect::<Result<Vec<_>>>()?;
    let mut flows = open(&pair, EACH)?;
    let all = flows.len() * EACH;
    [0, 1].into_iter().try_for_each(|node| displace(&pair, node))?;
    assert_none_broke(&mut flows);
    let held = ports(&pair, 0);
    assert!(held.len() >= all, "{} ports of {all} flows", held.len());
    knows_all(&pair, 1, all);
    has_ports(&pair, 1, &held);
    dies_under(&mut pair, &mut flows)?;
    probers.iter().for_each(|prober| pair.goes_on(prober));
    // New ones take no port that is another's.
    let more = open(&pair, FLOWS)?;
    assert_none_broke(&mut flows);
    drop(more);
    returns_empty(&mut pair)?;
    displace(&pair, 0)?;
    pair.is_told(0);
    knows_all(&pair, 0, all);
    has_ports(&pair, 0, &held);
    fails_back_under(&pair, &mut flows)?;
    probers.iter().for_each(|prober| pair.goes_on(prober));
    Ok(())
}

#[test]
fn ports_are_released_by_both_nodes() -> Result<()> {
    let pair = pair("affinity_timeout = \"2s\"")?;
    pair.settles("all", 0);
    pair.is_told(1);
    let flows = open(&pair, FLOWS)?;
    let held = ports(&pair, 0);
    assert!(held.len() >= FLOWS * VIPS.len(), "{} ports", held.len());
    let known = || ports(&pair, 1).len() >= FLOWS * VIPS.len();
    assert!(eventually(PATIENCE, known), "{}: {}", ports(&pair, 1).len(), pair.words());
    drop(flows);
    for node in [0, 1] {
        let none = || ports(&pair, node).is_empty();
        assert!(eventually(PATIENCE, none), "{}: {}", ports(&pair, node).len(), pair.words());
    }
    Ok(())
}

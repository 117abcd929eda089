//! Connections that SYN cookies opened: who takes over goes on to translate them.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{
    Flows, Mode, NAT_V4, NAT_V6, PairLab, Protocol, Result, Service, eventually, source_addresses,
};

use super::{
    PATIENCE, Pair, WEB,
    flows::{
        EACH, assert_none_broke, dies_under, drain, fails_back_under, knows_all, returns_empty,
    },
    fullnat::SOURCES,
};

const VIPS: [IpAddr; 2] = [NAT_V4, NAT_V6];

fn web_services(mode: Mode) -> impl Iterator<Item = Service> {
    VIPS.into_iter().map(move |vip| Service::new(vip, Protocol::Tcp, WEB, mode))
}

/// A pair that answers each SYN with a cookie, whose services have these lines beside.
fn pair(mode: Mode, lines: &str) -> Result<Pair> {
    let lab = PairLab::new(3)?;
    let lines = format!("syn_cookies_above = 0\n{lines}");
    let service = |service: Service| service.with(&lab.backends).lines(&lines);
    let services: Vec<_> = web_services(mode).map(service).collect();
    Pair::inside(lab, |config| {
        config.services.clone_from(&services);
        if mode == Mode::FullNat {
            config.node = format!("nat_sources = {:?}\n", SOURCES.map(|source| source.to_string()));
            let groups = config.ha.iter_mut().flat_map(|ha| &mut ha.groups);
            groups.for_each(|group| group.addresses.extend(SOURCES.map(|source| (source, "l1"))));
        }
    })
}

fn open(pair: &Pair) -> Result<Vec<(IpAddr, Flows)>> {
    let open = |vip: IpAddr| {
        let sources = source_addresses(vip.is_ipv4());
        Ok((vip, Flows::open(&pair.lab.client, &sources, (vip, WEB).into(), EACH)?))
    };
    VIPS.into_iter().map(open).collect()
}

/// Connections that a node translates.
fn proxied(pair: &Pair, node: usize) -> usize {
    pair.lab.nodes[node].pins().proxied().unwrap_or_default()
}

fn translates_all(pair: &Pair, node: usize, all: usize) {
    let all = || proxied(pair, node) >= all;
    assert!(eventually(PATIENCE, all), "{}: {}", proxied(pair, node), pair.words());
}

#[test]
fn no_connection_breaks_when_its_node_dies_nor_when_that_returns() -> Result<()> {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut pair = pair(mode, "")?;
        pair.settles("all", 0);
        pair.is_told(1);
        let mut flows = open(&pair)?;
        let all = flows.len() * EACH;
        assert!(proxied(&pair, 0) >= all, "{mode}: {}", proxied(&pair, 0));
        // A third of them is elsewhere than the tables say.
        let displace =
            |pair: &Pair, node| web_services(mode).try_for_each(|one| drain(pair, node, &one));
        [0, 1].into_iter().try_for_each(|node| displace(&pair, node))?;
        knows_all(&pair, 1, all);
        translates_all(&pair, 1, all);
        dies_under(&mut pair, &mut flows)?;
        // And new ones are opened.
        let more = Flows::open(&pair.lab.client, &source_addresses(true), (NAT_V4, WEB).into(), 9)?;
        let confirmed = pair.lab.nodes[1].pins().counter(Counter::SynCookieConfirmed)?;
        assert_eq!(confirmed, 9, "{mode}");
        drop(more);
        returns_empty(&mut pair)?;
        displace(&pair, 0)?;
        pair.is_told(0);
        knows_all(&pair, 0, all);
        translates_all(&pair, 0, all);
        fails_back_under(&pair, &mut flows)?;
        assert_none_broke(&mut flows);
    }
    Ok(())
}

#[test]
fn what_has_ended_is_forgotten_by_both_nodes() -> Result<()> {
    let pair = pair(Mode::Nat, "affinity_timeout = \"2s\"")?;
    pair.settles("all", 0);
    pair.is_told(1);
    let flows = open(&pair)?;
    translates_all(&pair, 1, flows.len() * EACH);
    drop(flows);
    for node in [0, 1] {
        let none = || proxied(&pair, node) == 0;
        assert!(eventually(PATIENCE, none), "{}: {}", proxied(&pair, node), pair.words());
    }
    Ok(())
}

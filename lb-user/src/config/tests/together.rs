//! Rules between services, on models.

use super::shown;
use crate::{
    config::check_together,
    core::model::{
        Firewall, Mode, Node, Protocol, Service,
        sample::{backend, model, service},
    },
};

fn node() -> Node {
    model(Vec::new()).node
}

fn mistakes(services: &[Service]) -> String {
    shown(&check_together(services, &Firewall::default(), &node(), None).expect_err("a mistake"))
}

#[test]
fn services_are_checked_together_by_the_rules_of_the_file() {
    let web = service("203.0.113.10", (80, 80), Protocol::Tcp, Mode::Nat);
    let mut other = service("203.0.113.11", (80, 80), Protocol::Tcp, Mode::Nat);
    other.backends = vec![backend([10, 0, 0, 1].into(), None, 1)];
    let good = [web.clone(), other.clone()];
    assert_eq!(check_together(&good, &Firewall::default(), &node(), None), Ok(()));

    assert_eq!(
        mistakes(&[web.clone(), Service { name: web.name.clone(), ..other.clone() }]),
        "service.203.0.113.10:80.name: must be unique among services\
         \n  hint: `service.203.0.113.10:80.name` is the same\n"
    );
    assert_eq!(
        mistakes(&[web.clone(), Service { vip: web.vip, ..other.clone() }]),
        "service.203.0.113.11:80.port: must not be taken by another service of this VIP and \
         protocol\n  hint: see `service.203.0.113.10:80.port`\n"
    );
    other.backends = vec![backend(web.vip, None, 1)];
    assert_eq!(
        mistakes(&[web, other]),
        "service.203.0.113.11:80.backend.203.0.113.10.address: must not be a VIP\
         \n  hint: `service.203.0.113.10:80.vip` is this address\n"
    );
}

#[test]
fn denied_prefixes_are_limited_on_models_as_well() {
    let nets = (0..=lb_common::limits::DENY_PREFIXES).map(std::net::Ipv4Addr::from);
    let deny_sources = nets.map(|address| std::net::IpAddr::from(address).into()).collect();
    let firewall = Firewall { deny_sources, ..Firewall::default() };
    assert_eq!(
        shown(&check_together(&[], &firewall, &node(), None).expect_err("a mistake")),
        "firewall.deny_sources: must be 65536 IPv4 prefixes at most\n"
    );
}

#[test]
fn what_wraps_packets_has_an_address_of_the_backends_family_to_send_from() {
    let mut web = service("203.0.113.10", (80, 80), Protocol::Tcp, Mode::Ipip);
    web.backends = vec![backend("fd00::1".parse().unwrap(), None, 1)];
    let services = [web];
    let check = |sources: &[&str]| {
        let tunnel_sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        let node = Node { tunnel_sources, ..node() };
        check_together(&services, &Firewall::default(), &node, None)
    };
    assert_eq!(check(&["fd00:ff::/64"]), Ok(()));
    for sources in [&[][..], &["10.255.0.0/24"]] {
        let mistakes = shown(&check(sources).expect_err("a mistake"));
        let expected = "backend.fd00::1.address: needs an IPv6 prefix in `node.tunnel_sources`";
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

#[test]
fn what_rewrites_sources_has_an_address_of_the_backends_family_that_is_for_nothing_else() {
    let mut web = service("203.0.113.10", (80, 80), Protocol::Tcp, Mode::FullNat);
    web.backends = vec![backend([10, 0, 0, 1].into(), None, 1)];
    let services = [web];
    let check = |sources: &[&str]| {
        let nat_sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        let tunnel_sources = vec!["10.255.0.0/24".parse().unwrap()];
        let node = Node { nat_sources, tunnel_sources, ..node() };
        check_together(&services, &Firewall::default(), &node, None)
    };
    assert_eq!(check(&["10.0.0.100/32", "fd00::100/128"]), Ok(()));
    for (sources, part, rule) in [
        (&[][..], ".vip", "needs an IPv4 address in `node.nat_sources`"),
        (&["fd00::100/128"], ".vip", "needs an IPv4 address in `node.nat_sources`"),
        (&["203.0.113.8/30"], ".vip", "must not be an address of `node.nat_sources`"),
        (
            &["10.0.0.0/30"],
            ".backend.10.0.0.1.address",
            "must not be an address of `node.nat_sources`",
        ),
        (
            &["10.255.0.4/32"],
            ".vip",
            "needs addresses in `node.nat_sources` beside `10.255.0.0/24`",
        ),
    ] {
        let mistakes = shown(&check(sources).expect_err("a mistake"));
        let expected = format!("service.203.0.113.10:80{part}: {rule}");
        assert!(mistakes.starts_with(&expected), "{mistakes}");
    }
}

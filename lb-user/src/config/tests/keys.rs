//! Keys of operation: what they mean in the model.

use std::{net::Ipv6Addr, path::Path, time::Duration};

use super::{model, node, service};
use crate::core::model::{Affinity, Model, OnDown, OnEmpty, Policy};

/// A service with two backends, of groups "blue" and "green".
fn groups(lines: &str) -> String {
    let backend = |number: u8, group: &str| {
        format!(
            "[[service.backend]]\nname = \"{group}\"\naddress = \"10.0.0.{number}\"\n\
             group = \"{group}\"\nzone = \"z{number}\"\nbackup = {}\n",
            number == 2
        )
    };
    service("") + &backend(1, "blue") + &backend(2, "green") + lines
}

#[test]
fn keys_of_operation_are_read() {
    let Model { node, admin, .. } = model(&node(
        "zone = \"az-1\"\nstate_dir = \"/srv/lb\"\n[admin]\nsocket = \"/run/other.sock\"\n\
         group = \"operators\"\nhttp = \"[::1]:9464\"",
    ));
    assert_eq!(node.zone.as_deref(), Some("az-1"));
    assert_eq!(node.state_dir, Path::new("/srv/lb"));
    assert_eq!(admin.socket, Path::new("/run/other.sock"));
    assert_eq!(admin.group.as_deref(), Some("operators"));
    assert_eq!(admin.http, Some((Ipv6Addr::LOCALHOST, 9464).into()));

    let service = &model(&service(
        "policy = \"least-flows\"\naffinity = \"client\"\nslow_start = \"30s\"
         on_empty = \"reject\"\non_down = \"reset\"",
    ))
    .services[0];
    assert_eq!(service.policy, Policy::LeastFlows);
    assert_eq!(service.affinity, Affinity::Client);
    assert_eq!(service.slow_start, Duration::from_secs(30));
    assert_eq!((service.on_empty, service.on_down), (OnEmpty::Reject, OnDown::Reset));
}

#[test]
fn groups_are_read() {
    let text = groups(
        "[service.split]\nblue = 95\ngreen = 0\n\
         [[service.route]]\nfrom = [\"198.51.100.0/24\", \"198.51.0.0/16\"]\ngroup = \"green\"\n",
    );
    let service = &model(&text).services[0];
    let split: Vec<_> = service.split.iter().map(|(group, share)| (&**group, *share)).collect();
    assert_eq!(split, [("blue", 95), ("green", 0)]);
    assert_eq!(service.routes[0].group, "green");
    assert_eq!(service.routes[0].from.len(), 2);
    let green = &service.backends[1];
    assert_eq!((green.zone.as_deref(), green.group.as_deref()), (Some("z2"), Some("green")));
    assert!(green.backup && !service.backends[0].backup);
}

#[test]
fn groups_have_backends_and_clients() {
    let route = |from: &str, group: &str| {
        groups(&format!("[[service.route]]\nfrom = {from}\ngroup = \"{group}\"\n"))
    };
    let cases = [
        (
            groups("[service.split]\nred = 1\n"),
            "service[0].split.red: 1: must be of a group with backends, `red` has none\
             \n  hint: groups of its backends: blue, green",
        ),
        (
            groups("[service.split]\nblue = 0\ngreen = 0\n"),
            "service[0].split.blue: 0: must not be 0 for every group",
        ),
        (route("[]", "blue"), "service[0].route[0].from: []: must name at least one prefix"),
        (
            route("[\"2001:db8::/32\"]", "blue"),
            "service[0].route[0].from[0]: \"2001:db8::/32\": must be an IPv4 prefix, as the VIP is\
             \n  hint: no client of the other family reaches the VIP",
        ),
        (
            route("[\"192.0.2.0/24\", \"192.0.2.0/24\"]", "blue"),
            "service[0].route[0].from[1]: \"192.0.2.0/24\": must be routed once in its service",
        ),
        (route("[\"192.0.2.0/24\"]", "red"), "must be of a group with backends, `red` has none"),
        (
            groups("").replace("port = 80", "port = 80\nmin_up = 3"),
            "service[0].min_up: 3: must be at most the number of backends, 2",
        ),
    ];
    for (text, expected) in cases {
        let mistakes = super::mistakes(&text);
        assert!(mistakes.contains(expected), "{mistakes}");
        assert_eq!(mistakes.matches(": must ").count(), 1, "{mistakes}");
    }
}

#[test]
fn every_mistake_of_routes_is_told_at_once() {
    let text = groups(
        "[[service.route]]\nfrom = [\"192.0.2.7/24\", \"198.51.100.0/24\"]\ngroup = \"red\"\n\
         [[service.route]]\nfrom = [\"198.51.100.0/24\", \"2001:db8::/32\"]\ngruop = \"blue\"\n",
    );
    let mistakes = super::mistakes(&text);
    for expected in [
        "service[0].route[0].from[0]: \"192.0.2.7/24\": must have no bits set beyond its prefix length\
         \n  hint: write \"192.0.2.0/24\" for the network, \"192.0.2.7/32\" for the one address",
        "service[0].route[0].group: \"red\": must be of a group with backends, `red` has none\
         \n  hint: groups of its backends: blue, green",
        "service[0].route[1].from[0]: \"198.51.100.0/24\": must be routed once in its service\
         \n  hint: ",
        "service[0].route[1].from[1]: \"2001:db8::/32\": must be an IPv4 prefix, as the VIP is",
        "service[0].route[1].group: missing, must be set\n  hint: the group of some backends",
        "service[0].route[1].gruop: unknown key",
    ] {
        assert!(mistakes.contains(expected), "{expected}\nis not in\n{mistakes}");
    }
}

#[test]
fn sources_that_are_allowed_can_come() {
    let allowed = |vip: &str, listed: &str| {
        service(&format!("allow_sources = [{listed}]")).replace("203.0.113.10", vip)
    };
    let (v4, v6) = ("203.0.113.10", "2001:db8::10");
    let hosts = "must be a prefix of addresses that a host can have";
    let cases = [
        (v4, "\"198.51.100.7/24\"", "must have no bits set beyond its prefix length"),
        (v4, "\"2001:db8::/32\"", "must be an IPv4 prefix, as the VIP is"),
        (v6, "\"198.51.100.0/24\"", "must be an IPv6 prefix, as the VIP is"),
        (v4, "\"127.0.0.0/8\"", hosts),
        (v4, "\"0.0.0.0/8\"", hosts),
        (v4, "\"224.0.0.0/3\"", hosts),
        (v4, "\"239.1.0.0/16\"", hosts),
        (v6, "\"ff00::/8\"", hosts),
        (v6, "\"::1\"", hosts),
        (v4, "\"10.0.0.0/8\", \"10.0.0.0/8\"", "must be listed once"),
    ];
    for (vip, listed, rule) in cases {
        let mistakes = super::mistakes(&allowed(vip, listed));
        assert!(mistakes.starts_with("8: service[0].allow_sources["), "{mistakes}");
        assert!(mistakes.contains(rule) && mistakes.contains("\n  hint: "), "{mistakes}");
        assert_eq!(mistakes.lines().count(), 2, "{mistakes}");
    }
    for (vip, listed) in [(v4, "\"0.0.0.0/0\", \"192.0.0.0/2\""), (v6, "\"::/0\", \"fe80::/10\"")] {
        let read = model(&allowed(vip, listed));
        assert_eq!(read.services[0].allow_sources.len(), 2);
    }
    let wrapped = "mode = \"ipip\"\nallow_sources = [\"2001:db8::/32\"]";
    let text =
        service(wrapped).replace("[node]\n", "[node]\ntunnel_sources = [\"10.255.0.0/24\"]\n");
    assert!(super::mistakes(&text).contains("must be an IPv4 prefix, as the VIP is"));
}

#[test]
fn new_flows_are_limited_by_a_rate_and_a_burst_that_fit_each_other() {
    let limited = |keys: &str| node(&format!("[firewall]\nnew_flows_per_source = {keys}"));
    let path = "4: firewall.new_flows_per_source";
    let cases = [
        (
            "500",
            format!(
                "{path}: 500: must be a table\n  hint: as in `new_flows_per_source = {{ rate = 500, burst = 1000 }}`\n"
            ),
        ),
        (
            "{ rate = 5 }",
            format!(
                "{path}.burst: missing, must be set\n  hint: new flows at once, such as 1000\n"
            ),
        ),
        (
            "{ burst = 5 }",
            format!("{path}.rate: missing, must be set\n  hint: new flows a second, such as 500\n"),
        ),
        ("{ rate = 0, burst = 5 }", format!("{path}.rate: 0: must be 1 to 1000000\n")),
        ("{ rate = 5, burst = 1 }", format!("{path}.burst: 1: must be 2 to 10000000\n")),
        (
            "{ rate = 1001, burst = 10 }",
            format!(
                "{path}.burst: 10: must be at least a hundredth of `rate`, 11\
                 \n  hint: time is measured in ticks of the kernel, which may take 10ms each\n"
            ),
        ),
        (
            "{ rate = 5, burst = 5, brust = 5 }",
            format!("{path}.brust: unknown key\n  hint: did you mean `burst`?\n"),
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(super::mistakes(&limited(keys)), expected);
    }
    let read = model(&limited("{ rate = 1001, burst = 11 }"));
    let limit = crate::core::model::NewFlows { rate: 1001, burst: 11 };
    assert_eq!(read.firewall.new_flows_per_source, Some(limit));
    assert_eq!(model(&node("")).firewall.new_flows_per_source, None);
}

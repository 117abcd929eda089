//! Rules between values.

use std::fmt::Write as _;

use lb_common::{limits, service::RANGES};

use super::{mistakes, model, node};
use crate::core::model::{Affinity, Mode};

/// A service: VIP, port, further lines, and backends as further lines each.
fn service(index: usize, vip: &str, port: &str, lines: &str, backends: &[&str]) -> String {
    let mut text =
        format!("[[service]]\nname = \"s{index}\"\nvip = \"{vip}\"\nport = {port}\n{lines}\n");
    for (number, lines) in backends.iter().enumerate() {
        let _ = writeln!(text, "[[service.backend]]\nname = \"b{number}\"\n{lines}");
    }
    text
}

/// One service with backends.
fn one(port: &str, lines: &str, backends: &[&str]) -> String {
    node("") + &service(0, "203.0.113.10", port, lines, backends)
}

const A: &str = "address = \"10.0.0.1\"";
const B: &str = "address = \"10.0.0.2\"";

fn refused(text: &str, expected: &str) {
    let mistakes = mistakes(text);
    assert!(mistakes.contains(expected), "{mistakes}");
    assert_eq!(
        mistakes.lines().filter(|line| !line.starts_with("  hint")).count(),
        1,
        "{mistakes}"
    );
}

#[test]
fn interfaces_are_some_and_unique() {
    refused("", "1: node.interfaces: must name at least one interface");
    refused("[node]\ninterfaces = []", "2: node.interfaces: []: must name at least one interface");
    refused(
        "[node]\ninterfaces = [\"eth0\", \"eth0\"]",
        "2: node.interfaces[1]: \"eth0\": must be listed once\
         \n  hint: `node.interfaces[0]` in line 2 is the same",
    );
    let many: Vec<_> = (0..=limits::PORTS).map(|index| format!("\"eth{index}\"")).collect();
    refused(
        &format!("[node]\ninterfaces = [{}]", many.join(", ")),
        "must be 64 interfaces at most",
    );
}

#[test]
fn vip_is_an_address_clients_can_route_to() {
    let kinds = [
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("127.0.0.2", "a loopback address"),
        ("::1", "a loopback address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "the broadcast address"),
        ("0.1.2.3", "a reserved address"),
        ("240.0.0.1", "a reserved address"),
        ("169.254.1.1", "a link-local address"),
        ("fe80::1", "a link-local address"),
    ];
    for (vip, kind) in kinds {
        let text = node("") + &service(0, vip, "80", "", &[]);
        refused(
            &text,
            &format!(
                "service[0].vip: \"{vip}\": must be a unicast address that is routed\
                 \n  hint: this is {kind}"
            ),
        );
    }
}

#[test]
fn names_are_unique() {
    let text = one("80", "", &[A, B]).replace("\"b1\"", "\"b0\"");
    refused(
        &text,
        "service[0].backend[1].name: \"b0\": must be unique in its service\
         \n  hint: `service[0].backend[0].name` in line 10 is the same",
    );
    let text = one("80", "", &[A]) + &service(1, "203.0.113.11", "80", "", &[A]);
    model(&text);
    refused(
        &text.replace("\"s1\"", "\"s0\""),
        "service[1].name: \"s0\": must be unique among services",
    );
}

#[test]
fn ports_of_a_vip_and_protocol_are_for_one_service() {
    let two = |first: &str, second: &str, lines: &str| {
        node("")
            + &service(0, "203.0.113.10", first, "", &[])
            + &service(1, "203.0.113.10", second, lines, &[])
    };
    let rule = "must not be taken by another service of this VIP and protocol\
     \n  hint: see `service[0].port` in line 7";
    refused(&two("80", "80", ""), &format!("service[1].port: 80: {rule}"));
    refused(&two("80", "\"80-80\"", ""), &format!("service[1].port: \"80-80\": {rule}"));
    refused(&two("\"80-90\"", "\"90-95\"", ""), &format!("service[1].port: \"90-95\": {rule}"));
    refused(&two("\"80-90\"", "\"82-83\"", ""), &format!("service[1].port: \"82-83\": {rule}"));
    refused(&two("\"any\"", "\"any\"", ""), &format!("service[1].port: \"any\": {rule}"));
    model(&two("80", "80", "protocol = \"udp\""));
    model(&two("\"any\"", "80", ""));
    model(&two("80", "\"any\"", ""));
    model(&two("\"80-90\"", "\"91-95\"", ""));
    model(&two("\"80-90\"", "\"80-90\"", "protocol = \"udp\""));
}

#[test]
fn ranges_of_a_vip_are_limited() {
    let services = |count: usize| {
        let service = |index: usize| {
            let protocol = if index.is_multiple_of(2) { "protocol = \"udp\"" } else { "" };
            service(
                index,
                "203.0.113.10",
                &format!("\"{}-{}\"", index * 10 + 1, index * 10 + 9),
                protocol,
                &[],
            )
        };
        node("") + &(0..count).map(service).collect::<String>()
    };
    model(&services(RANGES));
    refused(&services(RANGES + 1), "must be 16 services with a range of ports per VIP at most");
}

#[test]
fn backends_are_of_the_vips_family_and_no_vip() {
    let address = |address: &str| one("80", "", &[&format!("address = \"{address}\"")]);
    let path = "service[0].backend[0].address";
    refused(
        &address("2001:db8::1"),
        &format!("{path}: \"2001:db8::1\": must be an IPv4 address, as the VIP is"),
    );
    refused(
        &address("203.0.113.10"),
        &format!(
            "{path}: \"203.0.113.10\": must not be a VIP\
             \n  hint: `service[0].vip` in line 6 is this address"
        ),
    );
    refused(&address("127.0.0.1"), "hint: this is a loopback address");
    refused(&address("0.0.0.0"), "hint: this is the unspecified address");
    refused(
        &address("::ffff:10.0.0.1"),
        "must not be IPv4 written as IPv6\n  hint: write \"10.0.0.1\"",
    );
    refused(&address("10.0.0.1/24"), "hint: without prefix length: \"10.0.0.1\"");
    refused(&address("10.0.0.1:80"), "hint: write \"10.0.0.1\", and `port = 80`");
    let v6 = node("") + &service(0, "2001:db8::10", "80", "", &[A]);
    refused(&v6, "must be an IPv6 address, as the VIP is");
    let other = address("203.0.113.11") + &service(1, "203.0.113.11", "443", "", &[A]);
    refused(&other, "must not be a VIP\n  hint: `service[1].vip` in line");
}

#[test]
fn backends_of_a_service_differ_in_address_or_port() {
    let rule = "must differ from other backends of the service in address or port\
     \n  hint: `service[0].backend[0].address` in line 11 is the same";
    refused(&one("80", "", &[A, A]), rule);
    refused(&one("80", "", &[A, &format!("{A}\nport = 80")]), rule);
    refused(&one("80", "mode = \"dsr\"", &[A, A]), rule);
    let text = one("80", "", &[A, &format!("{A}\nport = 8080")]);
    assert_eq!(model(&text).services[0].backends[1].port, Some(8080));
}

#[test]
fn backend_port_needs_nat_and_one_service_port() {
    let port = |port: u16| format!("{A}\nport = {port}");
    let dsr = |service: &str, backend: u16| one(service, "mode = \"dsr\"", &[&port(backend)]);
    refused(&dsr("80", 8080), "service[0].backend[0].port: 8080: must be left out in mode \"dsr\"");
    refused(&dsr("\"80-90\"", 80), "must be left out in mode \"dsr\"");
    refused(
        &one("\"80-90\"", "", &[&port(80)]),
        "must be left out where the service has several ports",
    );
    let service = &model(&dsr("80", 80)).services[0];
    assert_eq!((service.mode, service.backends[0].port), (Mode::Dsr, None));
}

#[test]
fn backend_port_that_is_the_services_own_is_no_rewrite() {
    let text = one("80", "", &[&format!("{A}\nport = 80")]);
    assert_eq!(model(&text), model(&one("80", "", &[A])));
}

#[test]
fn services_may_share_backends() {
    let two = |first: (&str, &str), second: (&str, &str)| {
        node("")
            + &service(0, "203.0.113.10", first.0, first.1, &[A, B])
            + &service(1, "203.0.113.11", second.0, second.1, &[A])
    };
    model(&two(("443", ""), ("443", "")));
    model(&two(("\"80-90\"", ""), ("443", "protocol = \"udp\"")));
    model(&two(("\"80-90\"", ""), ("443", "")));
    model(&two(("\"80-90\"", ""), ("\"80-90\"", "")));
    model(&two(("\"80-90\"", ""), ("443", "mode = \"dsr\"")));
    model(&two(("\"80-90\"", "mode = \"dsr\""), ("\"80-90\"", "mode = \"dsr\"")));
}

#[test]
fn sizes_of_the_maps_are_limits() {
    let services = |count: u32| {
        let vip = |index: u32| format!("10.1.{}.{}", index / 256, index % 256);
        let service = |index: u32| service(index as usize, &vip(index), "80", "", &[]);
        node("") + &(0..count).map(service).collect::<String>()
    };
    assert_eq!(model(&services(limits::SERVICES - 1)).services.len(), 4095);
    refused(&services(limits::SERVICES), "service[4095]: must be 4095 services at most");

    let backends = |count: u32| {
        let address = |index: u32| format!("address = \"10.2.{}.{}\"", index / 256, index % 256);
        let addresses: Vec<_> = (0..count).map(address).collect();
        one("80", "", &addresses.iter().map(String::as_str).collect::<Vec<_>>())
    };
    model(&backends(limits::BACKENDS - 1));
    refused(&backends(limits::BACKENDS), "backend[16383]: must be 16383 backends at most");
}

#[test]
fn denied_prefixes_are_limited_per_family() {
    let deny = |count: u32| {
        let net = |index: u32| format!("\"10.{}.{}.0/24\"", index / 256 % 256, index % 256);
        let nets: Vec<_> = (0..count).map(net).collect();
        node("") + &format!("[firewall]\ndeny_sources = [\"::/0\", {}]\n", nets.join(", "))
    };
    model(&deny(limits::DENY_PREFIXES));
    refused(
        &deny(limits::DENY_PREFIXES + 1),
        "5: firewall.deny_sources: must be 65536 IPv4 prefixes at most",
    );
}

#[test]
fn service_without_backends_or_with_weights_of_nothing_is_legal() {
    assert!(model(&one("80", "", &[])).services[0].backends.is_empty());
    assert_eq!(
        model(&one("80", "", &[&format!("{A}\nweight = 0")])).services[0].backends[0].weight,
        0
    );
}

#[test]
fn denied_sources_have_no_host_bits() {
    let deny = |net: &str| node("") + &format!("[firewall]\ndeny_sources = [\"{net}\"]\n");
    refused(
        &deny("192.0.2.1/24"),
        "must have no bits set beyond its prefix length\
         \n  hint: write \"192.0.2.0/24\" for the network, \"192.0.2.1/32\" for the one address",
    );
    refused(&deny("::ffff:192.0.2.0/120"), "must not be IPv4 written as IPv6");
    refused(&deny("192.0.2.0/33"), "must be an address and a prefix length");
    let one = model(&deny("2001:db8::1")).firewall.deny_sources[0];
    assert_eq!(one.to_string(), "2001:db8::1/128");
}

#[test]
fn only_datagrams_go_without_affinity_and_nobody_counts_their_flows() {
    let none = |lines: &str| one("53", &format!("affinity = \"none\"\n{lines}"), &[A]);
    refused(
        &none(""),
        "service[0].affinity: \"none\": must be \"flow\" or \"client\" where the protocol is TCP\
         \n  hint: a connection stays with its backend; \"none\" is for UDP services whose \
         datagrams stand alone, such as DNS",
    );
    let udp = "protocol = \"udp\"";
    refused(
        &none(&format!("{udp}\npolicy = \"least-flows\"")),
        "service[0].policy: \"least-flows\": must not be \"least-flows\" where `affinity` is \"none\"\
         \n  hint: no flow is recorded, so there is none to count",
    );
    let fullnat = node("nat_sources = [\"10.0.0.100\"]")
        + &service(
            0,
            "203.0.113.10",
            "53",
            &format!("affinity = \"none\"\n{udp}\nmode = \"fullnat\""),
            &[A],
        );
    refused(
        &fullnat,
        "service[0].affinity: \"none\": must be \"flow\" or \"client\" where `mode` is \"fullnat\"\
         \n  hint: a flow has a source port at one backend, and its answers come from there",
    );
    assert_eq!(model(&none(udp)).services[0].affinity, Affinity::None);
}

#[test]
fn who_notes_no_flow_shares_no_port_whose_answers_are_rewritten() {
    let two = |first: (&str, &str), second: (&str, &str), mode: &str| {
        let lines = |affinity: &str| format!("protocol = \"udp\"\nmode = \"{mode}\"\n{affinity}\n");
        let none = lines("affinity = \"none\"");
        node("")
            + &service(0, "203.0.113.10", first.0, &none, &[first.1])
            + &service(1, "203.0.113.11", second.0, &lines(""), &[second.1])
    };
    let rule = "must not share its port with another service where `affinity` is \"none\" and \
                `mode` is \"nat\"\n  hint: see `service[1].backend[0].address` in line";
    let at_5353 = "address = \"10.0.0.1\"\nport = 5353";
    for (first, second) in [
        (("53", A), ("53", A)),
        (("53", at_5353), ("5353", A)),
        (("53", A), ("\"any\"", A)),
        (("\"1-9\"", A), ("53", A)),
    ] {
        refused(&two(first, second, "nat"), rule);
        model(&two(first, (second.0, B), "nat"));
    }
    model(&two(("53", A), ("54", A), "nat"));
    model(&two(("53", at_5353), ("53", A), "nat"));
    model(&two(("53", A), ("53", A), "dsr"));
}

#[test]
fn quic_configurations_fit_into_a_connection_id_and_are_told_apart() {
    let quic = |protocol: &str, ids: &str, tables: &[(u8, u8, u8)]| {
        let mut text = one(
            "443",
            &format!("protocol = \"{protocol}\""),
            &[A, &format!("{B}\nserver_ids = [{ids}]")],
        );
        for (id, sid, nonce) in tables {
            let _ = write!(
                text,
                "[[service.quic]]\nid = {id}\nserver_id_length = {sid}\nnonce_length = {nonce}\n"
            );
        }
        text
    };
    let configs =
        &model(&quic("udp", "\"0a0b\", \"01\"", &[(0, 2, 17), (6, 1, 4)])).services[0].quic;
    assert_eq!(configs.len(), 2);
    refused(
        &quic("tcp", "\"0a0b\"", &[(0, 2, 4)]),
        "service[0].quic[0]: must be left out where the protocol is TCP\
         \n  hint: QUIC is carried by UDP: `protocol = \"udp\"`",
    );
    refused(
        &quic("udp\"\nmode = \"fullnat", "\"0a0b\"", &[(0, 2, 4)]).replacen(
            "[node]",
            "[node]\nnat_sources = [\"10.0.0.100\"]",
            1,
        ),
        "service[0].quic[0]: must be left out where `mode` is \"fullnat\"\
         \n  hint: a client's port has one source port at one backend, whatever connections \
         share it; use another mode",
    );
    refused(
        &quic("udp", "", &[(0, 2, 4), (0, 3, 5)]),
        "service[0].quic[1].id: 0: must be unique in its service",
    );
    refused(
        &quic("udp", "", &[(0, 2, 18)]),
        "service[0].quic[0].nonce_length: 18: must be 17 at most beside a server ID of 2 octets\
         \n  hint: a connection ID has 20 octets at most, and one in front of both (RFC 9000)",
    );
    refused(&quic("udp", "", &[(7, 2, 4)]), "quic[0].id: 7: must be 0 to 6");
    refused(&quic("udp", "", &[(0, 0, 4)]), "quic[0].server_id_length: 0: must be 1 to 15");
    refused(&quic("udp", "", &[(0, 1, 3)]), "quic[0].nonce_length: 3: must be 4 to 18");
    let ids = "service[0].backend[1].server_ids";
    refused(
        &quic("udp", "\"0a\"", &[(0, 2, 4), (1, 3, 4)]),
        &format!(
            "{ids}[0]: \"0a\": must have 2 or 3 octets, as `server_id_length` says\
             \n  hint: two digits for each"
        ),
    );
    refused(
        &quic("udp", "\"0a\"", &[]),
        &format!(
            "{ids}[0]: \"0a\": must be left out in a service without `quic`\
             \n  hint: `[[service.quic]]` says what connection IDs look like"
        ),
    );
    refused(
        &quic("udp", "\"0a0b\", \"0A0B\"", &[(0, 2, 4)]),
        &format!("{ids}[1]: \"0A0B\": must be unique in its service"),
    );
    refused(
        &quic("udp", "\"xyz\"", &[(0, 2, 4)]),
        &format!(
            "{ids}[0]: \"xyz\": must be hexadecimal digits, two for each of 1 to 15 octets\
             \n  hint: such as \"ed793a51\""
        ),
    );
}

#[test]
fn syn_cookies_are_for_tcp_whose_answers_pass_here() {
    let text = |lines: &str| one("80", lines, &[A]);
    let above = |lines: &str| model(&text(lines)).services[0].syn_cookies_above;
    assert_eq!(above(""), None);
    assert_eq!(above("syn_cookies_above = \"off\"\nmode = \"dsr\""), None);
    assert_eq!(above("syn_cookies_above = 0"), Some(0));
    assert_eq!(above("syn_cookies_above = 5000"), Some(5000));
    refused(
        &text("syn_cookies_above = 1\nprotocol = \"udp\""),
        "syn_cookies_above: 1: must be \"off\" where `protocol` is \"udp\"",
    );
    for mode in ["dsr", "gue"] {
        let sources = "tunnel_sources = [\"172.31.0.0/16\"]\n";
        let text = text(&format!("syn_cookies_above = 1\nmode = \"{mode}\""));
        let text = text.replacen("[node]\n", &format!("[node]\n{sources}"), 1);
        let expected =
            "syn_cookies_above: 1: must be \"off\" unless `mode` is \"nat\" or \"fullnat\"";
        assert!(mistakes(&text).contains(expected), "{}", mistakes(&text));
    }
    let expected = "must be 0 to 100000000, or \"off\"";
    for wrong in ["-1", "\"on\"", "true", "100_000_001"] {
        let mistakes = mistakes(&text(&format!("syn_cookies_above = {wrong}")));
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

//! Which ports and protocols of a VIP are open, and who may speak to it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::{Case, PORT, client, from_backend, from_client},
    forward::assert_forwarded,
    frame::{ARP, Body, Frame, Icmp, Packet, SYN, Tcp, Udp, ethernet},
    network::{CLIENT, L0, L1, backend, backend_mac},
    setup::{Service, Setup},
    subject::Subject,
};

fn tcp(source: IpAddr, destination: IpAddr, port: u16) -> Frame {
    from_client(Packet::new(source, destination, Tcp::body(PORT, port, 16)))
}

fn udp(source: IpAddr, destination: IpAddr, port: u16) -> Frame {
    from_client(Packet::new(source, destination, Udp::body(PORT, port)))
}

fn other_families(case: Case) -> bool {
    case.mode == Mode::Nat && case.protocol == Protocol::Tcp
}

#[test]
fn a_port_without_a_service_is_closed() -> Result<()> {
    Case::each(|subject, case| {
        let (source, vip) = (case.client(), case.vip());
        for port in [0, 1, 22, 81, 443, 8080, 65_535] {
            subject.drops("tcp", &tcp(source, vip, port), Counter::PortNotAllowed);
            subject.drops("udp", &udp(source, vip, port), Counter::PortNotAllowed);
        }
        // The service's port of the other protocol.
        subject.drops("tcp", &tcp(source, vip, 53), Counter::PortNotAllowed);
        subject.drops("udp", &udp(source, vip, 80), Counter::PortNotAllowed);
    })
}

#[test]
fn a_port_that_is_allowed_goes_to_the_host() -> Result<()> {
    let setup = Case::setup().firewall(r#"allow = ["tcp/22", "udp/5000-5100"]"#);
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let (source, vip) = (case.client(), case.vip());
            subject.passes("tcp 22", &tcp(source, vip, 22));
            subject.drops("udp 22", &udp(source, vip, 22), Counter::PortNotAllowed);
            for port in [5000, 5050, 5100] {
                subject.passes("udp range", &udp(source, vip, port));
                subject.drops("tcp", &tcp(source, vip, port), Counter::PortNotAllowed);
            }
            for port in [4999, 5101] {
                subject.drops("udp", &udp(source, vip, port), Counter::PortNotAllowed);
            }
            assert_forwarded(subject, case, "the service", &case.request());
        }
    })
}

#[test]
fn protocols_without_ports_are_closed() -> Result<()> {
    Case::each(|subject, case| {
        // GRE, ESP, SCTP, UDP-Lite, nothing (RFC 8200), experiments.
        for proto in [47, 50, 132, 136, 59, 253] {
            let packet = Packet::new(case.client(), case.vip(), Body::Other(proto, vec![0; 32]));
            let what = format!("protocol {proto}");
            subject.drops(&what, &from_client(packet), Counter::ProtocolNotAllowed);
        }
        // The other version's ICMP.
        let proto = if case.v4 { 58 } else { 1 };
        let packet = Packet::new(
            case.client(),
            case.vip(),
            Body::Other(proto, vec![8, 0, 0, 0, 0, 0, 0, 0]),
        );
        subject.drops("alien ICMP", &from_client(packet), Counter::ProtocolNotAllowed);
    })
}

#[test]
fn protocols_without_ports_pass_to_others() -> Result<()> {
    Case::each(|subject, case| {
        for proto in [47, 50, 112, 132] {
            for other in
                if case.v4 { ["10.1.0.1", "224.0.0.18"] } else { ["fd00:1::1", "ff02::12"] }
            {
                let other: IpAddr = other.parse().unwrap();
                let packet = Packet::new(case.client(), other, Body::Other(proto, vec![0; 32]));
                subject.passes(&format!("protocol {proto} to {other}"), &from_client(packet));
            }
        }
    })
}

/// A range around an exact port, and another range: (port, backend) expected.
const RANGES: [(u16, u8); 10] = [
    (8000, 1),
    (8001, 1),
    (8054, 1),
    (8055, 2),
    (8056, 1),
    (8100, 1),
    (8101, 3),
    (8102, 3),
    (65_534, 3),
    (65_535, 2),
];

/// Any port, but for an exact one.
const ANY: [(u16, u8); 7] =
    [(1, 1), (79, 1), (80, 2), (81, 1), (8055, 1), (40_000, 1), (65_535, 1)];

#[test]
fn a_range_has_all_its_ports_but_for_those_of_exact_services() -> Result<()> {
    let services = |ports: &[(&str, u8)]| {
        let service = |case: Case, (port, number): (&str, u8)| {
            Service::new(case.mode, case.vip(), case.protocol, port)
                .to(backend(case.v4, number), None)
        };
        let of = |case| ports.iter().map(move |port| service(case, *port)).collect::<Vec<_>>();
        Setup::new(Case::all().into_iter().flat_map(of))
    };
    let ranges =
        services(&[("\"8000-8100\"", 1), ("\"8101-65535\"", 3), ("8055", 2), ("65535", 2)]);
    let any = services(&[("\"any\"", 1), ("80", 2)]);
    Subject::with(&ranges, |subject| {
        for case in Case::all() {
            RANGES.iter().for_each(|(port, to)| assert_ranged(subject, case, *port, *to));
            let below = Packet::new(case.client(), case.vip(), body(case.protocol, PORT, 7999));
            subject.drops("a port below", &from_client(below), Counter::PortNotAllowed);
        }
        subject.reload(&any);
        for case in Case::all() {
            ANY.iter().for_each(|(port, to)| assert_ranged(subject, case, *port, *to));
        }
    })
}

fn body(protocol: Protocol, source: u16, destination: u16) -> Body {
    match protocol {
        Protocol::Tcp => Tcp::body(source, destination, 16),
        Protocol::Udp => Udp::body(source, destination),
    }
}

/// The port is kept, there and back.
#[track_caller]
fn assert_ranged(subject: &Subject<'_>, case: Case, port: u16, number: u8) {
    let Case { mode, v4, protocol } = case;
    let (vip, to) = (case.vip(), backend(v4, number));
    let request = from_client(Packet::new(client(v4), vip, body(protocol, PORT, port)));
    let expected = request.with(|frame| {
        (frame.to, frame.from) = (backend_mac(number), L1);
        frame.packet.hops -= 1;
        if mode == Mode::Nat {
            frame.packet.destination = to;
        }
    });
    let what = format!("{}, port {port}", case.name());
    subject.forwards(&what, &request, &expected, to);
    if mode == Mode::Nat {
        let answer = Packet::new(to, client(v4), body(protocol, port, PORT));
        let answer = from_backend(number, answer);
        let answered = answer.with(|frame| {
            (frame.to, frame.from) = (CLIENT, L0);
            frame.packet.source = vip;
            frame.packet.hops -= 1;
        });
        subject.replies(&format!("{what}: the answer"), &answer, &answered, to);
    }
}

fn denying() -> Setup {
    Case::setup().firewall(
        r#"deny_sources = ["198.51.100.0/24", "192.0.2.128/25", "10.64.7.7/32",
            "2001:db8:bad::/48", "fd00:64::7/128"]"#,
    )
}

const DENIED_V4: [&str; 5] =
    ["198.51.100.0", "198.51.100.255", "192.0.2.128", "192.0.2.255", "10.64.7.7"];
const NEARBY_V4: [&str; 5] =
    ["198.51.99.255", "198.51.101.0", "192.0.2.127", "10.64.7.6", "10.64.7.8"];
const DENIED_V6: [&str; 3] =
    ["2001:db8:bad::", "2001:db8:bad:ffff:ffff:ffff:ffff:ffff", "fd00:64::7"];
const NEARBY_V6: [&str; 4] = ["2001:db8:bac:ffff::", "2001:db8:bae::", "fd00:64::6", "fd00:64::8"];

#[test]
fn denied_sources_are_dropped_and_their_neighbours_are_not() -> Result<()> {
    Subject::with(&denying(), |subject| {
        for case in Case::all() {
            let (denied, nearby) = if case.v4 {
                (&DENIED_V4[..], &NEARBY_V4[..])
            } else {
                (&DENIED_V6[..], &NEARBY_V6[..])
            };
            for source in denied {
                let source = source.parse().unwrap();
                let request = case.request_from(source, PORT);
                subject.drops(&format!("from {source}"), &request, Counter::SourceDenied);
                let elsewhere = tcp(source, case.vip(), 4711);
                subject.drops(&format!("from {source}"), &elsewhere, Counter::SourceDenied);
            }
            for source in nearby {
                let request = case.request_from(source.parse().unwrap(), PORT);
                assert_forwarded(subject, case, &format!("from {source}"), &request);
            }
        }
    })
}

#[test]
fn a_denied_source_gets_no_echo() -> Result<()> {
    Subject::with(&denying(), |subject| {
        for case in Case::all().into_iter().filter(|case| other_families(*case)) {
            let source = if case.v4 { DENIED_V4[0] } else { DENIED_V6[0] };
            let echo = Body::Icmp(Icmp {
                kind: if case.v4 { 8 } else { 128 },
                code: 0,
                rest: [0, 1, 0, 1],
                payload: vec![1, 2, 3],
            });
            let frame = from_client(Packet::new(source.parse().unwrap(), case.vip(), echo));
            subject.drops("echo", &frame, Counter::SourceDenied);
        }
    })
}

#[test]
fn neighbours_are_found_whatever_is_denied() -> Result<()> {
    let setup = Case::setup().firewall(r#"deny_sources = ["0.0.0.0/0", "::/0"]"#);
    Subject::with(&setup.firewall(r#"host = "drop""#), |subject| {
        for frame in neighbour_discovery() {
            subject.passes("neighbour discovery", frame);
        }
    })
}

/// ARP, and every message of neighbour discovery (RFC 4861).
pub(super) fn neighbour_discovery() -> Vec<Vec<u8>> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(CLIENT);
    arp.extend([10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1]);
    let mut frames = vec![ethernet([0xff; 6], CLIENT, &[], ARP, &arp)];
    let sources: [Ipv6Addr; 3] = [
        "fe80::2".parse().unwrap(),
        "fd00:1::2".parse().unwrap(),
        // Duplicate address detection (RFC 4862).
        Ipv6Addr::UNSPECIFIED,
    ];
    let destinations: [Ipv6Addr; 3] = [
        "ff02::1:ff00:1".parse().unwrap(),
        "fd00:1::1".parse().unwrap(),
        "fe80::1".parse().unwrap(),
    ];
    for source in sources {
        for destination in destinations {
            for kind in 133..=137 {
                let body =
                    Body::Icmp(Icmp { kind, code: 0, rest: [0; 4], payload: vec![0x11; 24] });
                let packet = Packet::new(source.into(), destination.into(), body);
                let frame = from_client(packet.with(|packet| packet.hops = 255));
                // To the station, and to its group (RFC 2464, section 7).
                frames.push(frame.bytes());
                frames.push(frame.with(|frame| frame.to = [0x33, 0x33, 0xff, 0, 0, 1]).bytes());
            }
        }
    }
    frames
}

#[test]
fn sources_that_cannot_be_begin_no_flow() -> Result<()> {
    Case::each(|subject, case| {
        let mut sources: Vec<IpAddr> = if case.v4 {
            [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]]
                .map(|octets| Ipv4Addr::from(octets).into())
                .to_vec()
        } else {
            ["::", "::1", "ff02::1", "ff0e::1234", "::ffff:10.1.0.2", "::ffff:0:0"]
                .map(|text| text.parse().unwrap())
                .to_vec()
        };
        // Its own VIP, and one of another service.
        let vips = Case::all().into_iter().filter(|other| other.v4 == case.v4);
        sources.extend(vips.map(Case::vip).collect::<BTreeSet<_>>());
        for source in sources {
            let request = case.request_from(source, PORT);
            let opening = request.with(|frame| {
                if let Body::Tcp(tcp) = &mut frame.packet.body {
                    tcp.flags = SYN;
                }
            });
            for frame in [opening, request] {
                subject.drops(&format!("from {source}"), &frame, Counter::BadSource);
            }
        }
    })
}

#[test]
fn sources_that_cannot_be_are_left_alone_where_nothing_is_ours() -> Result<()> {
    Case::each(|subject, case| {
        let sources = if case.v4 { ["127.0.0.1", "240.0.0.1"] } else { ["::1", "::ffff:1.2.3.4"] };
        let sources = sources.map(|text| text.parse().unwrap()).into_iter().chain([case.vip()]);
        let elsewhere = if case.v4 { "192.0.2.77" } else { "2001:db8:77::1" };
        for source in sources {
            let destination = elsewhere.parse().unwrap();
            subject.passes(&format!("tcp from {source}"), &tcp(source, destination, 80));
            subject.passes(&format!("udp from {source}"), &udp(source, destination, 53));
        }
    })
}

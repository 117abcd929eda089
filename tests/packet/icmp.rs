//! ICMP: echo to a VIP, and errors about flows in both directions.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::{Case, PORT, client, client_number, from_backend, from_client},
    check::assert_valid,
    frame::{Body, Frame, Icmp, Packet, QINQ, VLAN},
    network::{CLIENT, L0, L1, backend, backend_mac},
    setup::Setup,
    subject::{Action, Subject},
};

/// Bytes of the transport header that every error quotes (RFC 792), and more
/// than any packet has.
pub(super) const QUOTED: [usize; 4] = [8, 19, 20, 2000];

fn echo(v4: bool, payload: &[u8]) -> Body {
    let kind = if v4 { 8 } else { 128 };
    Body::Icmp(Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 7], payload: payload.to_vec() })
}

#[test]
fn an_echo_request_to_a_vip_is_answered() -> Result<()> {
    Case::each(|subject, case| {
        for size in [0, 1, 56, 1400] {
            for tags in [vec![], vec![(VLAN, 5)], vec![(QINQ, 6), (VLAN, 7)]] {
                for hops in [1, 64, 255] {
                    let payload: Vec<_> = (0..size).map(|i| i as u8).collect();
                    let packet = Packet::new(case.client(), case.vip(), echo(case.v4, &payload));
                    let request = from_client(packet).with(|frame| {
                        frame.tags.clone_from(&tags);
                        frame.packet.hops = hops;
                    });
                    assert_echoed(subject, case, &request);
                }
            }
        }
    })
}

fn assert_echoed(subject: &Subject<'_>, case: Case, request: &Frame) {
    let expected = request.with(|frame| {
        (frame.to, frame.from) = (CLIENT, L0);
        (frame.packet.source, frame.packet.destination) = (case.vip(), case.client());
        frame.packet.hops = 64;
        if let Body::Icmp(icmp) = &mut frame.packet.body {
            icmp.kind = if case.v4 { 0 } else { 129 };
        }
    });
    let expected = expected.bytes();
    assert_valid(&expected);
    let outcome = subject.run(request);
    assert_eq!(outcome.frame, expected, "{}", case.name());
    assert_eq!(outcome.action, Action::Transmit);
    let counted: Vec<_> = outcome.counted.into_iter().collect();
    assert_eq!(counted, [("echo_replied", 1)]);
}

#[test]
fn an_echo_request_to_others_passes() -> Result<()> {
    Case::each(|subject, case| {
        for other in
            if case.v4 { ["10.1.0.1", "192.0.2.1"] } else { ["fd00:1::1", "2001:db8:1::1"] }
        {
            let packet = Packet::new(case.client(), other.parse().unwrap(), echo(case.v4, b"abc"));
            subject.passes(&format!("echo to {other}"), &from_client(packet));
        }
    })
}

#[test]
fn an_echo_request_from_nowhere_is_not_answered() -> Result<()> {
    Case::each(|subject, case| {
        let mut sources: Vec<IpAddr> = if case.v4 {
            vec!["127.0.0.1".parse().unwrap(), "224.0.0.1".parse().unwrap()]
        } else {
            vec!["::1".parse().unwrap(), "ff02::1".parse().unwrap()]
        };
        sources.push(case.vip());
        for source in sources {
            let packet = Packet::new(source, case.vip(), echo(case.v4, b"abc"));
            subject.drops(&format!("from {source}"), &from_client(packet), Counter::BadSource);
        }
    })
}

#[test]
fn other_messages_to_a_vip_are_dropped() -> Result<()> {
    Case::each(|subject, case| {
        // Echo reply, redirect, timestamp, address mask; echo reply, name
        // lookup, experiments.
        for kind in if case.v4 { [0, 5, 13, 17] } else { [129, 139, 200, 201] } {
            let body = Body::Icmp(Icmp { kind, code: 0, rest: [0; 4], payload: vec![0; 28] });
            let frame = from_client(Packet::new(case.client(), case.vip(), body));
            subject.drops(&format!("type {kind}"), &frame, Counter::ProtocolNotAllowed);
        }
    })
}

/// Errors that a backend or a router behind the balancer sends, as type, code
/// and rest: unreachable port and host, spent time, and a path too narrow.
pub(super) fn errors(v4: bool) -> Vec<(u8, u8, [u8; 4])> {
    if v4 {
        vec![
            (3, 3, [0; 4]),
            (3, 1, [0; 4]),
            (11, 0, [0; 4]),
            (3, 4, [0, 0, 5, 0]),
            (12, 0, [20, 0, 0, 0]),
        ]
    } else {
        vec![
            (1, 4, [0; 4]),
            (1, 0, [0; 4]),
            (3, 0, [0; 4]),
            (2, 0, [0, 0, 5, 0]),
            (4, 1, [0, 0, 0, 6]),
        ]
    }
}

#[test]
fn an_error_of_a_backend_reaches_the_client_as_the_vips() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            errors_to_client(subject, case, backend(case.v4, 1), case.vip());
        }
    })
}

#[test]
fn an_error_of_a_router_behind_the_balancer_reaches_the_client_as_the_routers() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            let router: IpAddr = if case.v4 { "10.2.0.77" } else { "fd00:2::77" }.parse().unwrap();
            errors_to_client(subject, case, router, router);
        }
    })
}

/// Errors from `from` about what the balancer sent to backend 1 arrive at the
/// client as from `seen`, quoting what the client sent.
pub(super) fn errors_to_client(subject: &Subject<'_>, case: Case, from: IpAddr, seen: IpAddr) {
    let requests = quotable(&case.request().packet);
    for (kind, code, rest) in errors(case.v4) {
        for (length, request) in
            QUOTED.iter().flat_map(|length| requests.iter().map(move |r| (*length, r)))
        {
            let error = |source, quoted: &Packet| {
                let body = Icmp::error(kind, code, rest, quoted.quote(length));
                Packet::new(source, case.client(), body)
            };
            let sent = from_backend(1, error(from, &case.translated(request, 1)));
            let expected = Frame {
                to: CLIENT,
                from: L0,
                ..from_client(error(seen, request).with(|packet| packet.hops -= 1))
            };
            let what = format!("{}: type {kind} code {code}, {length} bytes quoted", case.name());
            subject.replies(&what, &sent, &expected, backend(case.v4, 1));
        }
    }
}

/// The packet as routers may quote it.
pub(super) fn quotable(packet: &Packet) -> Vec<Packet> {
    let mut all = vec![packet.clone(), packet.with(|packet| packet.hops = 1)];
    // An odd number of bytes, to be padded in the checksum.
    all.push(packet.with(|packet| packet.body.payload().truncate(2)));
    if packet.source.is_ipv4() {
        all.push(packet.with(|packet| packet.options = vec![1; 12]));
        if let Body::Udp(_) = packet.body {
            all.push(packet.with(|packet| {
                if let Body::Udp(udp) = &mut packet.body {
                    udp.checksum = false;
                }
            }));
        }
    }
    all
}

#[test]
fn an_error_about_an_answer_reaches_the_backend() -> Result<()> {
    Case::each(|subject, case| {
        let router: IpAddr = if case.v4 { "10.1.0.77" } else { "fd00:1::77" }.parse().unwrap();
        let answers = quotable(&case.answer(1).packet);
        for from in [router, case.client()] {
            for (kind, code, rest) in errors(case.v4) {
                for (length, answer) in
                    QUOTED.iter().flat_map(|length| answers.iter().map(move |a| (*length, a)))
                {
                    let error = |to, quoted: &Packet| {
                        let body = Icmp::error(kind, code, rest, quoted.quote(length));
                        Packet::new(from, to, body)
                    };
                    // What the client's side saw of the answer.
                    let seen = answer.with(|packet| {
                        packet.source = case.vip();
                        *packet.body.source_port() = case.service_port();
                    });
                    let to = if case.mode == Mode::Nat { backend(case.v4, 1) } else { case.vip() };
                    let sent = from_client(error(case.vip(), &seen));
                    let expected = from_client(error(to, answer)).with(|frame| {
                        (frame.to, frame.from) = (backend_mac(1), L1);
                        frame.packet.hops -= 1;
                    });
                    let what = format!("{}: type {kind} code {code}, {length} bytes", case.name());
                    subject.forwards(&what, &sent, &expected, backend(case.v4, 1));
                }
            }
        }
    })
}

#[test]
fn an_error_reaches_the_very_backend_of_its_flow() -> Result<()> {
    let all = Case::all().into_iter().map(|case| case.service(&[1, 2, 3, 4]));
    let setup = Setup::new(all);
    // Behind a reload the flows are where the tables would not send them.
    let moved =
        Setup::new(Case::all().into_iter().map(|case| case.service(&[1, 2, 3, 4, 5, 6, 7, 8])));
    Subject::with(&setup, |subject| {
        let mut flows = Vec::new();
        for case in Case::all() {
            for number in 0..40 {
                let request = case.request_from(client_number(case.v4, number), PORT);
                let to = subject.run(&request).traffic[0].backend;
                subject.run_uncounted(&request);
                flows.push((case, request, to));
            }
        }
        for round in 0..2 {
            for (case, request, to) in &flows {
                let body = match case.protocol {
                    Protocol::Tcp => super::frame::Tcp::body(case.service_port(), PORT, 16),
                    Protocol::Udp => super::frame::Udp::body(case.service_port(), PORT),
                };
                let answer = Packet::new(case.vip(), request.packet.source, body);
                let (kind, code) = if case.v4 { (3, 4) } else { (2, 0) };
                let error = Icmp::error(kind, code, [0, 0, 5, 0], answer.quote(8));
                let frame = from_client(Packet::new(client(case.v4), case.vip(), error));
                let outcome = subject.run(&frame);
                let found: Vec<_> = outcome.traffic.iter().map(|t| t.backend).collect();
                assert_eq!(found, [*to], "{}, round {round}: {outcome:?}", case.name());
            }
            subject.reload(&moved);
        }
    })
}

#[test]
fn an_error_about_no_flow_is_named() -> Result<()> {
    Case::each(|subject, case| {
        let (kind, code) = if case.v4 { (3, 4) } else { (2, 0) };
        let error = |quote: Vec<u8>| {
            let body = Icmp::error(kind, code, [0, 0, 5, 0], quote);
            from_client(Packet::new(case.client(), case.vip(), body))
        };
        let answer = case.answer(1).packet.with(|packet| {
            packet.source = case.vip();
            *packet.body.source_port() = case.service_port();
        });
        let header = answer.header_length();
        let quotes = [
            ("of another port", answer.with(|p| *p.body.source_port() = 4711).quote(8)),
            ("of another source", answer.with(|p| p.source = backend(case.v4, 1)).quote(8)),
            ("of no transport", answer.quote(0)),
            ("of half the ports", answer.quote(3)),
            ("of seven bytes", answer.quote(7)),
            ("of half a header", answer.bytes()[..header - 1].to_vec()),
            ("of nothing", Vec::new()),
            ("of another protocol", answer.with(|p| p.body = Body::Other(47, vec![0; 20])).bytes()),
            ("of zeros", vec![0; 60]),
            ("of ones", vec![0xff; 60]),
        ];
        for (what, quote) in quotes {
            let what = format!("{}: a quote {what}", case.name());
            subject.drops(&what, &error(quote), Counter::IcmpUnmatched);
        }
    })
}

#[test]
fn a_later_fragment_is_not_read_for_ports() -> Result<()> {
    Case::each(|subject, case| {
        if !case.v4 {
            return;
        }
        let answer = case.answer(1).packet.with(|packet| {
            packet.source = case.vip();
            *packet.body.source_port() = case.service_port();
            packet.fragment = 10;
        });
        let body = Icmp::error(11, 1, [0; 4], answer.quote(8));
        let frame = from_client(Packet::new(case.client(), case.vip(), body));
        subject.drops(&case.name(), &frame, Counter::IcmpUnmatched);
    })
}

#[test]
fn errors_that_are_not_about_us_pass() -> Result<()> {
    Case::each(|subject, case| {
        let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
        let own: IpAddr = if case.v4 { "10.2.0.1" } else { "fd00:2::1" }.parse().unwrap();
        let probe = case.translated(&case.request().packet, 1).with(|packet| packet.source = own);
        let stranger = probe.with(|packet| {
            packet.source = client(case.v4);
            packet.destination = backend(case.v4, 2);
        });
        let other_port = case.translated(&case.request().packet, 1).with(|packet| {
            *packet.body.destination_port() = 4711;
        });
        let quotes = [
            ("the balancer's own packet", own, probe.quote(8)),
            ("the balancer's own packet, whole", own, probe.bytes()),
            ("somebody else's packet", client(case.v4), stranger.quote(8)),
            ("another port", client(case.v4), other_port.quote(8)),
            ("nothing", client(case.v4), Vec::new()),
        ];
        for (what, to, quote) in quotes {
            let body = Icmp::error(kind, code, [0; 4], quote);
            let frame = from_backend(1, Packet::new(backend(case.v4, 1), to, body));
            subject.passes(&format!("{}: about {what}", case.name()), &frame);
        }
    })
}

#[test]
fn the_last_hop_of_an_error_is_spent_by_nobody() -> Result<()> {
    Case::each(|subject, case| {
        let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
        let answer = case.answer(1).packet.with(|packet| {
            packet.source = case.vip();
            *packet.body.source_port() = case.service_port();
        });
        let body = Icmp::error(kind, code, [0; 4], answer.quote(8));
        let packet = Packet::new(case.client(), case.vip(), body).with(|packet| packet.hops = 1);
        subject.drops(&case.name(), &from_client(packet), Counter::TtlExceeded);
    })
}

#[test]
fn an_error_cut_anywhere_is_not_rewritten() -> Result<()> {
    Case::each(|subject, case| {
        let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
        let answer = case.answer(1).packet.with(|packet| {
            packet.source = case.vip();
            *packet.body.source_port() = case.service_port();
        });
        let body = Icmp::error(kind, code, [0; 4], answer.bytes());
        let whole = from_client(Packet::new(case.client(), case.vip(), body)).bytes();
        for length in 14..whole.len() {
            subject.drops(&case.name(), &whole[..length], Counter::Truncated);
        }
    })
}

//! Groups of a pair: who has no lease serves nothing of the group, whatever
//! comes, and remembers nothing; nobody else notices.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{DSR_V4, DSR_V6, Mode, NAT_V4, NAT_V6, Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number, from_client},
    forward::{assert_answered, assert_forwarded},
    frame::{ACK, Body, Extension, FIN, Frame, Icmp, MORE_FRAGMENTS, Packet, RST, SYN, Tcp, Udp},
    icmp::errors_to_client,
    network::backend,
    policy::neighbour_discovery,
    setup::{Service, Setup},
    subject::{Action, Subject},
};

/// The VIPs of all cases.
const ALL: &[IpAddr] = &[NAT_V4, NAT_V6, DSR_V4, DSR_V6];
/// Ports of the services that have more than one.
const RANGE: &str = "\"9000-9100\"";

/// Services of all cases with these backends and a line more, each beside one
/// with a range of ports, and a port of the VIPs that is the host's.
fn services(backends: &[u8], line: &str) -> Setup {
    let mut setup = spread(backends);
    let ranges = Case::all().into_iter().map(|case| {
        let service = Service::new(case.mode, case.vip(), case.protocol, RANGE);
        backends.iter().fold(service, |service, &n| service.to(backend(case.v4, n), None))
    });
    setup.services.extend(ranges);
    setup.services.iter_mut().for_each(|service| *service = service.clone().line(line));
    // A small table, since it is read as a whole.
    setup.firewall("allow = [\"tcp/22\", \"udp/22\"]").flows(1024)
}

/// Everything that a client may send to a VIP, by name.
fn frames(case: Case) -> Vec<(String, Frame)> {
    let request = case.request();
    let with = |change: &dyn Fn(&mut Frame)| request.with(change);
    let carrying = |body| from_client(Packet::new(case.client(), case.vip(), body));
    let icmp = |kind| {
        carrying(Body::Icmp(Icmp { kind, code: 0, rest: [0, 1, 0, 1], payload: vec![7; 32] }))
    };
    let to_port = |port| with(&|frame| *frame.packet.body.destination_port() = port);
    let fragment = |offset: u16, more: bool| {
        with(&|frame| {
            if case.v4 {
                frame.packet.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
            } else {
                frame.packet.extensions = vec![Extension::fragment(offset, more)];
            }
        })
    };
    // Port unreachable, about what a backend sent.
    let answer = case.answer(1).packet.with(|packet| {
        packet.source = case.vip();
        *packet.body.source_port() = case.service_port();
    });
    let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
    let mut frames: Vec<_> = [SYN, ACK, SYN | ACK, FIN | ACK, RST]
        .map(|flags| (format!("flags {flags:#x}"), flagged(&request, flags)))
        .into();
    let others = [
        ("another client", case.request_from(client_number(case.v4, 1), 1)),
        ("a range of ports", to_port(9050)),
        ("a closed port", to_port(4711)),
        ("a port of the host's", to_port(22)),
        ("an impossible source", with(&|frame| frame.packet.source = case.vip())),
        ("the last hop", with(&|frame| frame.packet.hops = 1)),
        ("a group of stations", with(&|frame| frame.to = [0xff; 6])),
        ("a first fragment", fragment(0, true)),
        ("a later fragment", fragment(10, false)),
        ("another protocol", carrying(Body::Other(47, vec![0; 32]))),
        ("a ping", icmp(if case.v4 { 8 } else { 128 })),
        ("the answer to a ping", icmp(if case.v4 { 0 } else { 129 })),
        ("an unknown message", icmp(if case.v4 { 13 } else { 200 })),
        ("an error", carrying(Icmp::error(kind, code, [0; 4], answer.quote(8)))),
        ("an error about nothing", carrying(Icmp::error(kind, code, [0; 4], Vec::new()))),
    ];
    frames.extend(others.map(|(what, frame)| (what.to_owned(), frame)));
    frames.into_iter().map(|(what, frame)| (format!("{}: {what}", case.name()), frame)).collect()
}

fn all_frames() -> impl Iterator<Item = (String, Frame)> {
    Case::all().into_iter().flat_map(frames)
}

/// Begins a flow of every case, and returns its second packet's like, and
/// where that goes.
fn establish(subject: &Subject<'_>) -> Vec<(Case, Frame, IpAddr)> {
    let flow = |case: Case| {
        let request = case.request();
        let to = goes_to(subject, &request);
        assert_eq!(goes_to(subject, &request), to);
        (case, request, to)
    };
    Case::all().into_iter().map(flow).collect()
}

/// Asserts that every frame is dropped for want of a lease, and leaves nothing.
#[track_caller]
fn assert_not_active(subject: &Subject<'_>) {
    let before = subject.all_flows();
    for (what, frame) in all_frames() {
        let (action, out, record) = subject.explain(&frame);
        assert_eq!((action, out), (Action::Drop, frame.bytes()), "{what}: explained");
        assert_eq!(record.verdict as u32, Counter::NotActive as u32, "{what}: explained");
        subject.drops(&what, &frame, Counter::NotActive);
    }
    assert_eq!(subject.all_flows(), before, "something was recorded");
}

#[test]
fn without_a_lease_nothing_of_a_group_is_served_or_remembered() -> Result<()> {
    for line in ["", "affinity = \"client\"", "on_down = \"reset\""] {
        Subject::with_own(&services(&[1, 2], line).pair(&[ALL]), |mut subject| {
            subject.kill_agent();
            assert_not_active(&subject);
            assert_eq!(subject.all_flows(), [], "{line}");
            // Nor if the flow is known.
            subject.serve(0);
            establish(&subject);
            subject.serve_until(0, 0);
            assert_not_active(&subject);
        })?;
    }
    // Nobody is told that there are no backends.
    let empty = services(&[], "on_empty = \"reject\"").pair(&[ALL]);
    Subject::with_own(&empty, |mut subject| {
        subject.kill_agent();
        assert_not_active(&subject);
    })
}

#[test]
fn with_a_lease_a_group_is_served_as_if_it_were_none() -> Result<()> {
    for (backends, line) in
        [(&[1][..], ""), (&[1], "affinity = \"client\""), (&[], "on_empty = \"reject\"")]
    {
        let setup = services(backends, line);
        let mut alone = Vec::new();
        Subject::with(&setup, |subject| {
            alone.extend(all_frames().map(|(_, frame)| subject.run(&frame)));
        })?;
        Subject::with_own(&setup.pair(&[ALL]), |mut subject| {
            subject.kill_agent();
            subject.serve(0);
            for ((what, frame), alone) in all_frames().zip(alone) {
                assert_eq!(subject.run(&frame), alone, "{what}, {line}");
            }
        })?;
    }
    Ok(())
}

#[test]
fn what_is_dropped_for_want_of_a_lease_is_explained_with_its_service() -> Result<()> {
    Subject::with_own(&services(&[1], "").pair(&[ALL]), |mut subject| {
        subject.kill_agent();
        for case in Case::all() {
            let (_, _, record) = subject.explain(&case.request());
            assert_ne!(record.service, 0, "{}", case.name());
        }
    })
}

#[test]
fn a_lease_is_of_one_group_and_who_is_in_none_needs_none() -> Result<()> {
    let groups: &[&[IpAddr]] = &[&[NAT_V4], &[NAT_V6, DSR_V4]];
    Subject::with_own(&Case::setup().pair(groups), |mut subject| {
        subject.kill_agent();
        for held in [None, Some(0), Some(1)] {
            held.iter().for_each(|&group| subject.serve(group));
            for case in Case::all() {
                let position = groups.iter().position(|group| group.contains(&case.vip()));
                if position.is_none_or(|position| held == Some(position as u32)) {
                    assert_forwarded(&subject, case, "a request", &case.request());
                } else {
                    subject.drops(&case.name(), &case.request(), Counter::NotActive);
                }
            }
            held.iter().for_each(|&group| subject.serve_until(group, 0));
        }
    })
}

#[test]
fn what_is_not_for_a_vip_goes_on_without_a_lease() -> Result<()> {
    Subject::with_own(&Case::setup().pair(&[ALL]), |mut subject| {
        subject.kill_agent();
        // The backends' answers to who asked before, and what they say of him.
        for case in Case::nat() {
            assert_answered(&subject, case, "an answer", &case.answer(1));
            errors_to_client(&subject, case, backend(case.v4, 1), case.vip());
        }
        for frame in neighbour_discovery() {
            subject.passes("neighbour discovery", frame);
        }
        for v4 in [true, false] {
            let case = Case { mode: Mode::Nat, v4, protocol: Protocol::Tcp };
            let others =
                if v4 { ["10.1.0.1", "192.0.2.1"] } else { ["fd00:1::1", "2001:db8:1::1"] };
            for other in others.map(|other| other.parse().expect("an address")) {
                for body in [Tcp::body(1, 80, SYN), Udp::body(1, 53), Body::Other(112, vec![0; 8])]
                {
                    let packet = Packet::new(case.client(), other, body);
                    subject.passes("a packet for another", &from_client(packet));
                }
            }
        }
    })
}

#[test]
fn a_lease_ends_by_itself() -> Result<()> {
    Subject::with_own(&Case::setup().pair(&[ALL]), |mut subject| {
        subject.kill_agent();
        let end = subject.tick();
        subject.serve_until(0, end);
        for case in Case::all() {
            subject.drops(&case.name(), &case.request(), Counter::NotActive);
        }
        // One that is far longer than a few packets take, and then comes near.
        subject.serve_until(0, end + (1 << 32));
        for case in Case::all() {
            assert_forwarded(&subject, case, "within the lease", &case.request());
        }
        let end = subject.tick() + 2;
        subject.serve_until(0, end);
        while subject.tick() < end {}
        for case in Case::all() {
            subject.drops(&case.name(), &case.request(), Counter::NotActive);
        }
    })
}

#[test]
fn an_agent_that_starts_ends_all_leases_and_no_flow() -> Result<()> {
    let setup = services(&[1, 2, 3], "").pair(&[ALL]);
    Subject::with_own(&setup, |mut subject| {
        subject.kill_agent();
        subject.serve(0);
        let flows = establish(&subject);
        subject.start_agent(&setup);
        subject.kill_agent();
        assert_not_active(&subject);
        subject.serve(0);
        for (case, request, to) in flows {
            assert_eq!(goes_to(&subject, &request), to, "{}", case.name());
        }
    })
}

#[test]
fn a_connection_whose_backend_is_gone_is_reset_by_who_has_the_lease() -> Result<()> {
    let setup = |backends| services(backends, "on_down = \"reset\"").pair(&[ALL]);
    Subject::with_own(&setup(&[1]), |mut subject| {
        subject.kill_agent();
        subject.serve(0);
        let flows = establish(&subject);
        subject.start_agent(&setup(&[2]));
        subject.kill_agent();
        for (case, request, _) in &flows {
            subject.drops(&case.name(), request, Counter::NotActive);
        }
        subject.serve(0);
        for (case, request, _) in &flows {
            let reset = subject.run(request).counted.contains_key(Counter::Reset.name());
            assert_eq!(reset, case.protocol == Protocol::Tcp, "{}", case.name());
        }
    })
}

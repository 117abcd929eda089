//! Ways around the rules that were tried once.

use std::net::IpAddr;

use lb_common::{flow::FlowState, stats::Counter};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{goes_to, spread},
    case::{Case, client, client_number, from_client},
    frame::{Extension, Frame, Packet, Tcp, Udp},
    setup::Setup,
    subject::Subject,
};

const SYN: u8 = 2;
const MORE_FRAGMENTS: u16 = 0x2000;

fn guarded() -> Setup {
    Case::setup().firewall("host = \"drop\"\nallow = [\"tcp/22\"]")
}

fn host(v4: bool) -> IpAddr {
    if v4 { "10.1.0.1" } else { "fd00:1::1" }.parse().unwrap()
}

pub(super) fn first_fragment(frame: &Frame) -> Frame {
    frame.with(|frame| {
        if frame.packet.source.is_ipv4() {
            frame.packet.fragment = MORE_FRAGMENTS;
        } else {
            frame.packet.extensions = vec![Extension::fragment(0, true)];
        }
    })
}

#[test]
fn a_first_fragment_is_judged_by_its_ports() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            let to = |port| {
                let body = Tcp::body(4711, port, SYN);
                first_fragment(&from_client(Packet::new(client(v4), host(v4), body)))
            };
            subject.drops("port 23", &to(23), Counter::HostProtected);
            subject.passes("port 22", &to(22));
            let body = Udp::body(4711, 53);
            let udp = first_fragment(&from_client(Packet::new(client(v4), host(v4), body)));
            subject.drops("udp 53", &udp, Counter::HostProtected);
            // Eight bytes, which hold the ports but not the flags.
            let whole = to(22).bytes();
            let l4 = to(22).l4();
            let mut tiny = whole[..l4 + 8].to_vec();
            let l3 = to(22).l3();
            let length = u16::try_from(tiny.len() - l3).unwrap();
            if v4 {
                tiny[l3 + 2..l3 + 4].copy_from_slice(&length.to_be_bytes());
            } else {
                tiny[l3 + 4..l3 + 6].copy_from_slice(&(length - 40).to_be_bytes());
            }
            subject.drops("tiny", tiny, Counter::HostProtected);
        }
    })
}

#[test]
fn more_headers_than_are_walked_hide_nothing_from_a_protected_host() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        let packet = Packet::new(client(false), host(false), Tcp::body(4711, 23, SYN));
        let frame = from_client(packet).with(|frame| {
            frame.packet.extensions = vec![Extension::options(Extension::DESTINATION, 0); 7];
        });
        subject.drops("seven headers", &frame, Counter::HostProtected);
    })
}

#[test]
fn addresses_are_leased_to_a_protected_host() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for (v4, server, own) in [(true, 67, 68), (false, 547, 546)] {
            let frame =
                |port| from_client(Packet::new(client(v4), host(v4), Udp::body(server, port)));
            subject.passes("lease", &frame(own));
            subject.drops("another port", &frame(own + 1), Counter::HostProtected);
        }
    })
}

#[test]
fn only_ports_of_a_range_reply() -> Result<()> {
    let mut setup = spread(&[1]);
    for service in &mut setup.services {
        service.port = "\"8000-8100\"".into();
        service.backends.iter_mut().for_each(|backend| backend.port = None);
    }
    Subject::with(&setup, |subject| {
        for case in Case::nat() {
            for port in [22, 7999, 8101, 40_000] {
                let frame = case.answer(1).with(|frame| match &mut frame.packet.body {
                    super::frame::Body::Tcp(tcp) => tcp.source = port,
                    super::frame::Body::Udp(udp) => udp.source = port,
                    _ => unreachable!("answers are TCP or UDP"),
                });
                subject.passes(&format!("{}: from port {port}", case.name()), &frame);
            }
        }
    })
}

#[test]
fn frames_to_a_group_of_stations_are_not_balanced() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for to in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            for case in Case::all() {
                let frame = case.request().with(|frame| frame.to = to);
                subject.drops(&case.name(), &frame, Counter::PortNotAllowed);
            }
            for v4 in [true, false] {
                let body = Tcp::body(4711, 23, SYN);
                let frame = from_client(Packet::new(client(v4), host(v4), body));
                let frame = frame.with(|frame| frame.to = to);
                subject.drops("the host", &frame, Counter::HostProtected);
            }
        }
    })
}

#[test]
fn a_route_with_segments_left_has_not_arrived() -> Result<()> {
    Case::each(|subject, case| {
        if !case.v4 {
            let mut routing = Extension::routing();
            // Header length, type, segments left.
            routing.rest[2] = 1;
            let frame = case.request().with(|frame| frame.packet.extensions = vec![routing]);
            subject.drops(&case.name(), &frame, Counter::ExtensionHeaders);
        }
    })
}

#[test]
fn a_service_with_short_timeouts_displaces_nobody_elses_flows() -> Result<()> {
    let mut setup = spread(&[1, 2, 3]).flows(64);
    for service in &mut setup.services {
        let long = service.protocol == Protocol::Tcp;
        service.timeout = Some(if long { "1h" } else { "1s" }.into());
    }
    Subject::with(&setup, |subject| {
        let case = |protocol| {
            let fits = |case: &Case| case.protocol == protocol && case.mode == Mode::Dsr && case.v4;
            Case::all().into_iter().find(fits).expect("such a case")
        };
        let (kept, flood) = (case(Protocol::Tcp), case(Protocol::Udp));
        let flows: Vec<_> = (0..64).map(|i| kept.request_from(client_number(true, i), 9)).collect();
        for request in flows.iter().chain(&flows) {
            goes_to(subject, request);
        }
        let lives = |request: &Frame| subject.entry(request).map(|entry| entry.state);
        let established = Some(FlowState::Established as u8);
        assert!(flows.iter().all(|request| lives(request) == established));
        let start = subject.second();
        // Longer than the others' flows live.
        assert!(super::subject::eventually(|| subject.second().wrapping_sub(start) > 2));
        for i in 0..4000_u16 {
            let from = client_number(true, u32::from(i % 200));
            subject.run_uncounted(&flood.request_from(from, 1000 + i));
        }
        assert!(flows.iter().all(|request| lives(request) == established));
    })
}

//! Who cannot be served is told so: `on_empty = "reject"`, `on_down = "reset"`.

use aya::maps::PerCpuValues;
use lb_common::stats::Counter;
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number},
    frame::{
        ACK, Body, DONT_FRAGMENT, Extension, FIN, Frame, Icmp, Packet, QINQ, RST, SYN, Tcp, VLAN,
    },
    network::backend,
    setup::Setup,
    subject::{Action, Subject},
};

/// Services with these backends that tell whom they cannot serve.
fn refusing(backends: &[u8]) -> Setup {
    with_line(backends, "on_empty = \"reject\"")
}

fn with_line(backends: &[u8], line: &str) -> Setup {
    let mut setup = spread(backends);
    setup.services.iter_mut().for_each(|service| *service = service.clone().line(line));
    setup
}

fn cases(protocol: Protocol) -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(move |case| case.protocol == protocol)
}

/// An answer of the balancer's own, from the address that was asked.
pub(super) fn answer(request: &Frame, body: Body) -> Frame {
    let asked = &request.packet;
    let packet = Packet::new(asked.destination, asked.source, body).with(|packet| {
        (packet.identification, packet.fragment, packet.label) = (0, DONT_FRAGMENT, 0);
    });
    Frame { to: request.from, from: request.to, tags: request.tags.clone(), packet }
}

/// The reset of a segment, with these numbers.
fn reset(request: &Frame, flags: u8, sequence: u32, acknowledged: u32) -> Frame {
    let Body::Tcp(tcp) = &request.packet.body else { panic!("no TCP: {request:?}") };
    answer(
        request,
        Body::Tcp(Tcp {
            source: tcp.destination,
            destination: tcp.source,
            sequence,
            acknowledged,
            flags,
            window: 0,
            options: Vec::new(),
            payload: Vec::new(),
        }),
    )
}

/// The error about a datagram, of which `quote` bytes are quoted at most.
fn unreachable(request: &Frame, quote: usize) -> Frame {
    let mut payload = request.packet.bytes();
    payload.truncate(quote);
    let (kind, code) = if request.packet.source.is_ipv4() { (3, 3) } else { (1, 4) };
    answer(request, Body::Icmp(Icmp { kind, code, rest: [0; 4], payload }))
}

/// Frames of all forms that carry the same.
fn dressed(frame: &Frame) -> Vec<Frame> {
    let v4 = frame.packet.source.is_ipv4();
    let tagged = |tags: &[(u16, u16)]| frame.with(|frame| frame.tags = tags.to_vec());
    let long = frame.with(|frame| {
        if v4 {
            frame.packet.options = vec![1; 40];
        } else {
            let options = Extension::options(Extension::DESTINATION, 2);
            frame.packet.extensions = vec![Extension::routing(), options];
        }
    });
    vec![frame.clone(), tagged(&[(VLAN, 7)]), tagged(&[(QINQ, 8), (VLAN, 9)]), long]
}

#[test]
fn a_segment_to_an_empty_service_is_reset() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in cases(Protocol::Tcp) {
            let data = b"tcp payload".len() as u32;
            // Flags, and what the reset says: flags, sequence, acknowledgement.
            for (flags, (reset_flags, sequence, acknowledged)) in [
                (SYN, (RST | ACK, 0, 0x0102_0304 + data + 1)),
                (ACK, (RST, 0x0506_0708, 0)),
                (SYN | ACK, (RST, 0x0506_0708, 0)),
                (FIN | ACK, (RST, 0x0506_0708, 0)),
            ] {
                for request in dressed(&flagged(&case.request(), flags)) {
                    let what = format!("{}: flags {flags:#x}", case.name());
                    let expected = reset(&request, reset_flags, sequence, acknowledged);
                    subject.answers(&what, &request, &expected, Counter::Rejected);
                }
            }
        }
    })
}

#[test]
fn a_sequence_number_wraps() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in cases(Protocol::Tcp) {
            let request = case.request().with(|frame| {
                if let Body::Tcp(tcp) = &mut frame.packet.body {
                    (tcp.flags, tcp.sequence) = (SYN, u32::MAX);
                    (tcp.payload, tcp.options) = (Vec::new(), Vec::new());
                }
            });
            let expected = reset(&request, RST | ACK, 0, 0);
            subject.answers(&case.name(), &request, &expected, Counter::Rejected);
        }
    })
}

#[test]
fn a_reset_is_not_answered() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in cases(Protocol::Tcp) {
            for flags in [RST, RST | ACK] {
                let request = flagged(&case.request(), flags);
                subject.drops(&case.name(), &request, Counter::NoBackend);
            }
        }
    })
}

#[test]
fn a_datagram_to_an_empty_service_is_unreachable_and_quoted() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in cases(Protocol::Udp) {
            let most = if case.v4 { 576 - 28 } else { 1280 - 48 };
            for size in [0, 1, 2, 3, 4, 11, 519, 520, 521, 1183, 1184, 1185, 1400] {
                let request = case.request().with(|frame| {
                    *frame.packet.body.payload() = (0..size).map(|i| i as u8).collect();
                });
                for request in dressed(&request) {
                    let what = format!("{}: {size} bytes", case.name());
                    let expected = unreachable(&request, most);
                    subject.answers(&what, &request, &expected, Counter::Rejected);
                }
            }
        }
    })
}

#[test]
fn padding_behind_a_packet_is_not_quoted() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in Case::all() {
            let request = case.request();
            let padded = [request.bytes(), vec![0xff; 9]].concat();
            let outcome = subject.run(padded);
            let expected = match case.protocol {
                Protocol::Tcp => reset(&request, RST, 0x0506_0708, 0),
                Protocol::Udp => unreachable(&request, 576 - 28),
            };
            assert_eq!(outcome.frame, expected.bytes(), "{}", case.name());
        }
    })
}

#[test]
fn nobody_is_told_who_cannot_be_there() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in Case::all() {
            let sources = if case.v4 {
                ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"].as_slice()
            } else {
                ["::", "::1", "ff02::1"].as_slice()
            };
            let sources = sources.iter().map(|source| source.parse().expect("an address"));
            for source in sources.chain([case.vip()]) {
                let request = case.request_from(source, 9);
                subject.drops(&case.name(), &request, Counter::BadSource);
            }
            // Nothing is said about any but a first one (RFC 1122, section 3.2.2).
            let fragment = case.request().with(|frame| {
                if case.v4 {
                    frame.packet.fragment = 10;
                } else {
                    frame.packet.extensions = vec![Extension::fragment(10, false)];
                }
            });
            subject.drops(&case.name(), &fragment, Counter::Fragment);
            let group = case.request().with(|frame| frame.to = [0xff; 6]);
            subject.drops(&case.name(), &group, Counter::PortNotAllowed);
        }
    })
}

#[test]
fn a_service_with_backends_refuses_nobody() -> Result<()> {
    Subject::with(&refusing(&[1, 2]), |subject| {
        for case in Case::all() {
            for number in 0..10 {
                goes_to(subject, &case.request_from(client_number(case.v4, number), 9));
            }
        }
    })
}

/// Lets no refusal happen before `due`, on no CPU.
pub(super) fn hold_refusals(subject: &Subject<'_>, due: impl Fn(u64) -> u64) {
    let mut refusals = subject.refusals();
    let latest = refusals.get(&0, 0).expect("the entry").iter().copied().max().unwrap_or(0);
    let cpus = aya::util::nr_cpus().expect("the number of CPUs");
    let due = PerCpuValues::try_from(vec![due(latest); cpus]).expect("a value for each CPU");
    refusals.set(0, due, 0).expect("the entry");
}

#[test]
fn who_asks_too_often_is_dropped() -> Result<()> {
    Subject::with(&refusing(&[]), |subject| {
        for case in Case::all() {
            let request = case.request();
            assert_eq!(subject.run(&request).action, Action::Transmit);
            hold_refusals(subject, |latest| latest + (1000 << 32));
            subject.drops(&case.name(), &request, Counter::RefusalLimited);
            hold_refusals(subject, |_| 0);
            assert_eq!(subject.run(&request).action, Action::Transmit);
        }
    })
}

/// Established flows of every case, and whether they have backend 2, which is
/// gone then.
fn bereaved(subject: &Subject<'_>, rest: &Setup) -> Vec<(Case, Frame, bool)> {
    let mut flows = Vec::new();
    for case in Case::all() {
        for number in 0..20 {
            let request = case.request_from(client_number(case.v4, number), 30);
            let to = goes_to(subject, &request);
            goes_to(subject, &request);
            flows.push((case, request, to == backend(case.v4, 2)));
        }
        assert!(flows.iter().any(|(of, _, gone)| *of == case && *gone));
    }
    subject.reload(rest);
    flows
}

#[test]
fn a_connection_to_a_backend_that_is_gone_is_reset_once() -> Result<()> {
    let line = "on_down = \"reset\"";
    Subject::with(&with_line(&[1, 2, 3], line), |subject| {
        for (case, request, gone) in bereaved(subject, &with_line(&[1, 3], line)) {
            if gone && case.protocol == Protocol::Tcp {
                let expected = reset(&request, RST, 0x0506_0708, 0);
                subject.answers(&case.name(), &request, &expected, Counter::Reset);
            }
            // The rest stays, or is a new flow.
            assert_ne!(goes_to(subject, &request), backend(case.v4, 2));
        }
    })
}

#[test]
fn a_connection_that_goes_to_another_backend_is_counted_once() -> Result<()> {
    Subject::with(&with_line(&[1, 2, 3], ""), |subject| {
        for (case, request, gone) in bereaved(subject, &with_line(&[1, 3], "")) {
            let is_moved = gone && case.protocol == Protocol::Tcp;
            for expected in [u64::from(is_moved), 0] {
                let before = subject.counter(Counter::Moved);
                assert_eq!(subject.run(&request).action, Action::Redirect);
                let moved = subject.counter(Counter::Moved) - before;
                assert_eq!(moved, expected, "{}", case.name());
            }
        }
    })
}

#[test]
fn a_new_connection_from_the_same_port_is_not_reset() -> Result<()> {
    let line = "on_down = \"reset\"";
    Subject::with(&with_line(&[1, 2, 3], line), |subject| {
        for (case, request, _) in bereaved(subject, &with_line(&[1, 3], line)) {
            if case.protocol == Protocol::Tcp {
                goes_to(subject, &flagged(&request, SYN));
                goes_to(subject, &request);
            }
        }
    })
}

#[test]
fn a_connection_is_reset_later_where_too_many_are() -> Result<()> {
    let line = "on_down = \"reset\"";
    Subject::with(&with_line(&[1, 2, 3], line), |subject| {
        let flows = bereaved(subject, &with_line(&[1, 3], line));
        let of_tcp = flows.iter().filter(|(case, _, gone)| *gone && case.protocol == Protocol::Tcp);
        let mut of_tcp = of_tcp.map(|(_, request, _)| request);
        let (first, second) = (of_tcp.next().expect("a flow"), of_tcp.next().expect("another"));
        assert_eq!(subject.run(first).action, Action::Transmit);
        hold_refusals(subject, |latest| latest + (1000 << 32));
        for _ in 0..2 {
            subject.drops("too many", second, Counter::RefusalLimited);
        }
        hold_refusals(subject, |_| 0);
        let expected = reset(second, RST, 0x0506_0708, 0);
        subject.answers("later", second, &expected, Counter::Reset);
    })
}

#[test]
fn a_client_who_resets_himself_is_not_answered() -> Result<()> {
    let line = "on_down = \"reset\"";
    Subject::with(&with_line(&[1, 2, 3], line), |subject| {
        for (case, request, gone) in bereaved(subject, &with_line(&[1, 3], line)) {
            if gone && case.protocol == Protocol::Tcp {
                subject.drops(&case.name(), &flagged(&request, RST), Counter::NoBackend);
            }
        }
    })
}

//! Mode `fullnat`: clients' packets come from addresses of the balancer, answers find
//! their clients, and every flow has a port of its own.

mod bindings;
mod error;
pub(crate) mod way;

use lb_common::stats::Counter;
use lb_tests::harness::{Protocol, Result};

use self::way::{SOURCES, Way};
use super::{
    affinity::flagged,
    case::{PORT, client, client_number},
    fragment::pieces,
    frame::{ACK, Body, Extension, FIN, Frame, Icmp, QINQ, RST, SYN, VLAN},
    network::backend,
    refuse::answer,
    subject::{Action, Subject},
};

/// Frames of one flow in every form that the packet path knows.
fn forms(way: Way, frame: &Frame) -> Vec<(&'static str, Frame)> {
    let tagged = |tags: &[(u16, u16)]| frame.with(|frame| frame.tags = tags.to_vec());
    let mut forms = vec![
        ("plain", frame.clone()),
        ("one tag", tagged(&[(VLAN, 7)])),
        ("two tags", tagged(&[(QINQ, 8), (VLAN, 9)])),
        ("no payload", frame.with(|frame| frame.packet.body.payload().clear())),
        ("even payload", frame.with(|frame| frame.packet.body.payload().push(1))),
        ("last hop but one", frame.with(|frame| frame.packet.hops = 2)),
    ];
    forms.push((
        "long header",
        frame.with(|frame| {
            if way.v4 {
                frame.packet.options = vec![1; 40];
            } else {
                frame.packet.extensions = vec![Extension::routing()];
            }
        }),
    ));
    if way.v4 && way.protocol == Protocol::Udp {
        forms.push((
            "no checksum",
            frame.with(|frame| {
                if let Body::Udp(udp) = &mut frame.packet.body {
                    udp.checksum = false;
                }
            }),
        ));
    }
    forms
}

#[test]
fn both_ends_are_rewritten_both_ways() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            for (what, request) in forms(way, &way.request(client(way.v4), PORT)) {
                let what = format!("{}, {what}", way.name());
                let expected = way.forwarded(&request, bound, 1);
                subject.forwards(&what, &request, &expected, backend(way.v4, 1));
            }
            for (what, answer) in forms(way, &way.answer(bound, 1)) {
                let what = format!("answer, {}, {what}", way.name());
                let expected = way.answered(&answer, (client(way.v4), PORT));
                subject.replies(&what, &answer, &expected, backend(way.v4, 1));
            }
        }
    })
}

#[test]
fn a_flow_keeps_its_port_and_others_have_other_ones() -> Result<()> {
    Subject::with(&Way::setup(&[1, 2]), |subject| {
        let mut all = Vec::new();
        for way in Way::all() {
            for number in 0..50 {
                let client = client_number(way.v4, number);
                for port in [PORT, PORT + 1] {
                    all.push((way, (client, port), way.begin(subject, client, port)));
                }
            }
        }
        for (way, (client, port), (bound, number)) in &all {
            assert_eq!(way.goes(subject, &way.request(*client, *port)), (*bound, *number));
            let answer = way.answer(*bound, *number);
            let expected = way.answered(&answer, (*client, *port));
            subject.replies(&way.name(), &answer, &expected, backend(way.v4, *number));
        }
        let mut ports: Vec<_> = all.iter().map(|(_, _, (bound, _))| *bound).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all.len());
    })
}

#[test]
fn a_prefix_shares_flows_out_to_its_addresses() -> Result<()> {
    let setup = Way::setup_from(&[1], ["10.2.0.200/30", "fd00:2::200/126"]);
    Subject::with(&setup, |subject| {
        for way in Way::all() {
            let flows = (0..40).map(|number| client_number(way.v4, number));
            let bound = flows.map(|client| way.begin(subject, client, PORT).0);
            let mut sources: Vec<_> = bound.map(|(source, _)| source).collect();
            sources.sort_unstable();
            sources.dedup();
            let first = if way.v4 { "10.2.0.200" } else { "fd00:2::200" };
            let last = if way.v4 { "10.2.0.203" } else { "fd00:2::203" };
            let ends = [first, last].map(|end| end.parse().expect("an address"));
            assert_eq!((sources.len(), sources[0], sources[3]), (4, ends[0], ends[1]));
        }
    })
}

#[test]
fn what_is_for_a_source_and_of_no_flow_is_dropped() -> Result<()> {
    Subject::with(&Way::setup(&[1, 2]), |subject| {
        for way in Way::all() {
            let (bound, number) = way.begin(subject, client(way.v4), PORT);
            let answer = way.answer(bound, number);
            let other = way.answer(bound, 3 - number);
            let strange = [
                ("another backend", other.with(|frame| frame.from = answer.from)),
                (
                    "another port of the backend's",
                    answer.with(|frame| *frame.packet.body.source_port() += 1),
                ),
                (
                    "another port of the source's",
                    answer.with(|frame| *frame.packet.body.destination_port() ^= 1),
                ),
                ("the client", answer.with(|frame| frame.packet.source = client(way.v4))),
            ];
            for (what, frame) in strange {
                subject.drops(&format!("{}: {what}", way.name()), &frame, Counter::NatUnbound);
            }
            let hops = answer.with(|frame| frame.packet.hops = 1);
            subject.drops(&way.name(), &hops, Counter::TtlExceeded);
            subject.replies(
                &way.name(),
                &answer,
                &way.answered(&answer, (client(way.v4), PORT)),
                backend(way.v4, number),
            );
        }
    })
}

#[test]
fn what_is_for_the_host_that_holds_a_source_is_left_to_it() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        let [v4, v6] = SOURCES;
        let addresses = format!("addr add {v4}/32 dev l1\naddr add {v6}/128 dev l1 nodad");
        subject.lab.balancer.ip(&addresses).expect("addresses");
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            let stranger =
                way.answer(bound, 1).with(|frame| *frame.packet.body.destination_port() ^= 1);
            let passes = || subject.run_uncounted(&stranger).0 == Action::Pass;
            assert!(super::subject::eventually(passes), "{}", way.name());
            subject.passes(&way.name(), &stranger);
            let answer = way.answer(bound, 1);
            let expected = way.answered(&answer, (client(way.v4), PORT));
            subject.replies(&way.name(), &answer, &expected, backend(way.v4, 1));
        }
    })
}

/// Only a SYN takes a port, so a flood of other packets takes none.
#[test]
fn what_is_of_no_connection_is_reset() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all().into_iter().filter(|way| way.protocol == Protocol::Tcp) {
            let before = bindings::held(subject).len();
            for flags in [ACK, FIN | ACK] {
                let request = flagged(&way.request(client(way.v4), PORT + 9), flags);
                let (action, frame) = subject.run_uncounted(&request);
                assert_eq!(action, Action::Transmit, "{}", way.name());
                super::check::assert_valid(&frame);
            }
            let reset = flagged(&way.request(client(way.v4), PORT + 9), RST);
            subject.drops(&way.name(), &reset, Counter::NoBackend);
            assert_eq!(bindings::held(subject).len(), before);
        }
    })
}

/// A flow's packet and its answer, of four fragments each.
fn long(way: Way, bound: way::Bound) -> [Frame; 2] {
    [way.request(client(way.v4), PORT), way.answer(bound, 1)]
        .map(|frame| frame.with(|frame| *frame.packet.body.payload() = (0..150).collect()))
}

/// [`pieces`] as the balancer names them: no number is so large yet that IPv6 would need
/// the upper half.
fn named(whole: &Frame, identification: u16) -> Vec<Frame> {
    let mut pieces = pieces(whole, identification);
    for extension in pieces.iter_mut().flat_map(|frame| &mut frame.packet.extensions) {
        extension.rest[3..5].fill(0);
    }
    pieces
}

/// The lower half of a fragment's identification.
fn identification(frame: &[u8], v4: bool) -> u16 {
    let at = if v4 { 18 } else { 60 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn fragments_go_with_their_first_both_ways() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            let [request, answer] = long(way, bound);
            let mut given = Vec::new();
            for number in [7, 7, 8] {
                let sent = pieces(&request, number);
                let (action, first) = subject.run_uncounted(&sent[0]);
                assert_eq!(action, Action::Redirect, "{}", way.name());
                // Many clients share the address, so the balancer names datagrams.
                given.push(identification(&first, way.v4));
                let expected = named(&way.forwarded(&request, bound, 1), given[given.len() - 1]);
                assert!(first == expected[0].bytes(), "{}", way.name());
                for at in [1, 3, 2, 3] {
                    let what = format!("{}: fragment {at}", way.name());
                    subject.forwards(&what, &sent[at], &expected[at], backend(way.v4, 1));
                }
            }
            given.sort_unstable();
            given.dedup();
            assert_eq!(given.len(), 3, "{}", way.name());
            let (sent, expected) =
                (pieces(&answer, 5), way.answered(&answer, (client(way.v4), PORT)));
            for (at, (sent, expected)) in sent.iter().zip(pieces(&expected, 5)).enumerate() {
                let what = format!("answer, {}: fragment {at}", way.name());
                subject.replies(&what, sent, &expected, backend(way.v4, 1));
            }
        }
    })
}

#[test]
fn fragments_without_their_first_or_over_it_are_dropped() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            for whole in long(way, bound) {
                let sent = pieces(&whole, 3);
                for late in &sent[1..] {
                    subject.drops(&way.name(), late, Counter::Fragment);
                }
                assert_eq!(subject.run_uncounted(&sent[0]).0, Action::Redirect, "{}", way.name());
                let over = sent[1].with(|frame| {
                    if way.v4 {
                        frame.packet.fragment -= 1;
                    } else {
                        let at = u16::from_be_bytes([
                            frame.packet.extensions[0].rest[1],
                            frame.packet.extensions[0].rest[2],
                        ]);
                        let before = (at - 8).to_be_bytes();
                        frame.packet.extensions[0].rest[1..3].copy_from_slice(&before);
                    }
                });
                subject.drops(&way.name(), &over, Counter::FragmentOverlap);
                let last = sent[1].with(|frame| frame.packet.hops = 1);
                subject.drops(&way.name(), &last, Counter::TtlExceeded);
            }
        }
    })
}

#[test]
fn what_is_too_long_for_its_way_is_answered() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            let request = way.request(client(way.v4), PORT);
            for short in [request, way.answer(bound, 1)] {
                let long = short.with(|frame| {
                    let rest = frame.packet.bytes().len() - frame.packet.body.payload().len();
                    *frame.packet.body.payload() = vec![7; 1501 - rest];
                });
                let mut payload = long.packet.bytes();
                payload.truncate(if way.v4 { 576 - 28 } else { 1280 - 48 });
                let (kind, code) = if way.v4 { (3, 4) } else { (2, 0) };
                let [high, low] = 1500_u16.to_be_bytes();
                let icmp = Icmp { kind, code, rest: [0, 0, high, low], payload };
                let expected = answer(&long, Body::Icmp(icmp));
                subject.answers(&way.name(), &long, &expected, Counter::TooBig);
            }
        }
    })
}

#[test]
fn who_explains_takes_no_port() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let before = bindings::held(subject).len();
            let syn = flagged(&way.request(client(way.v4), PORT), SYN);
            let (action, _, record) = subject.explain(&syn);
            assert_eq!(action, Action::Redirect, "{}", way.name());
            assert_ne!(record.steps & lb_common::trace::steps::BINDS, 0);
            assert_ne!(record.backend, 0);
            assert_eq!(bindings::held(subject).len(), before);
        }
    })
}

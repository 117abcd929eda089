//! The way there and back, for every mode, IP version and protocol.

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::Case,
    frame::{Body, FIN, Frame, QINQ, RST, SYN, VLAN, checksum},
    network::{L1, backend, backend_mac},
    subject::Subject,
};

/// No tag, one, and two.
const TAGS: [&[(u16, u16)]; 3] = [&[], &[(VLAN, 0x6005)], &[(QINQ, 0x0064), (VLAN, 0x2fff)]];

#[test]
fn a_request_goes_to_the_backend() -> Result<()> {
    Case::each(|subject, case| {
        let request = case.request();
        assert_forwarded(subject, case, "a request", &request);
    })
}

#[test]
fn tags_of_vlans_are_kept_there_and_back() -> Result<()> {
    Case::each(|subject, case| {
        for tags in TAGS {
            let request = case.request().with(|frame| frame.tags = tags.to_vec());
            assert_forwarded(subject, case, "tagged", &request);
            if case.mode == Mode::Nat {
                let answer = case.answer(1).with(|frame| frame.tags = tags.to_vec());
                assert_answered(subject, case, "tagged", &answer);
            }
        }
    })
}

#[test]
fn an_answer_comes_from_the_vip() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            assert_answered(subject, case, "an answer", &case.answer(1));
        }
    })
}

#[test]
fn every_kind_of_segment_is_forwarded() -> Result<()> {
    Case::each(|subject, case| {
        for flags in [SYN, SYN | 16, 16, 24, FIN | 16, RST, RST | 16, 0x39, SYN | 0xc0] {
            let request = case.request().with(|frame| {
                if let Body::Tcp(tcp) = &mut frame.packet.body {
                    tcp.flags = flags;
                }
            });
            assert_forwarded(subject, case, &format!("flags {flags:#x}"), &request);
        }
    })
}

#[test]
fn payloads_of_all_sizes_are_forwarded() -> Result<()> {
    Case::each(|subject, case| {
        for size in [0, 1, 2, 3, 63, 64, 1399, 1400] {
            let request =
                case.request().with(|frame| *frame.packet.body.payload() = vec![0xa5; size]);
            assert_forwarded(subject, case, &format!("{size} bytes"), &request);
        }
    })
}

#[test]
fn padding_of_a_short_frame_is_kept() -> Result<()> {
    Case::each(|subject, case| {
        let padded = |frame: &Frame| [frame.bytes(), vec![0xee; 9]].concat();
        let request = case.request().with(|frame| frame.packet.body.payload().clear());
        let outcome = subject.run(padded(&request));
        assert_eq!(outcome.frame, padded(&case.forwarded(&request, 1)), "{}", case.name());
    })
}

#[test]
fn the_last_hop_is_spent_by_nobody() -> Result<()> {
    Case::each(|subject, case| {
        for hops in [0, 1] {
            let request = case.request().with(|frame| frame.packet.hops = hops);
            subject.drops(&case.name(), &request, Counter::TtlExceeded);
            if case.mode == Mode::Nat {
                let answer = case.answer(1).with(|frame| frame.packet.hops = hops);
                subject.drops(&case.name(), &answer, Counter::TtlExceeded);
            }
        }
        for hops in [2, 255] {
            let request = case.request().with(|frame| frame.packet.hops = hops);
            assert_forwarded(subject, case, &format!("{hops} hops"), &request);
        }
    })
}

#[test]
fn a_frame_leaves_by_the_interface_it_came_in_where_the_backend_is_there() -> Result<()> {
    Case::each(|subject, case| {
        let request = case.request().with(|frame| (frame.to, frame.from) = (L1, backend_mac(9)));
        assert_forwarded(subject, case, "one-armed", &request);
    })
}

#[test]
fn a_missing_checksum_of_udp_stays_missing() -> Result<()> {
    Case::each(|subject, case| {
        if !case.v4 || case.protocol != Protocol::Udp {
            return;
        }
        let without = |frame: &mut Frame| {
            if let Body::Udp(udp) = &mut frame.packet.body {
                udp.checksum = false;
            }
        };
        assert_forwarded(subject, case, "no checksum", &case.request().with(without));
        if case.mode == Mode::Nat {
            assert_answered(subject, case, "no checksum", &case.answer(1).with(without));
        }
    })
}

/// Values next to where ones' complement wraps. The ends of UDP are told
/// apart: 0x0000 is sent as 0xffff.
const EDGES: [u16; 6] = [0x0000, 0x0001, 0x00ff, 0xff00, 0xfffe, 0xffff];

#[test]
fn checksums_wrap_as_they_must() -> Result<()> {
    Case::each(|subject, case| {
        for edge in EDGES {
            let (request, answer) = (case.request(), case.answer(1));
            let there = balance(&request, Frame::clone, edge);
            assert_forwarded(subject, case, &format!("sent with {edge:#06x}"), &there);
            let there = balance(&request, |frame| case.forwarded(frame, 1), edge);
            assert_forwarded(subject, case, &format!("to be {edge:#06x}"), &there);
            if case.mode == Mode::Nat {
                let back = balance(&answer, Frame::clone, edge);
                assert_answered(subject, case, &format!("answered with {edge:#06x}"), &back);
                let back = balance(&answer, |frame| case.answered(frame), edge);
                assert_answered(subject, case, &format!("answer to be {edge:#06x}"), &back);
            }
        }
    })
}

#[test]
fn checksums_of_ipv4_headers_wrap_as_they_must() -> Result<()> {
    Case::each(|subject, case| {
        if !case.v4 {
            return;
        }
        for edge in EDGES {
            for of in [
                |frame: &Frame, _| frame.clone(),
                |frame: &Frame, case: Case| case.forwarded(frame, 1),
            ] {
                let request = case.request();
                let sum = field(&of(&request, case), of(&request, case).l3() + 10);
                let identification = shift(request.packet.identification, sum, edge);
                let request = request.with(|frame| frame.packet.identification = identification);
                assert_forwarded(subject, case, &format!("header sum {edge:#06x}"), &request);
            }
        }
    })
}

#[test]
fn a_wrong_checksum_stays_wrong() -> Result<()> {
    Case::each(|subject, case| {
        let request = case.request();
        let at = request.l4() + if case.protocol == Protocol::Tcp { 16 } else { 6 };
        let mut bytes = request.bytes();
        bytes[at] ^= 0x10;
        let outcome = subject.run(bytes);
        let mut expected = case.forwarded(&request, 1).bytes();
        assert_eq!(outcome.frame.len(), expected.len());
        assert_ne!(outcome.frame, expected, "{}: the damage was repaired", case.name());
        // Nothing else differs.
        expected[at..at + 2].copy_from_slice(&outcome.frame[at..at + 2]);
        assert_eq!(outcome.frame, expected, "{}", case.name());
    })
}

#[test]
fn other_ports_of_a_backend_are_not_answers() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            let other = case.answer(1).with(|frame| *frame.packet.body.source_port() = 9999);
            subject.passes(&case.name(), &other);
            let other = case.answer(2);
            subject.passes(&case.name(), &other);
        }
    })
}

#[test]
fn answers_to_the_balancer_itself_are_left_alone() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            let own = if case.v4 { [10, 2, 0, 1].into() } else { "fd00:2::1".parse().unwrap() };
            let answer = case.answer(1).with(|frame| frame.packet.destination = own);
            subject.passes(&case.name(), &answer);
            // Tried before and after a client's next hop is known.
            assert_answered(subject, case, "an answer", &case.answer(1));
            subject.passes(&case.name(), &answer);
        }
    })
}

#[track_caller]
pub(super) fn assert_forwarded(subject: &Subject<'_>, case: Case, what: &str, request: &Frame) {
    let expected = case.forwarded(request, 1);
    let what = format!("{}: {what}", case.name());
    subject.forwards(&what, request, &expected, backend(case.v4, 1));
}

#[track_caller]
pub(super) fn assert_answered(subject: &Subject<'_>, case: Case, what: &str, answer: &Frame) {
    let what = format!("{}: {what}", case.name());
    subject.replies(&what, answer, &case.answered(answer), backend(case.v4, 1));
}

/// Changes the payload so that the checksum of what `of` makes of the frame
/// becomes `sum`, as near as the protocol has it.
fn balance(frame: &Frame, of: impl Fn(&Frame) -> Frame, sum: u16) -> Frame {
    let made = of(frame);
    let at = match made.packet.body {
        Body::Tcp(_) => made.l4() + 16,
        _ => made.l4() + 6,
    };
    let now = field(&made, at);
    frame.with(|frame| {
        let payload = frame.packet.body.payload();
        let word = shift(u16::from_be_bytes([payload[0], payload[1]]), now, sum);
        payload[..2].copy_from_slice(&word.to_be_bytes());
    })
}

fn field(frame: &Frame, at: usize) -> u16 {
    let bytes = frame.bytes();
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A word's new value when the checksum over it is to change from `now` to
/// `wanted`: a checksum is the complement of the sum, so the word goes up by
/// as much as the checksum goes down.
fn shift(word: u16, now: u16, wanted: u16) -> u16 {
    let words = [word.to_be_bytes(), now.to_be_bytes(), (!wanted).to_be_bytes()].concat();
    !checksum(&[&words])
}

//! Fragments follow the first one of their datagram.

use lb_common::{fragment::SECONDS, stats::Counter};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::{Case, PORT, client_number},
    frame::{Body, Extension, Frame, MORE_FRAGMENTS, QINQ, VLAN},
    network::backend,
    setup::Setup,
    subject::{Subject, eventually},
};

/// Bytes of a fragment but the last, behind the headers.
const PIECE: usize = 48;

/// A frame in fragments, in order; `identification` tells datagrams apart.
pub(super) fn pieces(whole: &Frame, identification: u16) -> Vec<Frame> {
    let packet = whole.packet.bytes();
    let body = &packet[whole.packet.header_length()..];
    let proto = match whole.packet.body {
        Body::Tcp(_) => 6,
        _ => 17,
    };
    let count = body.len().div_ceil(PIECE);
    let piece = |(number, bytes): (usize, &[u8])| {
        let (offset, more) = ((number * PIECE / 8) as u16, number + 1 < count);
        whole.with(|frame| {
            if packet[0] >> 4 == 4 {
                frame.packet.identification = identification;
                frame.packet.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
            } else {
                let mut header = Extension::fragment(offset, more);
                header.rest[5..].copy_from_slice(&identification.to_be_bytes());
                frame.packet.extensions.push(header);
            }
            frame.packet.body = Body::Other(proto, bytes.to_vec());
        })
    };
    body.chunks(PIECE).enumerate().map(piece).collect()
}

/// A datagram of four fragments from a client.
fn request(case: Case) -> Frame {
    case.request().with(|frame| *frame.packet.body.payload() = (0..150).collect())
}

fn answer(case: Case) -> Frame {
    case.answer(1).with(|frame| *frame.packet.body.payload() = (0..150).collect())
}

#[test]
fn all_fragments_of_a_datagram_reach_its_backend() -> Result<()> {
    Case::each(|subject, case| {
        for (number, tags) in (1..).zip([vec![], vec![(VLAN, 7)], vec![(QINQ, 8), (VLAN, 9)]]) {
            let whole = request(case).with(|frame| frame.tags = tags);
            let sent = pieces(&whole, number);
            let expected = pieces(&case.forwarded(&whole, 1), number);
            assert_eq!(sent.len(), 4);
            for (at, (sent, expected)) in sent.iter().zip(&expected).enumerate() {
                let what = format!("{}: fragment {at}", case.name());
                subject.forwards(&what, sent, expected, backend(case.v4, 1));
            }
            // In whatever order, and again.
            for at in [3, 1, 2, 1] {
                let what = format!("{}: fragment {at}", case.name());
                subject.forwards(&what, &sent[at], &expected[at], backend(case.v4, 1));
            }
        }
    })
}

#[test]
fn all_fragments_of_an_answer_reach_the_client() -> Result<()> {
    Case::each(|subject, case| {
        if case.mode != Mode::Nat {
            return;
        }
        let sent = pieces(&answer(case), 5);
        let expected = pieces(&case.answered(&answer(case)), 5);
        for (at, (sent, expected)) in sent.iter().zip(&expected).enumerate() {
            let what = format!("{}: fragment {at}", case.name());
            subject.replies(&what, sent, expected, backend(case.v4, 1));
        }
    })
}

/// With many backends, and ports that are not there, a hash would send them anywhere.
#[test]
fn fragments_of_one_datagram_meet_at_one_of_many_backends() -> Result<()> {
    let setup = Setup::new(Case::all().iter().map(|case| case.service(&[1, 2, 3, 4, 5])));
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let mut used = 0_u32;
            for number in 0..40 {
                let whole = case
                    .request_from(client_number(case.v4, number), PORT)
                    .with(|frame| *frame.packet.body.payload() = vec![7; 100]);
                let to = |frame: &Frame| {
                    let outcome = subject.run(frame.bytes());
                    assert_eq!(outcome.traffic.len(), 1, "{}: {outcome:?}", case.name());
                    outcome.traffic[0].backend
                };
                let sent = pieces(&whole, 77);
                let first = to(&sent[0]);
                assert!(sent[1..].iter().all(|frame| to(frame) == first), "{}", case.name());
                let at = (1..=5).find(|&n| backend(case.v4, n) == first).expect("a backend");
                used |= 1 << at;
            }
            assert!(used.count_ones() > 3, "{}: {used:b}", case.name());
        }
    })
}

#[test]
fn a_fragment_before_its_first_is_dropped() -> Result<()> {
    Case::each(|subject, case| {
        let sent = pieces(&request(case), 3);
        for late in &sent[1..] {
            subject.drops(&case.name(), late, Counter::Fragment);
        }
        let _ = subject.run(sent[0].bytes());
        // Of another datagram, of another sender, of another protocol.
        let other = pieces(&request(case), 4);
        let stranger = sent[1].with(|frame| frame.packet.source = client_number(case.v4, 9));
        let proto = sent[1].with(|frame| {
            let Body::Other(_, bytes) = &frame.packet.body else { unreachable!() };
            frame.packet.body = Body::Other(132, bytes.clone());
        });
        for other in [&other[1], &stranger, &proto] {
            subject.drops(&case.name(), other, Counter::Fragment);
        }
    })
}

/// RFC 1858, RFC 3128, RFC 5722: what was judged by the first fragment is not written
/// over by another one.
#[test]
fn fragments_that_overlap_with_the_first_are_dropped() -> Result<()> {
    Case::each(|subject, case| {
        let sent = pieces(&request(case), 6);
        let _ = subject.run(sent[0].bytes());
        for offset in [1, 2, PIECE as u16 / 8 - 1] {
            let overlap = sent[1].with(|frame| {
                if case.v4 {
                    frame.packet.fragment = offset | MORE_FRAGMENTS;
                } else {
                    let [high, low] = (offset << 3 | 1).to_be_bytes();
                    frame.packet.extensions[0].rest[1..3].copy_from_slice(&[high, low]);
                }
            });
            subject.drops(&case.name(), &overlap, Counter::FragmentOverlap);
        }
    })
}

/// RFC 1858, section 3: the first fragment must have the header that it is judged by.
#[test]
fn a_first_fragment_without_its_header_is_dropped() -> Result<()> {
    Case::each(|subject, case| {
        let mut first = pieces(&request(case), 8)[0].clone();
        first.packet.body.payload().truncate(if case.protocol == Protocol::Tcp { 16 } else { 0 });
        let outcome = subject.run(first.bytes());
        assert_eq!(outcome.traffic, [], "{}: {outcome:?}", case.name());
        let counted: Vec<_> = outcome.counted.keys().copied().collect();
        assert_eq!(counted, ["fragment"], "{}", case.name());
    })
}

#[test]
fn a_datagram_is_forgotten_soon() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let sent: Vec<_> =
            Case::all().into_iter().map(|case| (case, pieces(&request(case), 9))).collect();
        for (_, pieces) in &sent {
            let _ = subject.run(pieces[0].bytes());
        }
        let last = subject.second();
        for (case, pieces) in &sent {
            let outcome = subject.run(pieces[1].bytes());
            assert_eq!(outcome.traffic.len(), 1, "{}: {outcome:?}", case.name());
        }
        assert!(eventually(|| subject.second().wrapping_sub(last) >= SECONDS));
        for (case, pieces) in &sent {
            subject.drops(&case.name(), &pieces[2], Counter::Fragment);
        }
    })
}

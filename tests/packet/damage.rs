//! Frames that are cut, that lie, or that are only a part: each gets a verdict
//! and a counter, and none is rewritten.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::Case,
    forward::assert_forwarded,
    frame::{
        ARP, DONT_FRAGMENT, Extension, Frame, IPV4, IPV6, MORE_FRAGMENTS, QINQ, VLAN, checksum,
        ethernet, hex,
    },
    network::L0,
    subject::{Action, Subject},
};

/// The shortest frame that the kernel runs: an Ethernet header.
const ETHERNET: usize = 14;

#[test]
fn a_frame_cut_anywhere_is_not_rewritten() -> Result<()> {
    Case::each(|subject, case| {
        let plain = case.request();
        let laden = plain.with(|frame| {
            frame.tags = vec![(QINQ, 100), (VLAN, 200)];
            if case.v4 {
                frame.packet.options = vec![1; 8];
            } else {
                frame.packet.extensions = vec![
                    Extension::options(Extension::HOP_BY_HOP, 0),
                    Extension::options(Extension::DESTINATION, 1),
                ];
            }
        });
        let mut frames = vec![plain, laden];
        if case.mode == Mode::Nat {
            frames.push(case.answer(1));
        }
        for frame in frames {
            let whole = frame.bytes();
            for length in ETHERNET..whole.len() {
                let what = format!("{}: {length} of {} bytes", case.name(), whole.len());
                subject.drops(&what, &whole[..length], Counter::Truncated);
            }
        }
    })
}

#[test]
fn a_transport_header_cut_within_a_whole_packet_is_not_rewritten() -> Result<()> {
    Case::each(|subject, case| {
        let frame = case.request().with(|frame| frame.packet.body.payload().clear());
        let needed = frame.bytes().len() - frame.l4();
        for length in 0..needed {
            // The IP header agrees with the frame that this is all.
            let bytes = resized(&frame, length);
            let outcome = subject.run(bytes.clone());
            assert_eq!(outcome.frame, bytes, "{}: {length} bytes", case.name());
            assert_eq!((outcome.action, &outcome.traffic[..]), (Action::Drop, &[][..]));
            let counted: Vec<_> = outcome.counted.into_keys().collect();
            let fits = [["truncated"], ["malformed"]].iter().any(|one| counted == one);
            assert!(fits, "{}: {length} bytes: {counted:?}", case.name());
        }
    })
}

#[test]
fn an_ip_header_that_lies_is_named() -> Result<()> {
    Case::each(|subject, case| {
        let frame = case.request();
        let (l3, length) = (frame.l3(), (frame.bytes().len() - frame.l3()) as u16);
        if case.v4 {
            let with = |at, value: &[u8]| altered(&frame, l3 + at, value);
            for version in [0, 3, 5, 6, 15] {
                subject.drops("version", with(0, &[version << 4 | 5]), Counter::Malformed);
            }
            for words in 0..5 {
                subject.drops("header length", with(0, &[0x40 | words]), Counter::Malformed);
            }
            for total in [0, 1, 19] {
                subject.drops("total length", with(2, &number(total)), Counter::Malformed);
            }
            for total in [length + 1, length + 100, u16::MAX] {
                subject.drops("total length", with(2, &number(total)), Counter::Truncated);
            }
        } else {
            let with = |at, value: &[u8]| altered(&frame, l3 + at, value);
            for version in [0, 4, 5, 7, 15] {
                subject.drops("version", with(0, &[version << 4]), Counter::Malformed);
            }
            for payload in [length - 40 + 1, length, u16::MAX] {
                subject.drops("payload length", with(4, &number(payload)), Counter::Truncated);
            }
        }
    })
}

#[test]
fn a_transport_header_that_lies_is_named() -> Result<()> {
    Case::each(|subject, case| {
        let frame = case.request();
        let (l4, length) = (frame.l4(), (frame.bytes().len() - frame.l4()) as u16);
        if case.protocol == Protocol::Tcp {
            for words in [0, 1, 4, 15] {
                let bytes = altered(&frame, l4 + 12, &[words << 4]);
                subject.drops("data offset", bytes, Counter::Malformed);
            }
        } else {
            for datagram in [0, 7, length + 1, u16::MAX] {
                let bytes = altered(&frame, l4 + 4, &number(datagram));
                subject.drops("datagram length", bytes, Counter::Malformed);
            }
        }
    })
}

#[test]
fn an_ip_length_that_cuts_the_transport_header_is_named() -> Result<()> {
    Case::each(|subject, case| {
        let frame = case.request();
        // The bytes are there, but the IP header says that they are padding.
        for length in [0, 4, 7] {
            let mut bytes = frame.bytes();
            let end = bytes.split_off(frame.l4() + length);
            let mut bytes = relabelled(&frame, bytes);
            bytes.extend(end);
            let outcome = subject.run(bytes.clone());
            assert_eq!(outcome.frame, bytes, "{}: {length} bytes", case.name());
            assert_eq!(outcome.action, Action::Drop, "{}: {length} bytes", case.name());
            let counted: Vec<_> = outcome.counted.into_keys().collect();
            let fits = [["truncated"], ["malformed"]].iter().any(|one| counted == one);
            assert!(fits, "{}: {length} bytes: {counted:?}", case.name());
        }
    })
}

#[test]
fn the_other_family_in_the_ethertype_is_named() -> Result<()> {
    Case::each(|subject, case| {
        let frame = case.request().with(|frame| frame.packet.body.payload().extend([0; 40]));
        let ethertype = if case.v4 { IPV6 } else { IPV4 };
        let bytes = altered(&frame, 12, &number(ethertype));
        subject.drops(&case.name(), bytes, Counter::Malformed);
    })
}

/// The fragments of IPv4: the first, one amidst, the last.
const FRAGMENTS: [(u16, bool); 3] = [(0, true), (100, true), (100, false)];

fn fragment(frame: &Frame, (offset, more): (u16, bool)) -> Frame {
    frame.with(|frame| {
        if frame.packet.source.is_ipv4() {
            frame.packet.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
        } else {
            frame.packet.extensions = vec![Extension::fragment(offset, more)];
        }
    })
}

#[test]
fn fragments_for_others_pass() -> Result<()> {
    Case::each(|subject, case| {
        let others: [&str; 2] =
            if case.v4 { ["10.1.0.1", "192.0.2.1"] } else { ["fd00:1::1", "2001:db8:1::1"] };
        for (other, which) in others.iter().flat_map(|o| FRAGMENTS.map(|which| (o, which))) {
            let other: IpAddr = other.parse().unwrap();
            let frame =
                fragment(&case.request(), which).with(|frame| frame.packet.destination = other);
            subject.passes(&format!("to {other}: {which:?}"), &frame);
        }
    })
}

#[test]
fn permission_to_fragment_is_no_fragment() -> Result<()> {
    Case::each(|subject, case| {
        for flags in [0, DONT_FRAGMENT, 0x8000] {
            if case.v4 {
                let frame = case.request().with(|frame| frame.packet.fragment = flags);
                assert_forwarded(subject, case, &format!("flags {flags:#x}"), &frame);
            }
        }
    })
}

#[test]
fn damaged_tags_are_named_and_a_third_tag_is_not_ours() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for tags in [vec![(VLAN, 1)], vec![(QINQ, 1), (VLAN, 2)]] {
            let whole = ethernet(L0, [2; 6], &tags, IPV4, &[]);
            for length in ETHERNET..whole.len() {
                subject.drops("tags", &whole[..length], Counter::Truncated);
            }
        }
        for case in Case::all() {
            let tags = vec![(QINQ, 1), (VLAN, 2), (VLAN, 3)];
            subject.passes("three tags", &case.request().with(|frame| frame.tags = tags));
        }
    })
}

#[test]
fn whatever_is_not_ip_passes() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        // ARP, LLDP, MPLS, EAPOL, a length of IEEE 802.3, whole or not.
        for ethertype in [ARP, 0x88cc, 0x8847, 0x888e, 0x0026] {
            for length in [0, 1, 46] {
                let frame = ethernet(L0, [2; 6], &[], ethertype, &vec![0x5a; length]);
                subject.passes(&format!("EtherType {ethertype:#06x}"), frame);
            }
        }
    })
}

#[test]
fn frames_for_others_pass_untouched() -> Result<()> {
    Case::each(|subject, case| {
        let others: [&str; 4] = if case.v4 {
            ["10.1.0.1", "192.0.2.1", "224.0.0.1", "255.255.255.255"]
        } else {
            ["fd00:1::1", "2001:db8:1::1", "ff02::1", "fe80::1"]
        };
        for other in others {
            let frame = case.request().with(|frame| {
                frame.packet.destination = other.parse().unwrap();
                frame.packet.hops = 1;
            });
            subject.passes(&format!("{}: to {other}", case.name()), &frame);
        }
    })
}

#[test]
fn noise_gets_a_verdict() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        // A generator by G. Marsaglia ("Xorshift RNGs", 2003), so that a
        // failure can be repeated.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let frames: Vec<_> = Case::all().iter().flat_map(|c| [c.request(), c.answer(1)]).collect();
        for round in 0..20_000 {
            let frame = &frames[round % frames.len()];
            let mut bytes = frame.bytes();
            for _ in 0..1 + next() % 4 {
                let at = ETHERNET - 2 + next() as usize % (bytes.len() - ETHERNET + 2);
                bytes[at] = next() as u8;
            }
            let before = subject.counter(Counter::HandedOver);
            let (action, out) = subject.run_uncounted(bytes.clone());
            assert_eq!(out.len(), bytes.len());
            // An answer to a client that the noise invented is the kernel's to send.
            let handed_over = subject.counter(Counter::HandedOver) > before;
            let leaves = matches!(action, Action::Transmit | Action::Redirect) || handed_over;
            assert!(leaves || out == bytes, "{action:?} changed {}", hex(&bytes));
        }
    })
}

/// The frame with other bytes at `at`, and a right header checksum (IPv4).
fn altered(frame: &Frame, at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[at..at + value.len()].copy_from_slice(value);
    seal(frame, &mut bytes);
    bytes
}

/// The frame with `length` bytes of transport header and honest lengths.
fn resized(frame: &Frame, length: usize) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes.truncate(frame.l4() + length);
    relabelled(frame, bytes)
}

/// Makes the IP header say that the packet ends where `bytes` end.
fn relabelled(frame: &Frame, mut bytes: Vec<u8>) -> Vec<u8> {
    let (l3, v4) = (frame.l3(), frame.packet.source.is_ipv4());
    let length = bytes.len() - l3 - if v4 { 0 } else { 40 };
    let at = l3 + if v4 { 2 } else { 4 };
    bytes[at..at + 2].copy_from_slice(&number(length as u16));
    seal(frame, &mut bytes);
    bytes
}

fn seal(frame: &Frame, bytes: &mut [u8]) {
    let l3 = frame.l3();
    if frame.packet.source.is_ipv4() {
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum = checksum(&[&bytes[l3..frame.l4()]]);
        bytes[l3 + 10..l3 + 12].copy_from_slice(&number(sum));
    }
}

fn number(value: u16) -> [u8; 2] {
    value.to_be_bytes()
}

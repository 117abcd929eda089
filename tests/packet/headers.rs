//! Options of IPv4 and extension headers of IPv6.

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Result};

use super::{
    case::Case,
    forward::{assert_answered, assert_forwarded},
    frame::{Extension, Frame},
};

#[test]
fn options_of_ipv4_are_kept() -> Result<()> {
    Case::each(|subject, case| {
        // No operation; router alert; the most there can be.
        for options in [vec![1; 4], vec![148, 4, 0, 0, 1, 1, 1, 0], vec![1; 40]] {
            if !case.v4 {
                continue;
            }
            let what = format!("{} bytes of options", options.len());
            let change = |frame: &mut Frame| frame.packet.options.clone_from(&options);
            assert_forwarded(subject, case, &what, &case.request().with(change));
            if case.mode == Mode::Nat {
                assert_answered(subject, case, &what, &case.answer(1).with(change));
            }
        }
    })
}

#[test]
fn extension_headers_are_walked() -> Result<()> {
    let chains = [
        vec![Extension::options(Extension::HOP_BY_HOP, 0)],
        vec![Extension::options(Extension::DESTINATION, 0)],
        vec![Extension::options(Extension::DESTINATION, 20)],
        vec![Extension::routing()],
        vec![Extension::authentication()],
        // A fragment that is whole (RFC 6946).
        vec![Extension::fragment(0, false)],
        vec![
            Extension::options(Extension::HOP_BY_HOP, 1),
            Extension::options(Extension::DESTINATION, 0),
            Extension::routing(),
            Extension::fragment(0, false),
            Extension::authentication(),
            Extension::options(Extension::DESTINATION, 2),
        ],
    ];
    Case::each(|subject, case| {
        for chain in &chains {
            if case.v4 {
                continue;
            }
            let what = format!("headers {:?}", chain.iter().map(|e| e.kind).collect::<Vec<_>>());
            let change = |frame: &mut Frame| frame.packet.extensions.clone_from(chain);
            assert_forwarded(subject, case, &what, &case.request().with(change));
            let tagged = case
                .request()
                .with(change)
                .with(|frame| frame.tags = vec![(0x88a8, 9), (0x8100, 7)]);
            assert_forwarded(subject, case, &what, &tagged);
            if case.mode == Mode::Nat {
                assert_answered(subject, case, &what, &case.answer(1).with(change));
            }
        }
    })
}

#[test]
fn more_extension_headers_than_are_walked_are_named() -> Result<()> {
    Case::each(|subject, case| {
        if case.v4 {
            return;
        }
        let headers = |count| {
            let one = Extension::options(Extension::DESTINATION, 0);
            case.request().with(|frame| frame.packet.extensions = vec![one; count])
        };
        assert_forwarded(subject, case, "six headers", &headers(6));
        subject.drops("seven headers", &headers(7), Counter::ExtensionHeaders);
        subject.drops("ten headers", &headers(10), Counter::ExtensionHeaders);
        // To somebody else they are nobody's business.
        let elsewhere = headers(7).with(|frame| {
            frame.packet.destination = "2001:db8:1::1".parse().unwrap();
        });
        subject.passes("seven headers to somebody else", &elsewhere);
    })
}

#[test]
fn extension_headers_that_lie_are_named() -> Result<()> {
    Case::each(|subject, case| {
        if case.v4 {
            return;
        }
        // Longer than the packet says, and longer than the frame.
        for units in [4, 100, 255] {
            let request = case.request().with(|frame| {
                frame.packet.extensions = vec![Extension::options(Extension::DESTINATION, 0)];
            });
            let mut bytes = request.bytes();
            bytes[request.l3() + 41] = units;
            let outcome = subject.run(bytes.clone());
            let counted: Vec<_> = outcome.counted.keys().copied().collect();
            assert_eq!(outcome.frame, bytes, "{units} units");
            assert_eq!(outcome.traffic, [], "{units} units");
            assert!(
                [["malformed"], ["truncated"], ["extension_headers"]].contains(&[counted[0]]),
                "{units} units: {counted:?}"
            );
        }
    })
}

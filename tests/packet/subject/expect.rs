//! What a frame is expected to come to.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::stats::Counter;

use super::{Action, Outcome, Subject, Traffic};
use crate::packet::{
    check::assert_valid,
    frame::{Frame, hex},
};

impl Subject<'_> {
    /// Asserts that the frame goes to backend `to` and looks like `expected`:
    /// to the kernel, which knows the way, where its Ethernet header is to stay.
    #[track_caller]
    pub(crate) fn forwards(&self, what: &str, frame: &Frame, expected: &Frame, to: IpAddr) {
        let bytes = expected.bytes().len() as u64;
        let traffic = Traffic { backend: to, packets: 1, bytes, replies: 0, reply_bytes: 0 };
        self.sends(what, frame.bytes(), expected, traffic);
    }

    /// Asserts that the frame of backend `from` goes on and looks like `expected`.
    #[track_caller]
    pub(crate) fn replies(&self, what: &str, frame: &Frame, expected: &Frame, from: IpAddr) {
        let reply_bytes = frame.bytes().len() as u64;
        let traffic = Traffic { backend: from, packets: 0, bytes: 0, replies: 1, reply_bytes };
        self.sends(what, frame.bytes(), expected, traffic);
    }

    #[track_caller]
    fn sends(&self, what: &str, frame: Vec<u8>, expected: &Frame, traffic: Traffic) {
        let expected = expected.bytes();
        assert_valid(&expected);
        let outcome = self.run(frame.clone());
        assert_frame(what, &frame, &expected, &outcome);
        // Who is to send the frame is told by the address it bears.
        let (action, counted) = if expected[..12] == frame[..12] {
            (Action::Pass, Some((Counter::HandedOver.name(), 1)))
        } else if expected[6..12] == frame[..6] {
            (Action::Transmit, None)
        } else {
            (Action::Redirect, None)
        };
        assert_eq!(outcome.action, action, "{what}: {outcome:?}");
        assert_eq!(outcome.traffic, [traffic], "{what}: {outcome:?}");
        assert_eq!(outcome.counted, counted.into_iter().collect(), "{what}");
    }

    /// Asserts that the frame is dropped untouched for this reason.
    #[track_caller]
    pub(crate) fn drops(&self, what: &str, frame: impl Into<Vec<u8>>, reason: Counter) {
        self.leaves(what, frame.into(), Action::Drop, reason);
    }

    /// Asserts that the frame goes to the kernel untouched.
    #[track_caller]
    pub(crate) fn passes(&self, what: &str, frame: impl Into<Vec<u8>>) {
        self.leaves(what, frame.into(), Action::Pass, Counter::Passed);
    }

    #[track_caller]
    fn leaves(&self, what: &str, frame: Vec<u8>, action: Action, counter: Counter) {
        let outcome = self.run(frame.clone());
        assert_frame(what, &frame, &frame, &outcome);
        let counted = BTreeMap::from([(counter.name(), 1)]);
        assert_eq!(outcome.counted, counted, "{what}: {outcome:?}, in {}", hex(&frame));
        assert_eq!(outcome.action, action, "{what}: {outcome:?}");
        assert_eq!(outcome.traffic, [], "{what}");
    }

    /// Asserts that the frame is answered with `expected`, counted as `counter`.
    #[track_caller]
    pub(crate) fn answers(&self, what: &str, frame: &Frame, expected: &Frame, counter: Counter) {
        let (frame, expected) = (frame.bytes(), expected.bytes());
        assert_valid(&expected);
        let outcome = self.run(frame.clone());
        assert_frame(what, &frame, &expected, &outcome);
        assert_eq!(outcome.action, Action::Transmit, "{what}: {outcome:?}");
        assert_eq!(outcome.counted, BTreeMap::from([(counter.name(), 1)]), "{what}");
        assert_eq!(outcome.traffic, [], "{what}");
    }
}

#[track_caller]
fn assert_frame(what: &str, frame: &[u8], expected: &[u8], outcome: &Outcome) {
    let at = expected.iter().zip(&outcome.frame).position(|(a, b)| a != b);
    assert!(
        outcome.frame == expected,
        "{what}: another frame from byte {at:?} on, {:?} and counted {:?}\n      in {}\nexpected {}\n   found {}",
        outcome.action,
        outcome.counted,
        hex(frame),
        hex(expected),
        hex(&outcome.frame),
    );
}

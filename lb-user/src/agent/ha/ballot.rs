//! Questions to the witness and its answers, as datagrams.
//!
//! Numbers are in network byte order (big-endian). A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `lbHW` |
//! | 1 | version, 1 |
//! | 1 | 1, it is a question; 2, an answer |
//! | 1 | number of groups, 0 to 16 |
//! | 1 | 0 |
//! | 16 | stamp: number of the run, then of the frame |
//! | 16 | likewise, of a question: the latest answer, or 0; of an answer: the question |
//! | 8 | lease, microseconds |
//! | 8 each | groups |
//! | 32 | tag: HMAC-SHA256 (RFC 2104) of everything before it |
//!
//! The tag's key is derived from the pair's key and name.

use std::time::Duration;

use ring::hmac;

use super::{frame::FrameError, key::Key};
use crate::core::{
    ha::{Answer, Question, Stamp},
    model::ha::GROUPS,
};

/// Longest frame in bytes.
pub(super) const MOST_BYTES: usize = LEAST_BYTES + GROUPS * WORD;
/// Shortest frame in bytes.
const LEAST_BYTES: usize = HEAD + FIXED * WORD + TAG;

const MAGIC: &[u8; 4] = b"lbHW";
const VERSION: u8 = 1;
/// What the key is derived for.
const PURPOSE: &str = "witness";

/// Bytes of the parts: before the numbers, a number, the tag.
const HEAD: usize = 8;
const WORD: usize = 8;
const TAG: usize = 32;
/// Numbers before the groups.
const FIXED: usize = 5;

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// Makes and reads the frames between a pair and its witness.
#[derive(Clone, Debug)]
pub(super) struct Ballots {
    key: hmac::Key,
}

/// What both kinds of frames hold.
struct Ballot {
    stamp: Stamp,
    other: Stamp,
    lease: Duration,
    groups: Vec<u64>,
}

impl Ballots {
    /// Of the pair of this key and name.
    #[must_use]
    pub(super) fn new(key: &Key, pair: &str) -> Self {
        Self { key: key.derive(PURPOSE, pair) }
    }

    /// The frame of a question.
    #[must_use]
    pub(super) fn question(&self, question: Question) -> Vec<u8> {
        let Question { stamp, heard, lease, groups } = question;
        let other = heard.unwrap_or(Stamp { boot: 0, sequence: 0 });
        self.encode(QUESTION, &Ballot { stamp, other, lease, groups })
    }

    /// The frame of an answer.
    #[must_use]
    pub(super) fn answer(&self, answer: Answer) -> Vec<u8> {
        let Answer { stamp, question: other, lease, groups } = answer;
        self.encode(ANSWER, &Ballot { stamp, other, lease, groups })
    }

    /// The question in a datagram.
    ///
    /// # Errors
    /// It is none of this pair's.
    pub(super) fn read_question(&self, datagram: &[u8]) -> Result<Question, FrameError> {
        let Ballot { stamp, other, lease, groups } = self.decode(QUESTION, datagram)?;
        let heard = (other != Stamp { boot: 0, sequence: 0 }).then_some(other);
        Ok(Question { stamp, heard, lease, groups })
    }

    /// The answer in a datagram.
    ///
    /// # Errors
    /// It is none of this pair's.
    pub(super) fn read_answer(&self, datagram: &[u8]) -> Result<Answer, FrameError> {
        let Ballot { stamp, other: question, lease, groups } = self.decode(ANSWER, datagram)?;
        Ok(Answer { stamp, question, lease, groups })
    }

    fn encode(&self, kind: u8, ballot: &Ballot) -> Vec<u8> {
        let Ballot { stamp, other, lease, groups } = ballot;
        let lease = lease.as_micros() as u64;
        let fixed = [stamp.boot, stamp.sequence, other.boot, other.sequence, lease];
        let mut frame = MAGIC.to_vec();
        frame.extend([VERSION, kind, groups.len() as u8, 0]);
        frame.extend(fixed.iter().chain(groups).flat_map(|number| number.to_be_bytes()));
        frame.extend(hmac::sign(&self.key, &frame).as_ref());
        frame
    }

    /// Until the tag is verified nothing is allocated.
    fn decode(&self, kind: u8, datagram: &[u8]) -> Result<Ballot, FrameError> {
        let rest = datagram.strip_prefix(MAGIC).ok_or(FrameError::Foreign)?;
        match rest.first() {
            Some(&VERSION) | None => {}
            Some(&version) => return Err(FrameError::Version(version)),
        }
        if !(LEAST_BYTES..=MOST_BYTES).contains(&datagram.len()) {
            return Err(FrameError::Length(datagram.len()));
        }
        let (signed, tag) = datagram.split_at(datagram.len() - TAG);
        hmac::verify(&self.key, signed, tag).map_err(|_| FrameError::Key)?;
        let (head, body) = signed.split_at(HEAD);
        let (numbers, rest) = body.as_chunks();
        let numbers: Vec<_> = numbers.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let [boot, sequence, other_boot, other_sequence, lease, groups @ ..] = &numbers[..] else {
            return Err(FrameError::Malformed);
        };
        let count = groups.len() as u8;
        if head[MAGIC.len() + 1..] != [kind, count, 0] || !rest.is_empty() {
            return Err(FrameError::Malformed);
        }
        Ok(Ballot {
            stamp: Stamp { boot: *boot, sequence: *sequence },
            other: Stamp { boot: *other_boot, sequence: *other_sequence },
            lease: Duration::from_micros(*lease),
            groups: groups.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballots(secret: u8, pair: &str) -> Ballots {
        Ballots::new(&Key::from([secret; 32]), pair)
    }

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), 1..u64::MAX).prop_map(|(boot, sequence)| Stamp { boot, sequence })
    }

    fn any_question() -> impl Strategy<Value = Question> {
        let groups = prop::collection::vec(any::<u64>(), 0..=GROUPS);
        let lease = (0..1_u64 << 40).prop_map(Duration::from_micros);
        (any_stamp(), prop::option::of(any_stamp()), lease, groups)
            .prop_map(|(stamp, heard, lease, groups)| Question { stamp, heard, lease, groups })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_by_nobody_else(question in any_question()) {
            let ours = ballots(7, "edge");
            let Question { stamp, lease, groups, .. } = question.clone();
            let answer = Answer { stamp, question: stamp, lease, groups };
            let (asked, answered) = (ours.question(question.clone()), ours.answer(answer.clone()));
            prop_assert!(asked.len() <= MOST_BYTES);
            prop_assert_eq!(ours.read_question(&asked), Ok(question));
            prop_assert_eq!(ours.read_answer(&answered), Ok(answer));
            prop_assert_eq!(ours.read_answer(&asked), Err(FrameError::Malformed));
            prop_assert_eq!(ours.read_question(&answered), Err(FrameError::Malformed));
            for others in [ballots(8, "edge"), ballots(7, "edge2")] {
                prop_assert_eq!(others.read_question(&asked), Err(FrameError::Key));
            }
        }

        #[test]
        fn what_is_changed_or_invented_is_refused(
            question in any_question(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
            noise in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let ours = ballots(7, "edge");
            let frame = ours.question(question);
            let mut changed = frame.clone();
            changed[at.index(frame.len())] ^= 1 << bit;
            prop_assert!(ours.read_question(&changed).is_err());
            prop_assert!(ours.read_question(&frame[..at.index(frame.len())]).is_err());
            prop_assert!(ours.read_question(&noise).is_err());
            prop_assert!(ours.read_answer(&[&frame[..HEAD], &noise].concat()).is_err());
        }
    }
}

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
//! The tag's key is derived from one of the pair's keys and its name. A question has
//! that of the oldest, which the witness has whatever its file says of newer ones, and
//! one for no vote may have that of the newest, to find out; an answer has that of its
//! question.

use std::time::Duration;

use ring::hmac;

use super::{
    frame::FrameError,
    key::{Key, Keys},
};
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
    /// The newest first.
    keys: Vec<hmac::Key>,
}

/// What both kinds of frames hold.
struct Ballot {
    stamp: Stamp,
    other: Stamp,
    lease: Duration,
    groups: Vec<u64>,
}

impl Ballots {
    /// Of the pair of these keys and this name.
    #[must_use]
    pub(super) fn new(keys: &Keys, pair: &str) -> Self {
        let derived = |key: &Key| key.derive(PURPOSE, pair);
        Self { keys: keys.iter().map(derived).collect() }
    }

    /// The frame of a question.
    #[must_use]
    pub(super) fn question(&self, question: Question) -> Vec<u8> {
        self.question_by(self.keys.len() - 1, question)
    }

    /// The same by the newest key.
    #[must_use]
    pub(super) fn question_by_newest(&self, question: Question) -> Vec<u8> {
        self.question_by(0, question)
    }

    fn question_by(&self, key: usize, question: Question) -> Vec<u8> {
        let Question { stamp, heard, lease, groups } = question;
        let other = heard.unwrap_or(Stamp { boot: 0, sequence: 0 });
        self.encode(QUESTION, key, &Ballot { stamp, other, lease, groups })
    }

    /// The frame of an answer to a question that was made with key `key`.
    #[must_use]
    pub(super) fn answer(&self, answer: Answer, key: usize) -> Vec<u8> {
        let Answer { stamp, question: other, lease, groups } = answer;
        self.encode(ANSWER, key, &Ballot { stamp, other, lease, groups })
    }

    /// The question in a datagram, and the position of its key.
    ///
    /// # Errors
    /// It is none of this pair's.
    pub(super) fn read_question(&self, datagram: &[u8]) -> Result<(Question, usize), FrameError> {
        let (Ballot { stamp, other, lease, groups }, key) = self.decode(QUESTION, datagram)?;
        let heard = (other != Stamp { boot: 0, sequence: 0 }).then_some(other);
        Ok((Question { stamp, heard, lease, groups }, key))
    }

    /// The answer in a datagram, and the position of its key.
    ///
    /// # Errors
    /// It is none of this pair's.
    pub(super) fn read_answer(&self, datagram: &[u8]) -> Result<(Answer, usize), FrameError> {
        let (Ballot { stamp, other: question, lease, groups }, key) =
            self.decode(ANSWER, datagram)?;
        Ok((Answer { stamp, question, lease, groups }, key))
    }

    fn encode(&self, kind: u8, key: usize, ballot: &Ballot) -> Vec<u8> {
        let Ballot { stamp, other, lease, groups } = ballot;
        let lease = lease.as_micros() as u64;
        let fixed = [stamp.boot, stamp.sequence, other.boot, other.sequence, lease];
        let mut frame = MAGIC.to_vec();
        frame.extend([VERSION, kind, groups.len() as u8, 0]);
        frame.extend(fixed.iter().chain(groups).flat_map(|number| number.to_be_bytes()));
        frame.extend(hmac::sign(&self.keys[key], &frame).as_ref());
        frame
    }

    /// Until the tag is verified nothing is allocated.
    fn decode(&self, kind: u8, datagram: &[u8]) -> Result<(Ballot, usize), FrameError> {
        let rest = datagram.strip_prefix(MAGIC).ok_or(FrameError::Foreign)?;
        match rest.first() {
            Some(&VERSION) | None => {}
            Some(&version) => return Err(FrameError::Version { version, serves: false }),
        }
        if !(LEAST_BYTES..=MOST_BYTES).contains(&datagram.len()) {
            let (least, most) = (LEAST_BYTES, MOST_BYTES);
            return Err(FrameError::Length { length: datagram.len(), least, most });
        }
        let (signed, tag) = datagram.split_at(datagram.len() - TAG);
        let is_made_with = |key| hmac::verify(key, signed, tag).is_ok();
        let key = self.keys.iter().position(is_made_with).ok_or(FrameError::Key)?;
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
        let ballot = Ballot {
            stamp: Stamp { boot: *boot, sequence: *sequence },
            other: Stamp { boot: *other_boot, sequence: *other_sequence },
            lease: Duration::from_micros(*lease),
            groups: groups.to_vec(),
        };
        Ok((ballot, key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballots(secret: u8, pair: &str) -> Ballots {
        Ballots::new(&Keys::from(Key::from([secret; 32])), pair)
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

    #[test]
    fn while_the_key_changes_whoever_has_the_new_one_first_is_understood() {
        let keys = |secrets: &[u8]| Ballots {
            keys: secrets.iter().map(|n| Key::from([*n; 32]).derive(PURPOSE, "edge")).collect(),
        };
        let stamp = Stamp { boot: 1, sequence: 2 };
        let question = Question { stamp, heard: None, lease: Duration::ZERO, groups: vec![3] };
        let answer = Answer { stamp, question: stamp, lease: Duration::ZERO, groups: vec![3] };
        // The node has these keys, and the witness those, the newest first.
        let steps = [(&[2, 1][..], &[1][..]), (&[1], &[2, 1]), (&[2, 1], &[2, 1]), (&[2], &[2, 1])];
        for (node, witness) in steps {
            let (node, witness) = (keys(node), keys(witness));
            let asked = node.question(question.clone());
            let (read, key) = witness.read_question(&asked).expect("a question");
            assert_eq!(read, question);
            let (answered, _) = node.read_answer(&witness.answer(answer.clone(), key)).unwrap();
            assert_eq!(answered, answer);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_by_nobody_else(question in any_question()) {
            let ours = ballots(7, "edge");
            let Question { stamp, lease, groups, .. } = question.clone();
            let answer = Answer { stamp, question: stamp, lease, groups };
            let (asked, answered) = (ours.question(question.clone()), ours.answer(answer.clone(), 0));
            prop_assert!(asked.len() <= MOST_BYTES);
            prop_assert_eq!(ours.read_question(&asked), Ok((question, 0)));
            prop_assert_eq!(ours.read_answer(&answered), Ok((answer, 0)));
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

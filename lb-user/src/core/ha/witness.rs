//! The witness of a pair: a third host that has a vote for each group, and gives
//! it to one node at a time.
//!
//! It remembers nothing when it starts again, so it gives no vote until all that it
//! may have given before are over. A question counts only if it repeats one of the
//! witness's latest answers, and is newer than all others of its sender's run: so
//! one that is sent again by somebody else has no effect.

use std::{collections::HashMap, time::Duration};

use super::{Answer, Question, Refusal, Stamp};

/// Longest time for which a vote is given, and for which an answer may be repeated.
const LONGEST: Duration = Duration::from_secs(10);

/// A witness.
#[derive(Clone, Debug)]
pub struct Witness {
    boot: u64,
    started: Duration,
    /// Runs of the nodes: number of the latest question, and when it came.
    runs: HashMap<u64, (u64, Duration)>,
    /// By group: the run that has the vote, and until when.
    votes: HashMap<u64, (u64, Duration)>,
}

impl Witness {
    /// One that starts, in a run whose number is `boot`.
    #[must_use]
    pub fn new(boot: u64, now: Duration) -> Self {
        Self { boot, started: now, runs: HashMap::new(), votes: HashMap::new() }
    }

    /// Answers an authenticated question.
    ///
    /// # Errors
    /// It was there before.
    pub fn answer(&mut self, question: &Question, now: Duration) -> Result<Answer, Refusal> {
        let Stamp { boot: run, sequence } = question.stamp;
        // Who is not heard for longer would repeat an answer that is too old.
        self.runs.retain(|_, (_, heard)| *heard + LONGEST >= now);
        if self.runs.get(&run).is_some_and(|(latest, _)| *latest >= sequence) {
            return Err(Refusal::Replayed);
        }
        let lease = question.lease.min(LONGEST);
        let mut groups = Vec::new();
        if question.heard.is_some_and(|stamp| self.is_recent(stamp, now)) {
            self.votes.retain(|_, (_, end)| *end > now);
            self.runs.insert(run, (sequence, now));
            groups.clone_from(&question.groups);
            groups.retain(|group| self.vote(*group, run, now + lease, now));
        }
        // The moment is the number: so it need not be remembered.
        let stamp = Stamp { boot: self.boot, sequence: now.as_micros() as u64 };
        Ok(Answer { stamp, question: question.stamp, lease, groups })
    }

    /// Whether the witness gave this answer, and lately.
    fn is_recent(&self, Stamp { boot, sequence }: Stamp, now: Duration) -> bool {
        boot == self.boot && Duration::from_micros(sequence) + LONGEST >= now
    }

    /// Gives a run the vote for a group until `end`, if no other has it.
    fn vote(&mut self, group: u64, run: u64, end: Duration, now: Duration) -> bool {
        if now < self.started + LONGEST {
            return false;
        }
        let (holder, until) = self.votes.entry(group).or_insert((run, end));
        if *holder == run {
            *until = end.max(*until);
        }
        *holder == run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long after the start.
    const LATER: Duration = Duration::from_secs(100);
    const LEASE: Duration = Duration::from_millis(400);

    fn question(boot: u64, sequence: u64, heard: Option<Stamp>) -> Question {
        let stamp = Stamp { boot, sequence };
        Question { stamp, heard, lease: LEASE, groups: vec![1, 2] }
    }

    /// A witness that runs for long, and its latest answer.
    fn witness() -> (Witness, Option<Stamp>) {
        let mut witness = Witness::new(7, Duration::ZERO);
        let answer = witness.answer(&question(1, 1, None), LATER).expect("an answer");
        assert!(answer.groups.is_empty());
        (witness, Some(answer.stamp))
    }

    #[test]
    fn one_run_has_the_vote_until_it_is_over() {
        let (mut witness, heard) = witness();
        let mut ask = |boot, sequence, now| {
            witness.answer(&question(boot, sequence, heard), now).expect("an answer").groups
        };
        assert_eq!(ask(1, 2, LATER), [1, 2]);
        assert!(ask(2, 1, LATER).is_empty());
        assert_eq!(ask(1, 3, LATER + LEASE / 2), [1, 2]);
        let end = LATER + LEASE / 2 + LEASE;
        assert!(ask(2, 2, end - Duration::from_nanos(1)).is_empty());
        assert_eq!(ask(2, 3, end), [1, 2]);
    }

    #[test]
    fn what_is_asked_again_or_without_a_recent_answer_has_no_effect() {
        let (mut witness, heard) = witness();
        let asked = question(1, 2, heard);
        assert_eq!(witness.answer(&asked, LATER).expect("an answer").groups, [1, 2]);
        assert_eq!(witness.answer(&asked, LATER), Err(Refusal::Replayed));
        // When its sender is forgotten, what it repeats is too old.
        let late = LATER + 3 * LONGEST;
        assert!(witness.answer(&asked, late).expect("an answer").groups.is_empty());
        let other = Some(Stamp { boot: 8, sequence: late.as_micros() as u64 });
        let answer = witness.answer(&question(2, 1, other), late).expect("an answer");
        assert!(answer.groups.is_empty());
    }

    #[test]
    fn who_starts_gives_no_vote_while_earlier_ones_may_last() {
        let mut witness = Witness::new(7, LATER);
        let mut heard = None;
        let mut ask = |sequence, after| {
            let answer = witness.answer(&question(1, sequence, heard), LATER + after);
            let answer = answer.expect("an answer");
            heard = Some(answer.stamp);
            answer.groups
        };
        assert!(ask(1, Duration::ZERO).is_empty());
        assert!(ask(2, LONGEST - Duration::from_micros(1)).is_empty());
        assert_eq!(ask(3, LONGEST), [1, 2]);
    }
}

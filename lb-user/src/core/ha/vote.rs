//! The vote of a witness, for two nodes that do not hear each other.
//!
//! With a witness nobody serves on its own word. A lease is the peer's word, as
//! long as the pair is whole; else the witness's vote, which it gives to one node
//! at a time ([`Witness`](super::Witness)). So of two nodes that are cut off from
//! each other one goes on at most, and one that is cut off from both stops.
//!
//! Who serves asks when the peer's word runs out, who stands by when it would take
//! over. So in a partition who serves goes on, and after its death who stands by
//! has the vote a round trip later.
//!
//! That the peer does not take over says nothing if it serves already. So its word
//! counts only if the frame in which it was given confirms that the peer had heard
//! what this node says of the group now, and does not serve itself.
//!
//! Two witnesses would give a vote each. So the nodes tell each other which run of it
//! answers them, and while that is another for longer than it takes to notice that
//! one started anew, no vote counts: also when they do not hear each other any more.

use std::time::Duration;

use super::{ASK_QUARTERS, GONE, LONE_LEASE, Pair, Stamp};

/// Heartbeats after which two nodes have noticed that the witness started anew: its
/// last run is forgotten by then.
pub(super) const ANEW: u32 = GONE + 2;

/// What a node asks the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which frame it is.
    pub stamp: Stamp,
    /// The witness's latest answer: who repeats that asks now.
    pub heard: Option<Stamp>,
    /// For how long the vote is wanted.
    pub lease: Duration,
    /// Groups for which it is wanted, see [`super::GroupBeat::id`]. There may be
    /// none: a node that will have to ask knows then that it can.
    pub groups: Vec<u64>,
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which frame it is.
    pub stamp: Stamp,
    /// The question.
    pub question: Stamp,
    /// How long the vote lasts, counted from when the question was sent.
    pub lease: Duration,
    /// The groups for which the sender of the question has it.
    pub groups: Vec<u64>,
}

/// What is known of the witness.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Voter {
    /// When it answered last.
    heard: Option<Duration>,
    /// Its answer to our latest question that it answered.
    latest: Option<Stamp>,
    /// That question.
    answered: u64,
    /// Since when the peer names another run of it.
    other: Option<Duration>,
    /// The peer has another witness.
    rival: bool,
}

impl Pair {
    /// The question to send with this round of frames, if there is a witness.
    pub fn question(&mut self, now: Duration) -> Option<Question> {
        let asking = self.groups.iter().filter(|group| group.asks);
        let groups = asking.map(|group| group.settings.id).collect();
        self.question_for(groups, now)
    }

    /// A question for no vote.
    pub fn knock(&mut self, now: Duration) -> Option<Question> {
        self.question_for(Vec::new(), now)
    }

    fn question_for(&mut self, groups: Vec<u64>, now: Duration) -> Option<Question> {
        self.settings.witness.then(|| Question {
            groups,
            stamp: self.stamp(now),
            heard: self.voter.latest,
            lease: self.beats(LONE_LEASE),
        })
    }

    /// Takes in an authenticated answer of the witness. One that answers no
    /// question of this run has no effect.
    pub fn receive_answer(&mut self, answer: &Answer, now: Duration) {
        self.notice_sleep(now);
        let Some(sent) = self.sent_at(answer.question) else { return };
        if answer.question.sequence > self.voter.answered {
            self.voter.heard = Some(now);
            self.voter.latest = Some(answer.stamp);
            self.voter.answered = answer.question.sequence;
        }
        if self.voter.rival {
            return;
        }
        for group in &mut self.groups {
            if answer.groups.contains(&group.settings.id) {
                group.vote = group.vote.max(Some(sent + answer.lease));
            }
        }
        self.weigh(now);
    }

    /// When the witness answered last.
    #[must_use]
    pub fn witness_heard(&self) -> Option<Duration> {
        self.voter.heard
    }

    /// Whether there is a witness, and it has not answered for so long that no vote of
    /// its can last.
    #[must_use]
    pub fn misses_witness(&self, now: Duration) -> bool {
        let heard = self.voter.heard.unwrap_or_default().max(self.awake);
        self.settings.witness && now.saturating_sub(heard) > self.beats(GONE)
    }

    /// Run of the witness that answers this node, 0 if none does.
    pub(super) fn witness_run(&self, now: Duration) -> u64 {
        let lately = self.voter.heard.is_some_and(|heard| now <= heard + self.beats(GONE));
        self.voter.latest.filter(|_| lately).map_or(0, |stamp| stamp.boot)
    }

    /// Takes note of which run of the witness the peer names.
    pub(super) fn compare_witness(&mut self, theirs: u64, now: Duration) {
        let ours = self.witness_run(now);
        let limit = self.beats(ANEW);
        let voter = &mut self.voter;
        if ours == theirs && ours != 0 {
            (voter.other, voter.rival) = (None, false);
        } else if ours == 0 || theirs == 0 {
            // Nothing is learnt from who hears none.
            voter.other = None;
        } else {
            let since = *voter.other.get_or_insert(now);
            voter.rival |= now >= since + limit;
        }
    }

    /// Whether the peer has another witness: no vote counts.
    #[must_use]
    pub fn has_rival_witness(&self) -> bool {
        self.voter.rival
    }

    /// Begins to ask anew: earlier questions are not known any more.
    pub(super) fn forget_questions(&mut self) {
        self.voter.answered = 0;
    }

    /// Until when the peer does not take this group, as far as its word counts.
    pub(super) fn word(&self, index: usize) -> Option<Duration> {
        let (group, peer) = (&self.groups[index], self.peer.as_ref()?);
        let is_told = peer.acknowledged > Some(group.told);
        peer.granted.filter(|_| is_told && !peer.serves(group.settings.id))
    }

    /// Decides whether to ask for a group's vote.
    pub(super) fn weigh_asking(&mut self, index: usize, now: Duration) {
        let asks = self.settings.witness && now >= self.asks_at(index);
        self.news |= asks && !self.groups[index].asks;
        self.groups[index].asks = asks;
    }

    /// When the vote for a group is asked for.
    pub(super) fn asks_at(&self, index: usize) -> Duration {
        if self.groups[index].lease.is_none() {
            return if self.leaving { Duration::MAX } else { self.takes_over_at() };
        }
        let ends = self.word(index).unwrap_or_default();
        ends.saturating_sub(self.beats(ASK_QUARTERS) / 4)
    }
}

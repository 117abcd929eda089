//! One of the nodes: an agent and its data plane.

use std::collections::{BTreeSet, VecDeque};

use super::{
    ears::Ears,
    world::{Conditions, GROUPS, HEARTBEAT, PATHS, STEP},
};
use crate::core::ha::*;

/// Number of the witness among those that frames go to.
pub(super) const WITNESS: usize = 2;

#[derive(Clone)]
pub(super) enum Frame {
    Beat(Beat),
    Question(Question),
    Answer(Answer),
}

pub(super) struct Node {
    pub(super) number: usize,
    pub(super) conditions: Conditions,
    pub(super) clock: Clock,
    /// `None`: not running.
    pub(super) pair: Option<Pair>,
    /// Persistent: highest term.
    pub(super) term: u64,
    pub(super) frozen: bool,
    /// While the peer is told the latest flows: when that is over.
    told: Option<Duration>,
    /// With the paths by which they came.
    pub(super) inbox: VecDeque<(usize, Frame)>,
    /// The data plane: until when it serves each group, by the node's clock.
    pub(super) leases: [Duration; GROUPS],
    pub(super) ears: Ears,
}

/// A clock, beside the world's.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) ahead: Duration,
    /// Millionths that it runs faster.
    pub(super) faster: u32,
}

impl Clock {
    /// What it shows.
    pub(super) fn at(self, now: Duration) -> Duration {
        now + self.ahead + now * self.faster / 1_000_000
    }
}

impl Node {
    pub(super) fn new(number: usize, conditions: Conditions, clock: Clock) -> Self {
        let inbox = VecDeque::new();
        let leases = [Duration::ZERO; GROUPS];
        let ears = Ears::new(0, HEARTBEAT, Duration::ZERO);
        Self {
            number,
            conditions,
            clock,
            pair: None,
            term: 0,
            frozen: false,
            told: None,
            inbox,
            leases,
            ears,
        }
    }

    pub(super) fn start(&mut self, boot: u64, now: Duration) {
        let Conditions { fence, witness, preempt, heartbeat, alike, .. } = self.conditions;
        let role = if alike { 0 } else { self.number };
        let now = self.clock.at(now);
        let heartbeat = [HEARTBEAT, heartbeat][self.number];
        let settings = Settings {
            node: ["a", "b"][role].to_owned(),
            priority: [150, 100][role],
            heartbeat,
            preempt,
            witness,
            fence: fence.is_some(),
            // Each is preferred somewhere.
            groups: (0..GROUPS).map(|group| self.group(group)).collect(),
        };
        let mut pair = Pair::new(settings, boot, self.term, now);
        pair.inform(true);
        self.ears = Ears::new(boot, heartbeat, now);
        self.pair = Some(pair);
    }

    /// Is without power.
    pub(super) fn die(&mut self) {
        self.pair = None;
        self.leases = [Duration::ZERO; GROUPS];
        self.inbox.clear();
    }

    pub(super) fn set_fit(&mut self, fit: bool, now: Duration) {
        let own = self.clock.at(now);
        if let Some(pair) = &mut self.pair {
            (0..GROUPS).for_each(|group| pair.set_fit(group, fit, own));
        }
    }

    pub(super) fn inform(&mut self, informed: bool) {
        if let Some(pair) = &mut self.pair {
            pair.inform(informed);
        }
    }

    fn group(&self, group: usize) -> GroupSettings {
        GroupSettings { id: group as u64, digest: 0, preferred: group == self.number }
    }

    /// What the agent does in a moment: its frames, with their paths, and to whom.
    pub(super) fn run(&mut self, now: Duration) -> Vec<(usize, usize, Frame)> {
        let Some(pair) = self.pair.as_mut().filter(|_| !self.frozen) else { return Vec::new() };
        let own = self.clock.at(now);
        self.ears.wake(own);
        let mut answers = BTreeSet::new();
        let mut echoes = Vec::new();
        for (path, frame) in self.inbox.drain(..) {
            let beat = match frame {
                Frame::Beat(beat) => beat,
                Frame::Answer(answer) => {
                    pair.receive_answer(&answer, own);
                    continue;
                }
                Frame::Question(_) => continue,
            };
            self.ears.hear(&beat, own);
            match pair.receive(&beat, own) {
                Ok(true) => drop(answers.insert(path)),
                Err(Refusal::Unproven(Some(stamp))) => echoes.push((path, Some(stamp))),
                _ => {}
            }
        }
        self.ears.listen(own);
        echoes.extend(answers.into_iter().map(|path| (path, None)));
        let peer = 1 - self.number;
        let answer = |(path, echo)| (path, peer, Frame::Beat(pair.beat(true, echo, own)));
        let mut frames: Vec<_> = echoes.into_iter().map(answer).collect();
        let told = *self.told.get_or_insert(own + STEP * self.conditions.flush);
        if !pair.wants_flush() {
            self.told = None;
        } else if own >= told {
            pair.flushed(own);
            self.told = None;
        }
        pair.tick(own);
        self.term = pair.term();
        for (lease, view) in self.leases.iter_mut().zip(pair.groups()) {
            *lease = view.lease.unwrap_or_default();
        }
        if pair.is_due(own) {
            pair.begin_round(own);
            let beat = |path| (path, peer, Frame::Beat(pair.beat(false, None, own)));
            frames.extend((0..PATHS).map(beat));
            let question = pair.question(own);
            frames.extend(question.map(|question| (0, WITNESS, Frame::Question(question))));
        }
        for (_, _, frame) in &frames {
            if let Frame::Beat(Beat { stamp, .. }) = frame {
                self.ears.say(*stamp, own);
            }
        }
        frames
    }
}

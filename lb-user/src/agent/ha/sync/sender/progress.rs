//! What the peer has been told, over however many connections: one that breaks is
//! gone on with where it broke, as long as the peer remembers what came by it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lb_common::change::Mark;

use crate::{agent::ha::addresses::Serving, core::sync::Names, dataplane::changes::Changes};

/// Groups by position, from bit 0.
pub(super) type Groups = u16;

/// See the module.
pub(super) struct Progress {
    /// Of the peer, see [`super::Message::Welcome`].
    memory: Option<u64>,
    /// Those that the peer knows the numbers of.
    pub(super) names: Arc<Names>,
    /// Groups that this node serves.
    pub(super) serving: Groups,
    /// Groups whose flows this node may have recorded alone: the peer is told them
    /// once, though it serves them now.
    pub(super) owes: Groups,
    /// When this node began to serve each group, last.
    since: Vec<Duration>,
    /// Number of the latest message that is to be confirmed.
    pub(super) sequence: u64,
    pub(super) pass: Pass,
    /// What the peer has not confirmed, the oldest first.
    open: VecDeque<Open>,
}

/// Where a pass through all buckets is.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub(super) next: u32,
    pub(super) kind: Kind,
}

/// What a pass is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is still to be announced.
    New,
    /// The peer does not know all before it is over.
    First,
    /// It repairs; the message that ended the first one.
    Later(u64),
}

/// Part of what is told.
struct Open {
    /// The message after which the peer knows it.
    until: u64,
    what: Part,
}

/// What was told.
pub(super) enum Part {
    /// The flows of these buckets, whose marks are taken.
    Changes(Vec<(u32, Mark)>),
    /// Buckets of the pass, from this one on.
    Pass(u32),
}

impl Pass {
    const NEW: Self = Self { next: 0, kind: Kind::New };
}

impl Progress {
    /// Nothing has been told. What an earlier agent recorded is in the table: nobody
    /// knows whether the peer has it.
    pub(super) fn new() -> Self {
        Self {
            memory: None,
            names: Arc::default(),
            serving: 0,
            owes: Groups::MAX,
            since: Vec::new(),
            sequence: 0,
            pass: Pass::NEW,
            open: VecDeque::new(),
        }
    }

    /// Groups whose flows are told.
    pub(super) fn told(&self) -> Groups {
        self.serving | self.owes
    }

    /// Begins a connection with a peer that has this memory: whether that goes on
    /// with what it knows.
    pub(super) fn resume(&mut self, memory: u64, changes: &Changes) -> bool {
        let resumes = self.memory.replace(memory) == Some(memory);
        let mut lost = None;
        for Open { what, .. } in self.open.drain(..) {
            match what {
                Part::Changes(buckets) => {
                    buckets
                        .into_iter()
                        .for_each(|(bucket, mark)| changes.marks.give_back(bucket, mark));
                }
                Part::Pass(start) => lost = lost.or(Some(start)),
            }
        }
        self.pass = match (resumes, self.pass.kind) {
            (false, _) | (true, Kind::New) => Pass::NEW,
            (true, Kind::First) => Pass { next: lost.unwrap_or(self.pass.next), ..self.pass },
            // All was told: that is said again, once what changed since is told.
            (true, Kind::Later(_)) => Pass { next: lost.unwrap_or(u32::MAX), kind: Kind::First },
        };
        // What was recorded while nobody listened.
        self.owes |= self.serving;
        resumes
    }

    /// Tells everything again.
    pub(super) fn begin_anew(&mut self) {
        self.pass = Pass::NEW;
    }

    /// Takes note of the roles: groups that were gained, and lost.
    pub(super) fn follow(&mut self, serving: &[Serving]) -> (Groups, Groups) {
        let mask = |groups: &mut dyn Iterator<Item = bool>| {
            (0..).zip(groups).filter(|(_, has)| *has).fold(0, |mask, (bit, _)| mask | 1 << bit)
        };
        let now: Groups = mask(&mut serving.iter().map(|group| group.active));
        let before = |index: usize| self.since.get(index).copied();
        let again = |(index, group): (usize, &Serving)| {
            before(index).is_some_and(|since| since != group.since)
        };
        let served = mask(&mut serving.iter().enumerate().map(again));
        // It had served meanwhile, and nobody was told.
        self.owes |= served & !now;
        self.since = serving.iter().map(|group| group.since).collect();
        let (gained, lost) = (now & !self.serving, self.serving & !now);
        (gained, lost)
    }

    /// The peer is being told this, by the messages up to one.
    pub(super) fn open(&mut self, until: u64, what: Part) {
        self.open.push_back(Open { until, what });
    }

    /// The peer has confirmed all messages up to this one.
    pub(super) fn confirm(&mut self, sequence: u64) {
        while self.open.pop_front_if(|open| open.until <= sequence).is_some() {}
        if matches!(self.pass.kind, Kind::Later(told) if told <= sequence) {
            self.owes = 0;
        }
    }
}

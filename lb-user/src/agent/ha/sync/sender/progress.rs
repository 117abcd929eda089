//! What the peer has been told, over however many connections. Nothing is lost with
//! one that breaks: marks that were taken for it are given back. A first pass goes on
//! where it broke, as long as the peer remembers what came by it. All else is told anew:
//! that flows go on is no change, so what the peer knows of them runs out.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    change::{ChangeLine, Mark},
    flow::FlowValue,
};

use super::super::{Groups, groups};
use crate::{agent::ha::addresses::Serving, core::sync::Names, dataplane::mmap::Mapped};

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
    /// When it confirmed something last.
    confirmed: Instant,
    /// What the peer was told of entries of `BINDINGS`, by index.
    pub(super) bindings: Bindings,
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
    /// These entries of `BINDINGS`.
    Bindings(Vec<u32>),
    /// The connections of these buckets of `PROXIED`, whose marks are taken.
    Connections(Vec<u32>),
    /// Buckets and entries of the pass, from this one on.
    Pass(u32),
}

/// Which backend, turn and state an entry of `BINDINGS` had when it was looked at last:
/// another is to be told. Packets mark nothing for that: 64,512 words of each source are
/// soon looked at.
#[derive(Default)]
pub(super) struct Bindings(Vec<u64>);

impl Bindings {
    /// Whether an entry changed since it was looked at last.
    pub(super) fn changed(&mut self, index: u32, value: FlowValue) -> bool {
        let index = index as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        let what = value.touched(0, value.state()).0;
        mem::replace(&mut self.0[index], what) != what
    }

    /// Has an entry look as if it had changed.
    fn forget(&mut self, index: u32) {
        self.0[index as usize] = u64::MAX;
    }
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
            confirmed: Instant::now(),
            bindings: Bindings::default(),
        }
    }

    /// Groups whose flows are told.
    pub(super) fn told(&self) -> Groups {
        self.serving | self.owes
    }

    /// Begins a connection with a peer that has this memory: whether a first pass goes
    /// on. What it was told before lives for `life` at least. `marks` are those of `FLOWS`
    /// and of `PROXIED`.
    pub(super) fn resume(
        &mut self,
        memory: u64,
        marks: [&Mapped<ChangeLine>; 2],
        life: Duration,
    ) -> bool {
        let ([flows, proxied], mut start) = (marks, self.pass.next);
        for Open { what, .. } in self.open.drain(..).rev() {
            match what {
                Part::Changes(buckets) => {
                    buckets.into_iter().for_each(|(bucket, mark)| flows.give_back(bucket, mark));
                }
                Part::Bindings(entries) => {
                    entries.into_iter().for_each(|index| self.bindings.forget(index));
                }
                Part::Connections(buckets) => {
                    buckets.into_iter().for_each(|at| proxied.give_back(at, Mark::Changed));
                }
                Part::Pass(from) => start = from,
            }
        }
        let remembers = self.memory.replace(memory) == Some(memory);
        let resumes =
            remembers && self.pass.kind == Kind::First && self.confirmed.elapsed() <= life;
        self.pass = if resumes { Pass { next: start, ..self.pass } } else { Pass::NEW };
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
        let now = groups(serving.iter().map(|group| group.active));
        // None are known before the first look.
        let began = serving.iter().zip(&self.since).map(|(group, before)| group.since != *before);
        let served = groups(began);
        if served & !now != 0 {
            // It had served meanwhile, and nobody was told.
            self.owes |= served & !now;
            self.begin_anew();
        }
        self.since = serving.iter().map(|group| group.since).collect();
        (now & !self.serving, self.serving & !now)
    }

    /// The peer is being told this, by the messages up to one.
    pub(super) fn open(&mut self, until: u64, what: Part) {
        self.open.push_back(Open { until, what });
    }

    /// The peer has confirmed all messages up to this one.
    pub(super) fn confirm(&mut self, sequence: u64) {
        self.confirmed = Instant::now();
        while self.open.pop_front_if(|open| open.until <= sequence).is_some() {}
        if matches!(self.pass.kind, Kind::Later(told) if told <= sequence) {
            self.owes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::FlowState;

    use super::*;

    const LIFE: Duration = Duration::from_secs(1000);

    fn marks() -> Mapped<ChangeLine> {
        Mapped::anonymous(2).expect("memory")
    }

    fn marked(marks: &Mapped<ChangeLine>) -> Vec<(u32, Mark)> {
        marks.take(0..2).collect()
    }

    /// One whose first pass has told buckets up to 300, the latter half unconfirmed.
    fn amidst(memory: u64) -> Progress {
        let mut progress = Progress::new();
        assert!(!progress.resume(memory, [&marks(), &marks()], LIFE));
        progress.serving = 1;
        progress.pass = Pass { next: 300, kind: Kind::First };
        progress.open(1, Part::Pass(0));
        progress.open(2, Part::Changes(vec![(3, Mark::Changed)]));
        progress.open(3, Part::Pass(150));
        progress.open(3, Part::Connections(vec![9]));
        progress.open(5, Part::Changes(vec![(3, Mark::Exception), (40, Mark::Changed)]));
        progress.confirm(2);
        progress
    }

    #[test]
    fn a_first_pass_goes_on_with_what_was_not_confirmed() {
        let (mut progress, marks, others) = (amidst(7), marks(), marks());
        assert!(progress.resume(7, [&marks, &others], LIFE));
        assert_eq!(marked(&others), [(9, Mark::Changed)]);
        assert_eq!(progress.pass.next, 150);
        assert!(progress.pass.kind == Kind::First);
        assert_eq!(marked(&marks), [(3, Mark::Exception), (40, Mark::Changed)]);
    }

    #[test]
    fn who_has_forgotten_or_may_soon_is_told_everything_and_what_is_owed() {
        let (first, over) = (Kind::First, Kind::Later(3));
        let cases = [(8, LIFE, first), (7, Duration::ZERO, first), (7, LIFE, over)];
        for (memory, life, kind) in cases {
            let (mut progress, marks) = (amidst(7), marks());
            progress.pass.kind = kind;
            progress.owes = 2;
            assert!(!progress.resume(memory, [&marks, &self::marks()], life));
            assert!(progress.pass.kind == Kind::New && progress.pass.next == 0);
            assert_eq!(progress.told(), 3);
            assert_eq!(marked(&marks), [(3, Mark::Exception), (40, Mark::Changed)]);
            // It is owed until a pass that began after that is confirmed.
            progress.confirm(9);
            assert_eq!(progress.owes, 3);
            progress.pass.kind = Kind::Later(10);
            progress.confirm(9);
            assert_eq!(progress.owes, 3);
            progress.confirm(10);
            assert_eq!(progress.owes, 0);
        }
    }

    #[test]
    fn a_group_that_was_served_while_nobody_listened_is_owed() {
        let group = |active, since| Serving { active, since: Duration::from_secs(since) };
        let mut progress = Progress::new();
        progress.owes = 0;
        assert_eq!(progress.follow(&[group(false, 1), group(true, 1)]), (2, 0));
        progress.serving = 2;
        progress.pass.kind = Kind::Later(1);
        assert_eq!(progress.follow(&[group(false, 1), group(true, 1)]), (0, 0));
        assert!(progress.owes == 0 && progress.pass.kind != Kind::New);
        assert_eq!(progress.follow(&[group(false, 5), group(false, 1)]), (0, 2));
        assert!(progress.owes == 1 && progress.pass.kind == Kind::New);
    }

    #[test]
    fn an_entry_changed_if_its_owner_backend_or_state_did() {
        let mut bindings = Bindings::default();
        let value = |backend, turn, state, expires| FlowValue::new(backend, turn, state, expires);
        let first = value(1, 1, FlowState::Embryonic, 5);
        assert!(!bindings.changed(9, FlowValue(0)));
        assert!(bindings.changed(9, first));
        // A longer life is told by a pass.
        assert!(!bindings.changed(9, value(1, 1, FlowState::Embryonic, 6)));
        assert!(bindings.changed(9, value(1, 1, FlowState::Established, 6)));
        assert!(bindings.changed(9, value(2, 1, FlowState::Established, 6)));
        assert!(bindings.changed(9, value(2, 2, FlowState::Established, 6)));
        assert!(bindings.changed(3, first));
        bindings.forget(9);
        assert!(bindings.changed(9, value(2, 2, FlowState::Established, 6)));
    }
}

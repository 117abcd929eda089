//! When and why this node began to serve its groups, or stopped.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    api::{HaTransition, HaTransitions},
    core::{
        ha::{Cause, View},
        model::ha::Group,
    },
};

/// Changes that are remembered one by one.
const LATEST: usize = 8;

/// Changes since the agent started.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The latest, oldest first.
    latest: VecDeque<Transition>,
    /// How many there were, by group, whether it serves, and cause.
    counts: BTreeMap<(usize, bool, Cause), u64>,
}

/// A change.
#[derive(Clone, Copy, Debug)]
struct Transition {
    /// Position of the group.
    group: usize,
    serves: bool,
    cause: Cause,
    term: u64,
    at: Duration,
}

impl History {
    /// Takes note of a change to `view`: why it was, if that is known.
    pub(super) fn add(&mut self, group: usize, view: View, at: Duration) -> Option<Cause> {
        let (cause, serves) = (view.cause?, view.lease.is_some());
        *self.counts.entry((group, serves, cause)).or_default() += 1;
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(Transition { group, serves, cause, term: view.term, at });
        Some(cause)
    }

    /// The latest changes, the newest first.
    pub(super) fn latest(&self, groups: &[Group], now: Duration) -> Vec<HaTransition> {
        let told = |change: &Transition| HaTransition {
            group: groups[change.group].name.clone(),
            to: role(change.serves).to_owned(),
            cause: change.cause.word().to_owned(),
            term: change.term,
            ago_ms: now.saturating_sub(change.at).as_millis() as u64,
        };
        self.latest.iter().rev().map(told).collect()
    }

    /// How many changes there were of each kind.
    pub(super) fn counts(&self, groups: &[Group]) -> Vec<HaTransitions> {
        let told =
            |(&(group, serves, cause), &count): (&(usize, bool, Cause), &u64)| HaTransitions {
                group: groups[group].name.clone(),
                to: role(serves).to_owned(),
                cause: cause.word().to_owned(),
                count,
            };
        self.counts.iter().map(told).collect()
    }
}

/// What a node is that serves, or not.
pub(super) const fn role(serves: bool) -> &'static str {
    if serves { "active" } else { "standby" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(serves: bool, cause: Cause, term: u64) -> View {
        let lease = serves.then_some(Duration::MAX);
        View { term, lease, since: Duration::ZERO, cause: Some(cause) }
    }

    #[test]
    fn all_changes_are_counted_and_the_latest_remembered() {
        let group = |name: &str| Group { name: name.into(), prefer: None, addresses: Vec::new() };
        let groups = ["blue", "green"].map(group);
        let mut history = History::default();
        let turns = LATEST as u64 + 1;
        for turn in 1..=turns {
            let at = Duration::from_secs(turn);
            history.add(0, view(true, Cause::Silence, turn), at);
            history.add(1, view(false, Cause::Ordered, turn), at);
        }
        let counts = history.counts(&groups);
        let kinds = counts
            .iter()
            .map(|one| (one.group.as_str(), one.to.as_str(), one.cause.as_str(), one.count));
        let expected =
            [("blue", "active", "silence", turns), ("green", "standby", "ordered", turns)];
        assert!(kinds.eq(expected), "{counts:?}");
        let latest = history.latest(&groups, Duration::from_secs(turns + 2));
        assert_eq!(latest.len(), LATEST);
        assert_eq!((latest[0].group.as_str(), latest[0].term), ("green", turns));
        assert_eq!(latest[0].ago_ms, 2_000);
    }

    #[test]
    fn a_node_that_never_served_has_no_history() {
        let mut history = History::default();
        let view = View { term: 1, lease: None, since: Duration::ZERO, cause: None };
        assert_eq!(history.add(0, view, Duration::ZERO), None);
        assert!(history.counts(&[]).is_empty());
    }
}

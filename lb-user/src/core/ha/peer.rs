//! What a node knows of its peer.

use std::time::Duration;

use super::{Beat, GroupBeat, Stamp, Stance};

/// Answers whose age is remembered.
const AGES: usize = 8;

/// The peer, in one of its runs.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// When it was heard last.
    pub heard: Duration,
    /// When the latest frame of ours was sent that it has repeated as heard.
    pub acknowledged: Option<Duration>,
    /// Its priority.
    pub priority: u8,
    /// Time between its heartbeats.
    pub interval: Duration,
    boot: u64,
    pub(super) window: Window,
    /// Whether its latest frame says that it hears this run of ours: only then
    /// does its lease end before we take over.
    pub(super) knows_us: bool,
    /// Until when it does not take over, as it said, counted from the frame of
    /// ours that it repeated.
    pub(super) granted: Option<Duration>,
    /// Until when it was told that we do not.
    pub(super) promised: Duration,
    /// How old what its latest answers answer was.
    ages: [Duration; AGES],
    groups: Vec<GroupBeat>,
}

impl Peer {
    pub(super) fn new(beat: &Beat, now: Duration) -> Self {
        Self {
            node: beat.node.clone(),
            heard: now,
            acknowledged: None,
            priority: beat.priority,
            interval: beat.interval,
            boot: beat.stamp.boot,
            window: Window::default(),
            knows_us: false,
            granted: None,
            promised: Duration::ZERO,
            ages: [Duration::ZERO; AGES],
            groups: Vec::new(),
        }
    }

    /// What it says of a group.
    #[must_use]
    pub fn group(&self, id: u64) -> Option<&GroupBeat> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// Whether it said that it serves a group.
    pub(super) fn serves(&self, id: u64) -> bool {
        self.group(id).is_some_and(|group| group.stance == Stance::Active)
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    /// Its latest frame.
    pub(super) fn latest(&self) -> Stamp {
        Stamp { boot: self.boot, sequence: self.window.highest }
    }

    /// Whether its latest frame showed that ours do not reach it.
    pub(super) fn is_deaf(&self, patience: Duration) -> bool {
        self.acknowledged.is_some_and(|sent| self.heard > sent + patience)
    }

    /// How long a frame takes to the peer and its answer back: the longest of
    /// late.
    pub(super) fn round_trip(&self) -> Duration {
        self.ages.into_iter().max().unwrap_or_default()
    }

    /// Takes in what its latest frame says, which repeats what we sent then.
    pub(super) fn learn(&mut self, beat: &Beat, acknowledged: Option<Duration>, now: Duration) {
        self.heard = now;
        self.knows_us = acknowledged.is_some();
        if let Some(sent) = acknowledged {
            self.acknowledged = self.acknowledged.max(acknowledged);
            self.granted = self.granted.max(Some(sent + beat.grant));
            if beat.answer {
                self.ages.rotate_right(1);
                self.ages[0] = now.saturating_sub(sent);
            }
        }
        self.priority = beat.priority;
        self.interval = beat.interval;
        self.groups.clone_from(&beat.groups);
    }

    /// Forgets what it knew of us, when nothing was heard of it for long.
    pub(super) fn forget(&mut self) {
        (self.acknowledged, self.granted) = (None, None);
    }
}

/// Which numbers of frames have come: the highest, and those of the 64 before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    highest: u64,
    /// Bit `n`: `highest - n` has come.
    came: u64,
}

/// What a frame's number says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Newer than all before.
    Latest,
    /// Overtaken by others, but not seen before.
    Late,
    /// Seen before, or too old to tell.
    Replayed,
}

impl Window {
    pub(super) fn admit(&mut self, sequence: u64) -> Admission {
        if let Some(ahead) = sequence.checked_sub(self.highest)
            && ahead > 0
        {
            self.came = self.came.checked_shl(ahead.min(64) as u32).unwrap_or(0) | 1;
            self.highest = sequence;
            return Admission::Latest;
        }
        let behind = self.highest - sequence;
        if behind >= 64 || self.came >> behind & 1 == 1 {
            return Admission::Replayed;
        }
        self.came |= 1 << behind;
        Admission::Late
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission::*, *};

    #[test]
    fn every_frame_is_admitted_once() {
        let mut window = Window::default();
        let seen = [1, 3, 2, 2, 3, 70, 7, 6, 5, 7, 200, 70].map(|n| window.admit(n));
        assert_eq!(
            seen,
            [
                Latest, Latest, Late, Replayed, Replayed, Latest, Late, Replayed, Replayed,
                Replayed, Latest, Replayed
            ]
        );
    }
}

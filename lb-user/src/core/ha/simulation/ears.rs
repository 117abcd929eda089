//! What a node really heard, beside what its role machine makes of it.

use crate::core::ha::*;

/// Ears of one run of a node; times are by its own clock.
#[derive(Clone, Debug)]
pub(super) struct Ears {
    /// Its own heartbeat, and that of the slower node while it knows the peer.
    own: Duration,
    pub(super) slower: Duration,
    /// Latest frame that it sent.
    pub(super) said: Stamp,
    /// The numbers of its frames, and when they were sent: what repeats an old one may
    /// be replayed.
    sent: Vec<(u64, Duration)>,
    /// The peer's latest frame. There is none until one came that repeats a frame
    /// of this run, of late: others may be replayed.
    pub(super) heard: Option<Stamp>,
    /// When that came, or since when it is awake.
    at: Duration,
    /// Whether the peer, while it was there, ever said that it hears this run.
    answered: bool,
    /// When it was awake last.
    awake: Duration,
    /// Since when it hears the peer without a pause.
    pub(super) hears: Duration,
    /// Until when it may serve on nobody's word but its own.
    pub(super) alone: Duration,
}

impl Ears {
    pub(super) fn new(boot: u64, own: Duration, now: Duration) -> Self {
        let said = Stamp { boot, sequence: 0 };
        Self {
            own,
            slower: own,
            said,
            sent: Vec::new(),
            heard: None,
            at: now,
            answered: false,
            awake: now,
            hears: now,
            alone: now,
        }
    }

    /// It is awake: who was not for two heartbeats begins to listen anew.
    pub(super) fn wake(&mut self, now: Duration) {
        if now - self.awake > self.slower * 2 {
            self.at = now;
        }
        self.awake = now;
    }

    /// A frame of the peer's, or an old one, came.
    pub(super) fn hear(&mut self, beat: &Beat, now: Duration) {
        let repeats = |stamp: Option<Stamp>| stamp.is_some_and(|it| self.said_lately(it, now));
        let order = |stamp: Stamp| (stamp.boot, stamp.sequence);
        let knows = self.heard.is_some_and(|heard| heard.boot == beat.stamp.boot);
        if self.heard.is_some_and(|heard| order(heard) >= order(beat.stamp))
            || !(knows || repeats(beat.heard) || repeats(beat.echo))
        {
            return;
        }
        let was_there = knows && self.silence(now) <= self.slower * GONE;
        self.answered = was_there && self.answered || repeats(beat.heard);
        self.slower = self.own.max(beat.interval);
        (self.heard, self.at) = (Some(beat.stamp), now);
    }

    /// It sent a frame: who slept for long goes on as another run.
    pub(super) fn say(&mut self, stamp: Stamp, now: Duration) {
        if stamp.boot != self.said.boot {
            *self = Self::new(stamp.boot, self.own, now);
        }
        self.said = stamp;
        self.sent.push((stamp.sequence, now));
    }

    fn said_lately(&self, stamp: Stamp, now: Duration) -> bool {
        let is_it = |(number, at): &(u64, Duration)| {
            *number == stamp.sequence && now - *at <= self.slower * STRANGER
        };
        stamp.boot == self.said.boot && self.sent.iter().rev().any(is_it)
    }

    /// How long it heard nothing.
    pub(super) fn silence(&self, now: Duration) -> Duration {
        now - self.at
    }

    /// Whether it heard nothing for so long that it may take over.
    pub(super) fn may_take_over(&self, now: Duration) -> bool {
        let wait = if self.heard.is_some() { TAKEOVER } else { STRANGER };
        self.silence(now) >= self.slower * wait
    }

    /// Takes note of the silence, once it has heard what came.
    pub(super) fn listen(&mut self, now: Duration) {
        let silence = self.silence(now);
        let is_silent = silence * 4 > self.slower * SILENT_QUARTERS;
        if is_silent || self.heard.is_none() {
            self.hears = now;
        }
        let lease = if self.heard.is_none() || silence > self.slower * GONE {
            self.slower * LONE_LEASE
        } else if is_silent || !self.answered {
            self.slower * TAKEOVER
        } else {
            return;
        };
        let end = now + lease - self.slower * MARGIN_QUARTERS / 4;
        self.alone = self.alone.max(end);
    }
}

//! Which of two nodes serves a group of addresses.
//!
//! Both send heartbeats, and repeat in them the latest that they heard, and for
//! how long after it came they do not take over: a lease, granted to its sender.
//! The data plane of who serves knows when it ends, *counted from when that frame
//! was sent*, and stops by itself, whatever becomes of the agent. So neither a
//! frozen node, nor one that the peer does not hear, serves beside its successor,
//! whatever their clocks and settings say. VRRP adds a skew by priority
//! (RFC 9568, section 6.1), since several routers may stand by: here it is one.
//!
//! Without a witness, who hears nothing at all from its peer, and has no sign that
//! the peer does not hear it, takes it for dead and goes on alone. If both do,
//! because every path is cut in both directions, both serve until they hear each
//! other: two nodes cannot tell that from the death of the other. Then the higher
//! term wins, and the loser stops first. With a witness that never happens, see
//! `vote.rs`.

pub mod announce;
mod beat;
mod cause;
mod peer;
mod roles;
mod settings;
#[cfg(test)]
mod simulation;
mod talk;
#[cfg(test)]
mod tests;
mod vote;
mod witness;

use std::{collections::VecDeque, time::Duration};

use self::vote::Voter;
pub use self::{
    beat::{Beat, GroupBeat, Stamp, Stance},
    cause::Cause,
    peer::Peer,
    settings::{GroupSettings, Settings},
    talk::Refusal,
    vote::{Answer, Question},
    witness::Witness,
};

/// Heartbeats without one after which a standby takes over, where the peer is
/// near.
const TAKEOVER: u32 = 3;
/// Heartbeats that distance adds to that at most.
const FAR: u32 = 18;
/// Quarters of a heartbeat that a lease ends before the peer takes over.
const MARGIN_QUARTERS: u32 = 1;
/// Quarters of heartbeats after which a peer that heard us so far is taken for
/// dead by who serves: more than its frames are late, and soon enough that its
/// death costs no lease.
const SILENT_QUARTERS: u32 = 6;
/// Quarters of heartbeats that the peer's word lasts still when the witness is
/// asked.
const ASK_QUARTERS: u32 = 6;
/// Heartbeats after which a peer is no longer expected: who serves then has
/// longer leases, and who starts waits for longer than these.
const GONE: u32 = 10;
/// Heartbeats that a lease lasts when the peer is gone.
const LONE_LEASE: u32 = 8;
/// Heartbeats that a node waits before it takes over from a peer that does not
/// know it.
const STRANGER: u32 = 24;

/// Heartbeats after which a group that was given up is served again here, if the
/// peer did not take it.
pub const GIVEN_BACK: u32 = STRANGER + 2;

/// A node of the pair: its view of the peer, and its groups.
#[derive(Clone, Debug)]
pub struct Pair {
    settings: Settings,
    boot: u64,
    /// Of the latest frame.
    sequence: u64,
    /// Latest frames, and when they were sent.
    sent: VecDeque<(u64, Duration)>,
    /// When the last round of heartbeats was sent.
    beaten: Option<Duration>,
    /// When something was done last, and since when without a long sleep: who
    /// sleeps hears nobody.
    seen: Duration,
    awake: Duration,
    peer: Option<Peer>,
    /// Since when frames of unknown runs are counted, and how many came.
    echoes: (Duration, u32),
    /// When a node was there that may serve, and that this one does not understand.
    stranger: Duration,
    /// Runs of the peer that are over.
    over: VecDeque<u64>,
    groups: Vec<Group>,
    voter: Voter,
    /// Something changed that the peer should know at once.
    news: bool,
    /// It gives up all groups for good.
    leaving: bool,
    /// Telling the peer the latest flows of groups that it is to have.
    flush: Errand,
    /// Making sure that a silent peer does not serve.
    fence: Errand,
    /// It knows the flows of the peer's groups: it may claim them.
    informed: bool,
}

/// What the driver has to do before a role may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// Nothing is to be done.
    Idle,
    /// It is to be done.
    Wanted,
    /// It was done at this moment.
    Done(Duration),
}

/// A group.
#[derive(Clone, Copy, Debug)]
struct Group {
    settings: GroupSettings,
    /// Whether it could be served, see [`GroupBeat::fit`].
    fit: bool,
    /// That in which it serves, else the highest known.
    term: u64,
    /// While it serves: until when it may.
    lease: Option<Duration>,
    /// Left to the peer, since when.
    resigned: Option<Duration>,
    /// That was an order: it is not claimed back while the peer serves it.
    yielded: bool,
    /// See [`View::since`].
    since: Duration,
    /// The peer serves it as well, and is the one to stop, since when.
    contested: Option<Duration>,
    /// See [`View::cause`].
    cause: Option<Cause>,
    /// Since when the same is said of it; that this node serves after the peer
    /// agreed to that is not news.
    told: Duration,
    /// Until when it has the witness's vote, if it ever had, and whether that is
    /// asked for.
    vote: Option<Duration>,
    asks: bool,
}

/// What a group is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its term.
    pub term: u64,
    /// Until when this node serves it; `None`: it does not.
    pub lease: Option<Duration>,
    /// When that began, or a conflict about it ended: its addresses are to be
    /// announced then.
    pub since: Duration,
    /// Why it began to serve, or stopped, last; `None`: it never served.
    pub cause: Option<Cause>,
}

impl Pair {
    /// A node that starts, in a run whose number is `boot`; no term up to
    /// `term` is used again.
    #[must_use]
    pub fn new(settings: Settings, boot: u64, term: u64, now: Duration) -> Self {
        let group = |settings: &GroupSettings| Group {
            settings: *settings,
            fit: true,
            term,
            lease: None,
            resigned: None,
            yielded: false,
            since: now,
            contested: None,
            cause: None,
            told: now,
            vote: None,
            asks: false,
        };
        let groups = settings.groups.iter().map(group).collect();
        Self {
            settings,
            boot,
            sequence: 0,
            sent: VecDeque::new(),
            beaten: None,
            seen: now,
            awake: now,
            peer: None,
            echoes: (now, 0),
            stranger: now,
            over: VecDeque::new(),
            groups,
            voter: Voter::default(),
            news: false,
            leaving: false,
            flush: Errand::Idle,
            fence: Errand::Idle,
            informed: false,
        }
    }

    /// Tells it whether this node knows all flows of the groups that the peer
    /// serves: before it does, it claims none.
    pub fn inform(&mut self, informed: bool) {
        self.informed = informed;
    }

    /// Whether the peer claims a group, or is the abler to serve one, and is to be
    /// told the latest flows, see [`Self::flushed`].
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.flush == Errand::Wanted
    }

    /// The peer has been told, or does not listen: it is left what it claims.
    pub fn flushed(&mut self, now: Duration) {
        self.flush = Errand::Done(now);
    }

    /// Whether this node takes over once it is sure that the peer does not serve,
    /// see [`Self::fenced`].
    #[must_use]
    pub fn wants_fence(&self) -> bool {
        self.fence == Errand::Wanted
    }

    /// The peer does not serve: no power, or no network. Without effect if it was
    /// heard meanwhile.
    pub fn fenced(&mut self, now: Duration) {
        if self.wants_fence() {
            self.fence = Errand::Done(now);
        }
    }

    /// The groups, in the order of the settings.
    pub fn groups(&self) -> impl Iterator<Item = View> + '_ {
        let view = |group: &Group| {
            let Group { term, lease, since, cause, .. } = *group;
            View { term, lease, since, cause }
        };
        self.groups.iter().map(view)
    }

    /// Highest term of any group.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.groups.iter().map(|group| group.term).max().unwrap_or(0)
    }

    /// The peer, once it has proven itself, until it is gone.
    #[must_use]
    pub fn peer(&self, now: Duration) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| self.silence(peer, now) <= self.beats(GONE))
    }

    /// Whether the peer is there.
    #[must_use]
    pub fn hears_peer(&self, now: Duration) -> bool {
        self.heard(now).is_some()
    }

    /// The peer, while it is heard.
    fn heard(&self, now: Duration) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| !self.is_silent(peer, now))
    }

    /// What the peer says of a group, by position, unless it is gone.
    #[must_use]
    pub fn said_of(&self, index: usize, now: Duration) -> Option<&GroupBeat> {
        self.peer(now)?.group(self.groups[index].settings.id)
    }

    /// Whether the peer's configuration of a group is another; `false` while the peer is
    /// not there.
    #[must_use]
    pub fn differs(&self, index: usize, now: Duration) -> bool {
        let ours = self.groups[index].settings.digest;
        self.said_of(index, now).is_some_and(|theirs| theirs.digest != ours)
    }

    /// Whether the peer has no such group; `false` while the peer is not there.
    #[must_use]
    pub fn is_lacked(&self, index: usize, now: Duration) -> bool {
        self.peer(now).is_some() && self.said_of(index, now).is_none()
    }

    /// Tells it whether a group could be served here: if not, it is left to a
    /// peer that is able to.
    pub fn set_fit(&mut self, index: usize, fit: bool, now: Duration) {
        let group = &mut self.groups[index];
        if group.fit != fit && group.lease.is_none() {
            group.told = now;
        }
        group.fit = fit;
    }

    /// Whether frames go to the peer and back for so long that no lease can last:
    /// neither node begins to serve.
    #[must_use]
    pub fn is_too_far(&self, now: Duration) -> bool {
        self.peer(now).is_some_and(|peer| peer.round_trip() > self.beats(FAR))
    }

    /// When [`Self::tick`] is to be called next.
    #[must_use]
    pub fn next_wake(&self, now: Duration) -> Duration {
        if self.is_due(now) {
            return now;
        }
        let beat = self.beaten.map(|last| last + self.settings.heartbeat);
        let ends = self.groups.iter().filter_map(|group| group.lease);
        let asks = (0..self.groups.len()).map(|index| self.asks_at(index));
        let asks = asks.filter(|_| self.settings.witness);
        let after =
            ends.chain(beat).chain(asks).chain([self.takes_over_at()]).filter(|at| *at > now);
        after.min().unwrap_or(now + self.settings.heartbeat)
    }

    /// A node of the pair is there that this one does not understand, and may
    /// serve: as long as this one does not know its peer, it does not begin to.
    pub fn make_way(&mut self, now: Duration) {
        self.stranger = now;
    }

    /// Does what time brings.
    pub fn tick(&mut self, now: Duration) {
        self.notice_sleep(now);
        self.weigh(now);
    }

    /// Whether the peer is there to take a group, and would.
    #[must_use]
    pub fn can_resign(&self, index: usize, now: Duration) -> bool {
        let theirs = self.said_of(index, now).filter(|_| self.hears_peer(now));
        theirs.is_some_and(|theirs| theirs.fit || !self.groups[index].fit)
    }

    /// Gives a group up, by order, if [`Self::can_resign`].
    pub fn resign(&mut self, index: usize, now: Duration) {
        if self.can_resign(index, now) && self.groups[index].lease.is_some() {
            self.leave_to_peer(index, Cause::Ordered, now);
            self.groups[index].yielded = true;
        }
    }

    fn leave_to_peer(&mut self, index: usize, cause: Cause, now: Duration) {
        self.stop(index, cause, now);
        self.groups[index].resigned = Some(now);
    }

    /// Gives up everything, for good.
    pub fn leave(&mut self, now: Duration) {
        self.leaving = true;
        self.leave_all(Cause::Leaving, now);
        self.news = true;
    }

    /// So many heartbeats of the slower node.
    fn beats(&self, number: u32) -> Duration {
        let own = self.settings.heartbeat;
        self.peer.as_ref().map_or(own, |peer| own.max(peer.interval)) * number
    }

    /// A node that slept did not hear what was said, and knows nothing of how
    /// long the peer waits for it. If its leases ended meanwhile, it begins anew,
    /// as if it had been started: what it heard before is nothing to answer for.
    fn notice_sleep(&mut self, now: Duration) {
        let slept = now.saturating_sub(self.seen);
        self.seen = now;
        if slept <= self.beats(2) {
            return;
        }
        self.awake = now;
        let serves = self.groups.iter().any(|group| group.lease.is_some_and(|end| end > now));
        if slept <= self.wait() || serves {
            if let Some(peer) = &mut self.peer {
                peer.knows_us = false;
            }
            return;
        }
        self.boot = self.boot.wrapping_add(1);
        self.sequence = 0;
        self.sent.clear();
        self.forget_questions();
        self.peer = None;
        for index in 0..self.groups.len() {
            self.stop(index, Cause::Slept, now);
        }
    }

    /// How long nothing was heard.
    fn silence(&self, peer: &Peer, now: Duration) -> Duration {
        now.saturating_sub(peer.heard.max(self.awake))
    }

    fn is_silent(&self, peer: &Peer, now: Duration) -> bool {
        self.silence(peer, now) * 4 > self.beats(SILENT_QUARTERS)
    }

    /// Whether an errand was done, so lately that what follows may happen; if not,
    /// it is wanted.
    fn is_done(errand: &mut Errand, lately: Duration, now: Duration) -> bool {
        let done = matches!(errand, Errand::Done(at) if now <= *at + lately);
        if !done {
            *errand = Errand::Wanted;
        }
        done
    }

    fn stop(&mut self, index: usize, cause: Cause, now: Duration) {
        let group = &mut self.groups[index];
        if group.lease.take().is_some() {
            (group.contested, group.told, group.cause) = (None, now, Some(cause));
            self.news = true;
        }
    }

    /// Gives up everything for now, whether the peer is there to take it or not.
    /// To be called instead of [`Self::tick`] while this node cannot serve.
    pub fn stop_all(&mut self, now: Duration) {
        self.notice_sleep(now);
        self.leave_all(Cause::NoClock, now);
    }

    fn leave_all(&mut self, cause: Cause, now: Duration) {
        for index in 0..self.groups.len() {
            self.leave_to_peer(index, cause, now);
            self.groups[index].asks = false;
        }
    }
}

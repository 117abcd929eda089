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
//! Who hears nothing at all from its peer, and has no sign that the peer does
//! not hear it, takes it for dead and goes on alone. If both do, because every
//! path is cut in both directions, both serve until they hear each other: two
//! nodes cannot tell that from the death of the other. Then the higher term
//! wins, and the loser stops first.

pub mod announce;
mod beat;
mod cause;
mod peer;
mod roles;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use self::peer::Admission;
pub use self::{
    beat::{Beat, GroupBeat, Stamp, Stance},
    cause::Cause,
    peer::Peer,
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
/// Heartbeats after which a peer is no longer expected: who serves then has
/// longer leases, and who starts waits for longer than these.
const GONE: u32 = 10;
/// Heartbeats that a lease lasts when the peer is gone.
const LONE_LEASE: u32 = 8;
/// Heartbeats that a node waits before it takes over from a peer that does not
/// know it.
const STRANGER: u32 = 24;
/// Runs of the peer that are remembered to be over.
const OVER: usize = 4;
/// Frames of unknown runs that are answered in the time of a heartbeat: a flood
/// of old frames shall not keep a new run waiting, nor this node busy.
const ECHOES: u32 = 64;
/// Frames whose moment is remembered.
const SENT: usize = 1024;

/// What a pair does by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// See [`crate::core::model::ha::Ha::priority`].
    pub priority: u8,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Whether to claim a group from a peer of lower rank, once the flows are
    /// known, see [`Pair::inform`].
    pub preempt: bool,
    /// The groups.
    pub groups: Vec<GroupSettings>,
}

/// What a pair does by about a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupSettings {
    /// See [`GroupBeat::id`].
    pub id: u64,
    /// See [`GroupBeat::digest`].
    pub digest: u64,
    /// Whether this node is to serve it.
    pub preferred: bool,
}

/// Why a frame has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A frame that was there before.
    Replayed,
    /// The first frame of a run, which may be replayed: to be answered with a
    /// frame that echoes it, unless there were too many of late.
    Unproven(Option<Stamp>),
    /// Our own frame.
    Reflected,
}

impl Refusal {
    /// It in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Unproven(_) => "unproven",
            Self::Reflected => "reflected",
        }
    }
}

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
    /// Something changed that the peer should know at once.
    news: bool,
    /// It gives up all groups for good.
    leaving: bool,
    /// It knows the flows of the peer's groups: it may claim them.
    informed: bool,
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
            news: false,
            leaving: false,
            informed: false,
        }
    }

    /// Tells it whether this node knows all flows of the groups that the peer
    /// serves: before it does, it claims none.
    pub fn inform(&mut self, informed: bool) {
        self.informed = informed;
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

    /// Whether the peer's configuration of a group is another, or it has no such
    /// group; `false` while the peer is not there.
    #[must_use]
    pub fn differs(&self, index: usize, now: Duration) -> bool {
        let ours = self.groups[index].settings.digest;
        let there = self.peer(now).is_some();
        there && self.said_of(index, now).is_none_or(|theirs| theirs.digest != ours)
    }

    /// Tells it whether a group could be served here: if not, it is left to a
    /// peer that is able to.
    pub fn set_fit(&mut self, index: usize, fit: bool) {
        self.groups[index].fit = fit;
    }

    /// Whether frames are due: a heartbeat has passed, or there is news.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.news || self.beaten.is_none_or(|last| now >= last + self.settings.heartbeat)
    }

    /// When [`Self::tick`] is to be called next.
    #[must_use]
    pub fn next_wake(&self, now: Duration) -> Duration {
        if self.is_due(now) {
            return now;
        }
        let beat = self.beaten.map(|last| last + self.settings.heartbeat);
        let ends = self.groups.iter().filter_map(|group| group.lease);
        let after = ends.chain(beat).chain([self.takes_over_at()]).filter(|at| *at > now);
        after.min().unwrap_or(now + self.settings.heartbeat)
    }

    /// Begins a round of frames, one by each path, see [`Self::beat`].
    pub fn begin_round(&mut self, now: Duration) {
        self.beaten = Some(now);
        self.news = false;
    }

    /// The frame to send by the next path, or as an answer to one that came by
    /// it, which it echoes if that was [`Refusal::Unproven`]: each has a number
    /// of its own.
    pub fn beat(&mut self, answer: bool, echo: Option<Stamp>, now: Duration) -> Beat {
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        if self.sent.len() > SENT {
            self.sent.pop_front();
        }
        let grant = self.wait();
        let heard = self.peer(now).map(|peer| (peer.latest(), peer.heard));
        if let (Some(peer), Some((_, at))) = (&mut self.peer, heard) {
            peer.promised = peer.promised.max(at + grant);
        }
        let group = |index| {
            let Group { settings, term, fit, .. } = self.groups[index];
            let GroupSettings { id, digest, preferred } = settings;
            GroupBeat { id, digest, term, stance: self.stance(index), preferred, fit }
        };
        Beat {
            node: self.settings.node.clone(),
            stamp: Stamp { boot: self.boot, sequence: self.sequence },
            answer,
            interval: self.settings.heartbeat,
            heard: heard.map(|(stamp, _)| stamp),
            grant,
            echo,
            priority: self.settings.priority,
            groups: (0..self.groups.len()).map(group).collect(),
        }
    }

    /// Takes in an authenticated frame: whether it is to be answered at once, by
    /// the path that it came by, so that its sender knows that it is heard.
    ///
    /// # Errors
    /// It has no effect.
    pub fn receive(&mut self, beat: &Beat, now: Duration) -> Result<bool, Refusal> {
        let run = beat.stamp.boot;
        if run == self.boot {
            return Err(Refusal::Reflected);
        }
        self.notice_sleep(now);
        let acknowledged = beat.heard.and_then(|stamp| self.sent_at(stamp));
        let proof = acknowledged.max(beat.echo.and_then(|stamp| self.sent_at(stamp)));
        if self.peer.as_ref().is_none_or(|peer| peer.boot() != run) {
            if self.over.contains(&run) {
                return Err(Refusal::Replayed);
            }
            let lately = |sent| now.saturating_sub(sent) <= self.beats(STRANGER);
            if !proof.is_some_and(lately) {
                return Err(Refusal::Unproven(self.may_echo(now).then_some(beat.stamp)));
            }
            if let Some(before) = self.peer.replace(Peer::new(beat, now)) {
                push(&mut self.over, before.boot());
            }
        }
        let gone = self.peer(now).is_none();
        let Some(peer) = &mut self.peer else { return Err(Refusal::Unproven(None)) };
        match peer.window.admit(beat.stamp.sequence) {
            Admission::Replayed => return Err(Refusal::Replayed),
            // What it says has been overtaken.
            Admission::Late => return Ok(false),
            Admission::Latest if gone => peer.forget(),
            Admission::Latest => {}
        }
        peer.learn(beat, acknowledged, now);
        self.weigh(now);
        self.learn_terms();
        Ok(!beat.answer)
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
        self.stop(index, cause);
        self.groups[index].resigned = Some(now);
    }

    /// Gives up everything, for good.
    pub fn leave(&mut self, now: Duration) {
        self.leaving = true;
        self.leave_all(Cause::Leaving, now);
        self.news = true;
    }

    /// Who serves keeps the term in which it does.
    fn learn_terms(&mut self) {
        let Some(peer) = &self.peer else { return };
        for group in self.groups.iter_mut().filter(|group| group.lease.is_none()) {
            let theirs = peer.group(group.settings.id).map_or(0, |theirs| theirs.term);
            group.term = group.term.max(theirs);
        }
    }

    /// So many heartbeats of the slower node.
    fn beats(&self, number: u32) -> Duration {
        let own = self.settings.heartbeat;
        self.peer.as_ref().map_or(own, |peer| own.max(peer.interval)) * number
    }

    /// When a frame was sent, if it is one of ours.
    fn sent_at(&self, stamp: Stamp) -> Option<Duration> {
        let number = (stamp.boot == self.boot).then_some(stamp.sequence)?;
        let at = self.sent.binary_search_by_key(&number, |(sequence, _)| *sequence).ok()?;
        Some(self.sent[at].1)
    }

    /// Whether a frame of an unknown run may be answered.
    fn may_echo(&mut self, now: Duration) -> bool {
        let (since, number) = &mut self.echoes;
        if now.saturating_sub(*since) >= self.settings.heartbeat {
            (*since, *number) = (now, 0);
        }
        *number += 1;
        *number <= ECHOES
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
        self.peer = None;
        for index in 0..self.groups.len() {
            self.stop(index, Cause::Slept);
        }
    }

    /// How long nothing was heard.
    fn silence(&self, peer: &Peer, now: Duration) -> Duration {
        now.saturating_sub(peer.heard.max(self.awake))
    }

    fn is_silent(&self, peer: &Peer, now: Duration) -> bool {
        self.silence(peer, now) * 4 > self.beats(SILENT_QUARTERS)
    }

    fn stop(&mut self, index: usize, cause: Cause) {
        let group = &mut self.groups[index];
        if group.lease.take().is_some() {
            (group.contested, group.cause) = (None, Some(cause));
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
        (0..self.groups.len()).for_each(|index| self.leave_to_peer(index, cause, now));
    }
}

/// Adds to a short list; the oldest makes room.
fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == OVER {
        list.pop_front();
    }
    list.push_back(item);
}

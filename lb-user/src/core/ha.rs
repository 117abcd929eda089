//! Which of two nodes serves a group of addresses.
//!
//! Both send heartbeats, and repeat in them the latest that they heard. Who
//! serves has a lease, which the data plane knows: without a new one it stops
//! by itself, whatever becomes of the agent. While the peer is there, the lease
//! ends eleven quarters of a heartbeat after *we sent* the latest frame that
//! the peer has repeated; the peer takes over three heartbeats after *it
//! received* our latest. So neither a frozen node, nor one that the peer does
//! not hear, serves beside its successor, whatever their clocks say. VRRP adds a
//! skew by priority (RFC 9568, section 6.1), since several routers may stand by:
//! here it is one.
//!
//! Who hears nothing at all from its peer, and has no sign that the peer does
//! not hear it, takes it for dead and goes on alone. If both do, because every
//! path is cut in both directions, both serve until they hear each other: two
//! nodes cannot tell that from the death of the other. Then the higher term
//! wins, and the loser stops first.

pub mod announce;
mod beat;
mod peer;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use self::peer::Admission;
pub use self::{
    beat::{Beat, GroupBeat, Stamp, Stance},
    peer::Peer,
};

/// Quarters of heartbeats that a lease lasts.
const LEASE_QUARTERS: u32 = 11;
/// Heartbeats without one after which a standby takes over.
const TAKEOVER: u32 = 3;
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
/// Runs of the peer that may be about to prove themselves at the same time.
pub const CANDIDATES: usize = 4;
/// Frames whose moment is remembered.
const SENT: usize = 256;

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
    /// The groups: their ids, and whether each prefers this node.
    pub groups: Vec<(u64, bool)>,
}

/// Why a frame has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A frame that was there before.
    #[error("replayed")]
    Replayed,
    /// The first frames of a run, which may be replayed.
    #[error("not proven yet")]
    Unproven,
    /// Both nodes have one name.
    #[error("the peer has this node's name")]
    Namesake,
}

impl Refusal {
    /// It in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Unproven => "unproven",
            Self::Namesake => "namesake",
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
    /// Latest frames of runs that are not proven.
    candidates: VecDeque<Stamp>,
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
    id: u64,
    preferred: bool,
    /// That in which it serves, else the highest known.
    term: u64,
    /// While it serves: until when it may.
    lease: Option<Duration>,
    /// Left to the peer, since when.
    resigned: Option<Duration>,
    /// See [`View::since`].
    since: Duration,
    /// The peer serves it as well, and is the one to stop.
    contested: bool,
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
}

impl Pair {
    /// A node that starts, in a run whose number is `boot`; no term up to
    /// `term` is used again.
    #[must_use]
    pub fn new(settings: Settings, boot: u64, term: u64, now: Duration) -> Self {
        let group = |&(id, preferred): &(u64, bool)| Group {
            id,
            preferred,
            term,
            lease: None,
            resigned: None,
            since: now,
            contested: false,
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
            candidates: VecDeque::new(),
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
        let view =
            |group: &Group| View { term: group.term, lease: group.lease, since: group.since };
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
        self.peer.as_ref().is_some_and(|peer| !self.is_silent(peer, now))
    }

    /// What the peer says of a group, by position, unless it is gone.
    #[must_use]
    pub fn said_of(&self, index: usize, now: Duration) -> Option<&GroupBeat> {
        self.peer(now)?.group(self.groups[index].id)
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
    /// it: each has a number of its own.
    pub fn beat(&mut self, answer: bool, now: Duration) -> Beat {
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        if self.sent.len() > SENT {
            self.sent.pop_front();
        }
        let there = self.peer(now);
        let group = |index| {
            let Group { id, term, preferred, .. } = self.groups[index];
            GroupBeat { id, term, stance: self.stance(index), preferred }
        };
        Beat {
            node: self.settings.node.clone(),
            stamp: Stamp { boot: self.boot, sequence: self.sequence },
            answer,
            heard: there.map(Peer::latest),
            candidates: self.candidates.iter().copied().collect(),
            priority: self.settings.priority,
            groups: (0..self.groups.len()).map(group).collect(),
        }
    }

    /// Takes in an authenticated frame: whether it is to be answered at once,
    /// by the path that it came by, so that who serves knows that it is heard.
    ///
    /// # Errors
    /// It has no effect.
    pub fn receive(&mut self, beat: &Beat, now: Duration) -> Result<bool, Refusal> {
        if beat.node == self.settings.node {
            return Err(Refusal::Namesake);
        }
        self.notice_sleep(now);
        let acknowledged = self.sent_at(beat.heard.as_slice());
        let proof = acknowledged.max(self.sent_at(&beat.candidates));
        let run = beat.stamp.boot;
        if self.peer.as_ref().is_none_or(|peer| peer.boot() != run) {
            if self.over.contains(&run) {
                return Err(Refusal::Replayed);
            }
            let lately = |sent| now.saturating_sub(sent) <= self.beats(GONE);
            if !proof.is_some_and(lately) {
                self.remember_candidate(beat.stamp);
                return Err(Refusal::Unproven);
            }
            self.candidates.retain(|stamp| stamp.boot != run);
            if let Some(before) = self.peer.replace(Peer::new(beat, now)) {
                push(&mut self.over, before.boot());
            }
        }
        let Some(peer) = &mut self.peer else { return Err(Refusal::Unproven) };
        match peer.window.admit(beat.stamp.sequence) {
            Admission::Replayed => return Err(Refusal::Replayed),
            // What it says has been overtaken.
            Admission::Late => return Ok(false),
            Admission::Latest => peer.learn(beat, acknowledged, now),
        }
        self.weigh(now);
        self.learn_terms();
        let serves = |group: &GroupBeat| group.stance == Stance::Active;
        Ok(!beat.answer && beat.groups.iter().any(serves))
    }

    /// Does what time brings.
    pub fn tick(&mut self, now: Duration) {
        self.notice_sleep(now);
        self.weigh(now);
    }

    /// Gives a group up, if the peer is there to take it: whether it is.
    pub fn resign(&mut self, index: usize, now: Duration) -> bool {
        let there = self.hears_peer(now);
        if there && self.groups[index].lease.is_some() {
            self.stop(index);
            self.groups[index].resigned = Some(now);
        }
        there
    }

    /// Gives up everything, for good.
    pub fn leave(&mut self, now: Duration) {
        self.leaving = true;
        for index in 0..self.groups.len() {
            self.stop(index);
            self.groups[index].resigned = Some(now);
        }
        self.news = true;
    }

    /// Who serves keeps the term in which it does.
    fn learn_terms(&mut self) {
        let Some(peer) = &self.peer else { return };
        for group in self.groups.iter_mut().filter(|group| group.lease.is_none()) {
            let theirs = peer.group(group.id).map_or(0, |theirs| theirs.term);
            group.term = group.term.max(theirs);
        }
    }

    fn beats(&self, number: u32) -> Duration {
        self.settings.heartbeat * number
    }

    /// When a frame was sent, if one of these is ours.
    fn sent_at(&self, stamps: &[Stamp]) -> Option<Duration> {
        let ours = stamps.iter().find(|stamp| stamp.boot == self.boot)?;
        let at = self.sent.binary_search_by_key(&ours.sequence, |(sequence, _)| *sequence).ok()?;
        Some(self.sent[at].1)
    }

    fn remember_candidate(&mut self, stamp: Stamp) {
        match self.candidates.iter_mut().find(|known| known.boot == stamp.boot) {
            Some(known) => known.sequence = known.sequence.max(stamp.sequence),
            None => push(&mut self.candidates, stamp),
        }
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
        if slept * 4 <= self.beats(LEASE_QUARTERS) || serves {
            if let Some(peer) = &mut self.peer {
                peer.knows_us = false;
            }
            return;
        }
        self.boot = self.boot.wrapping_add(1);
        self.sequence = 0;
        self.sent.clear();
        self.peer = None;
        self.candidates.clear();
        for index in 0..self.groups.len() {
            self.stop(index);
        }
    }

    /// How long nothing was heard.
    fn silence(&self, peer: &Peer, now: Duration) -> Duration {
        now.saturating_sub(peer.heard.max(self.awake))
    }

    fn is_silent(&self, peer: &Peer, now: Duration) -> bool {
        self.silence(peer, now) * 4 > self.beats(SILENT_QUARTERS)
    }

    /// Whether the peer has just heard us.
    fn is_fresh(&self, peer: &Peer, now: Duration) -> bool {
        let age = peer.acknowledged.map(|sent| now.saturating_sub(sent));
        age.is_some_and(|age| age * 4 <= self.beats(SILENT_QUARTERS))
    }

    /// When silence has lasted long enough to take over.
    fn takes_over_at(&self) -> Duration {
        match &self.peer {
            Some(peer) if peer.knows_us => peer.heard.max(self.awake) + self.beats(TAKEOVER),
            Some(peer) => peer.heard.max(self.awake) + self.beats(STRANGER),
            None => self.awake + self.beats(STRANGER),
        }
    }

    /// Until when this node may serve, from what it knows now.
    fn lease(&self, now: Duration) -> Duration {
        let length = self.lease_length();
        match &self.peer {
            Some(peer) if self.silence(peer, now) <= self.beats(GONE) => {
                let said = !self.is_silent(peer, now) || peer.is_deaf(self.beats(2));
                // A run that has not heard us yet waits for longer than that.
                peer.acknowledged.filter(|_| said).unwrap_or(now) + length
            }
            _ => now + self.beats(LONE_LEASE),
        }
    }

    fn lease_length(&self) -> Duration {
        self.beats(LEASE_QUARTERS) / 4
    }

    fn stance(&self, index: usize) -> Stance {
        let group = &self.groups[index];
        let outranks = || self.peer.as_ref().is_some_and(|peer| self.outranks(group, peer));
        match (group.lease, group.resigned) {
            (Some(_), _) => Stance::Active,
            (None, Some(_)) => Stance::Resigned,
            (None, None) if self.settings.preempt && self.informed && outranks() => {
                Stance::Claiming
            }
            (None, None) => Stance::Standby,
        }
    }

    /// Whether a group would rather be ours than the peer's.
    fn outranks(&self, group: &Group, peer: &Peer) -> bool {
        let theirs = peer.group(group.id).is_some_and(|theirs| theirs.preferred);
        let ours = (group.preferred, self.settings.priority, &self.settings.node);
        ours > (theirs, peer.priority, &peer.node)
    }

    /// Decides about all groups.
    fn weigh(&mut self, now: Duration) {
        for index in 0..self.groups.len() {
            if self.groups[index].lease.is_some() {
                self.weigh_active(index, now);
            } else if !self.leaving {
                self.weigh_standby(index, now);
            }
        }
    }

    fn weigh_active(&mut self, index: usize, now: Duration) {
        let group = self.groups[index];
        let said = self.peer.as_ref().filter(|peer| !self.is_silent(peer, now));
        let theirs = said.and_then(|peer| Some((peer, peer.group(group.id)?)));
        let lease = self.lease(now);
        let lapsed = group.lease.is_some_and(|end| end <= now);
        match theirs {
            _ if lapsed => self.stop(index),
            Some((peer, theirs)) if theirs.stance == Stance::Active => {
                if (theirs.term, true) > (group.term, self.outranks(&group, peer)) {
                    self.stop(index);
                } else {
                    // The peer is the one to stop, and does not wait for us.
                    self.groups[index].contested = true;
                    self.groups[index].lease = lease.max(now + self.lease_length()).into();
                }
                return;
            }
            _ if lease <= now => self.stop(index),
            Some((peer, theirs))
                if theirs.stance == Stance::Claiming && !self.outranks(&group, peer) =>
            {
                self.resign(index, now);
            }
            Some(_) if group.contested => {
                self.groups[index].contested = false;
                self.groups[index].since = now;
            }
            _ => {}
        }
        if self.groups[index].lease.is_some() {
            self.groups[index].lease = Some(lease);
        }
    }

    fn weigh_standby(&mut self, index: usize, now: Duration) {
        let group = self.groups[index];
        if group.resigned.is_some_and(|since| now >= since + self.beats(STRANGER)) {
            // The peer had its chance.
            self.groups[index].resigned = None;
        }
        let said = self.peer.as_ref().filter(|peer| !self.is_silent(peer, now));
        let is_ours = match said {
            _ if now >= self.takes_over_at() => true,
            None => false,
            // An answer to what was sent just now: the peer will not take over
            // by itself as long as our lease is going to last.
            Some(peer) if !peer.knows_us || !self.is_fresh(peer, now) => false,
            Some(peer) => match peer.group(group.id).map(|theirs| theirs.stance) {
                Some(Stance::Active) => {
                    self.groups[index].resigned = None;
                    false
                }
                Some(Stance::Resigned) | None => group.resigned.is_none(),
                Some(Stance::Standby | Stance::Claiming) => {
                    group.resigned.is_none() && self.outranks(&group, peer)
                }
            },
        };
        if is_ours && self.lease(now) > now {
            self.learn_terms();
            let lease = self.lease(now);
            let group = &mut self.groups[index];
            group.term = group.term.saturating_add(1);
            group.lease = Some(lease);
            group.resigned = None;
            group.since = now;
            self.news = true;
        }
    }

    fn stop(&mut self, index: usize) {
        let group = &mut self.groups[index];
        if group.lease.take().is_some() {
            group.contested = false;
            self.news = true;
        }
    }

    /// Gives up everything for now, whether the peer is there to take it or not.
    /// To be called instead of [`Self::tick`] while this node cannot serve.
    pub fn stop_all(&mut self, now: Duration) {
        self.notice_sleep(now);
        for index in 0..self.groups.len() {
            self.stop(index);
            self.groups[index].resigned = Some(now);
        }
    }
}

/// Adds to a short list; the oldest makes room.
fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == CANDIDATES {
        list.pop_front();
    }
    list.push_back(item);
}

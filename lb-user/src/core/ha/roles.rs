//! Who serves a group, from what is known now.

use std::time::Duration;

use super::{
    Cause, FAR, Group, LONE_LEASE, MARGIN_QUARTERS, Pair, Peer, STRANGER, Settings, Stance,
    TAKEOVER,
};

impl Pair {
    /// How long this node waits after a frame before it takes over: longer where
    /// the peer is far, since its lease is counted from when it sent that.
    pub(super) fn wait(&self) -> Duration {
        let far = self.peer.as_ref().map_or(Duration::ZERO, Peer::round_trip);
        self.beats(TAKEOVER) + far.saturating_sub(self.beats(1) / 2).min(self.beats(FAR))
    }

    /// When silence has lasted long enough to take over.
    pub(super) fn takes_over_at(&self) -> Duration {
        match &self.peer {
            Some(peer) if peer.knows_us => {
                peer.promised.max(peer.heard.max(self.awake) + self.wait())
            }
            Some(peer) => peer.heard.max(self.awake) + self.beats(STRANGER),
            None => self.awake.max(self.stranger) + self.beats(STRANGER),
        }
    }

    /// What a lease ends before others may serve.
    fn margin(&self) -> Duration {
        self.beats(MARGIN_QUARTERS) / 4
    }

    /// Until when this node may serve a group, from what it knows now.
    fn lease(&self, index: usize, now: Duration) -> Duration {
        let margin = self.margin();
        if self.settings.witness {
            let given = self.word(index).max(self.groups[index].vote);
            return given.unwrap_or_default().saturating_sub(margin);
        }
        let Some(peer) = self.peer(now) else { return now + self.beats(LONE_LEASE) - margin };
        let said = !self.is_silent(peer, now) || peer.is_deaf(self.beats(2));
        // A run that has not heard us yet waits for longer than that.
        let granted = peer.granted.filter(|_| said).unwrap_or(now + self.beats(TAKEOVER));
        granted.saturating_sub(margin)
    }

    pub(super) fn stance(&self, index: usize) -> Stance {
        let group = &self.groups[index];
        let may_claim = self.settings.preempt && self.informed && group.fit && !group.yielded;
        let outranks = || self.peer.as_ref().is_some_and(|peer| self.outranks(group, peer));
        match (group.lease, group.resigned) {
            (Some(_), _) => Stance::Active,
            (None, Some(_)) => Stance::Resigned,
            (None, None) if may_claim && outranks() => Stance::Claiming,
            (None, None) => Stance::Standby,
        }
    }

    /// Whether a group would rather be ours than the peer's.
    fn outranks(&self, group: &Group, peer: &Peer) -> bool {
        let theirs = peer.group(group.settings.id);
        let (fit, preferred) = theirs.map_or((true, false), |group| (group.fit, group.preferred));
        let Settings { node, priority, .. } = &self.settings;
        let ours = (group.fit, group.settings.preferred, *priority, node, self.boot);
        ours > (fit, preferred, peer.priority, &peer.node, peer.boot())
    }

    /// Decides about all groups.
    pub(super) fn weigh(&mut self, now: Duration) {
        for index in 0..self.groups.len() {
            if self.groups[index].lease.is_some() {
                self.weigh_active(index, now);
            } else if !self.leaving {
                self.weigh_standby(index, now);
            }
            self.weigh_asking(index, now);
        }
    }

    fn weigh_active(&mut self, index: usize, now: Duration) {
        let group = self.groups[index];
        if group.lease.is_some_and(|end| end <= now) {
            return self.stop(index, Cause::LeaseEnded, now);
        }
        // What peer and witness gave they do not take back.
        let given = group.lease.filter(|_| self.settings.witness).unwrap_or_default();
        let lease = self.lease(index, now).max(given);
        let theirs = self.heard(now).and_then(|peer| Some((peer, peer.group(group.settings.id)?)));
        if let Some((peer, theirs)) = theirs {
            if theirs.stance == Stance::Active {
                return self.weigh_contested(index, now);
            }
            let claims = theirs.stance == Stance::Claiming && !self.outranks(&group, peer);
            let is_abler = theirs.fit && !group.fit;
            if claims || (theirs.stance == Stance::Standby && is_abler) {
                let lately = self.beats(TAKEOVER);
                if Self::is_done(&mut self.flush, lately, now) {
                    let cause = if is_abler { Cause::Interface } else { Cause::Preempted };
                    return self.leave_to_peer(index, cause, now);
                }
            }
            if group.contested.is_some() {
                self.groups[index].contested = None;
                self.groups[index].since = now;
            }
        }
        if lease <= now {
            self.stop(index, Cause::LeaseEnded, now);
        } else {
            self.groups[index].lease = Some(lease);
        }
    }

    /// The peer serves a group as well.
    fn weigh_contested(&mut self, index: usize, now: Duration) {
        let group = self.groups[index];
        let Some(peer) = &self.peer else { return };
        let term = peer.group(group.settings.id).map_or(0, |theirs| theirs.term);
        let since = group.contested.unwrap_or(now);
        // A peer that does not hear us will not stop, whatever its term is.
        let in_vain = !peer.knows_us && now >= since + self.beats(TAKEOVER);
        if in_vain || (term, true) > (group.term, self.outranks(&group, peer)) {
            return self.stop(index, Cause::PeerWon, now);
        }
        // It is the one to stop, and does not wait for us.
        let short = if self.settings.witness {
            self.lease(index, now)
        } else {
            now + self.beats(TAKEOVER) - self.margin()
        };
        let group = &mut self.groups[index];
        (group.contested, group.lease) = (Some(since), group.lease.max(Some(short)));
    }

    fn weigh_standby(&mut self, index: usize, now: Duration) {
        let group = self.groups[index];
        if group.resigned.is_some_and(|since| now >= since + self.beats(STRANGER)) {
            // The peer had its chance.
            (self.groups[index].resigned, self.groups[index].told) = (None, now);
        }
        let (group, is_silent) = (self.groups[index], now >= self.takes_over_at());
        let lease = if self.settings.witness && is_silent {
            // The peer's word is about who is heard.
            group.vote.unwrap_or_default().saturating_sub(self.margin())
        } else {
            self.lease(index, now)
        };
        let cause = match self.heard(now) {
            _ if is_silent => Some(Cause::Silence),
            None => None,
            // It does not take over by itself as long as our lease is going to
            // last, which is to be worth while; and it decides by what we know, too.
            Some(peer) if !peer.knows_us || lease <= now + self.beats(1) => None,
            Some(peer) if peer.acknowledged <= Some(group.told) => None,
            Some(peer) => match peer.group(group.settings.id) {
                Some(theirs) if theirs.stance == Stance::Active => {
                    if group.resigned.is_some() {
                        (self.groups[index].resigned, self.groups[index].told) = (None, now);
                    }
                    None
                }
                Some(theirs) if theirs.stance != Stance::Resigned => {
                    let is_ours = group.resigned.is_none() && self.outranks(&group, peer);
                    is_ours.then_some(Cause::Unserved)
                }
                Some(theirs) => {
                    let is_ours = group.resigned.is_none() && (group.fit || !theirs.fit);
                    is_ours.then_some(Cause::HandedOver)
                }
                // It may serve the addresses by another name.
                None => None,
            },
        };
        let lately = self.beats(TAKEOVER);
        let mut is_free =
            || !is_silent || !self.settings.fence || Self::is_done(&mut self.fence, lately, now);
        if cause.is_some() && lease > now && is_free() {
            self.learn_terms();
            let group = &mut self.groups[index];
            group.term = group.term.saturating_add(1);
            group.lease = Some(lease);
            (group.resigned, group.yielded) = (None, false);
            (group.since, group.cause) = (now, cause);
            if is_silent {
                group.told = now;
            }
            self.news = true;
        }
    }
}

//! What the node says of itself.

use std::time::Duration;

use super::{Driver, Stranger};
use crate::{
    agent::ha::{frame::VERSION, history::role},
    api,
    core::ha::Stance,
};

impl Driver {
    pub(super) fn summary(&self) -> api::HaSummary {
        let active = self.pair.groups().filter(|view| view.lease.is_some()).count();
        let role = match active {
            0 => "standby",
            all if all == self.ha.groups.len() => "active",
            _ => "both",
        };
        let now = self.now();
        api::HaSummary {
            role: role.to_owned(),
            term: self.pair.term(),
            peer: self.pair.peer(now).map(|peer| peer.node.clone()),
            connected: self.pair.hears_peer(now),
        }
    }

    pub(super) fn status(&self, now: Duration) -> api::HaStatus {
        let ago = |then: Duration| now.saturating_sub(then).as_millis() as u64;
        let peer = self.pair.peer(now);
        let groups = self.ha.groups.iter().zip(self.pair.groups()).enumerate();
        let kept = self.kept.borrow();
        let stranger = self.stranger.filter(|_| peer.is_none());
        api::HaStatus {
            pair: self.ha.pair.clone(),
            key: self.voice.borrow().status(),
            stranger: stranger.map(|Stranger { version, heard }| api::HaStranger {
                version,
                expected: VERSION,
                heard_ms: ago(heard),
            }),
            peer: peer
                .map(|peer| api::HaPeer { node: peer.node.clone(), heard_ms: ago(peer.heard) }),
            paths: self
                .ha
                .paths
                .iter()
                .zip(&self.heard)
                .map(|(path, heard)| api::HaPath { peer: path.peer, heard_ms: heard.map(ago) })
                .collect(),
            witness: self.ha.witness.map(|address| api::HaWitness {
                address,
                heard_ms: self.pair.witness_heard().map(ago),
            }),
            groups: groups
                .map(|(index, (group, view))| api::HaGroup {
                    name: group.name.clone(),
                    role: role(view.lease.is_some()).to_owned(),
                    term: view.term,
                    peer_role: self
                        .pair
                        .said_of(index, now)
                        .map(|said| role(said.stance == Stance::Active).to_owned()),
                    lease_ms: view.lease.map(|end| end.saturating_sub(now).as_millis() as u64),
                    trouble: kept[index]
                        .trouble
                        .clone()
                        .or_else(|| self.trouble.of(index).map(str::to_owned)),
                })
                .collect(),
            refused: self
                .refused
                .iter()
                .map(|(reason, (count, _))| ((*reason).to_owned(), *count))
                .collect(),
            sync: api::HaSync::default(),
            config: api::HaConfig::default(),
            transitions: self.history.latest(&self.ha.groups, now),
            transition_counts: self.history.counts(&self.ha.groups),
        }
    }
}

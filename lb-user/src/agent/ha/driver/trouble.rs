//! What is wrong with the pair: told when it begins, and shown while it lasts.

use std::time::Duration;

use crate::core::{ha::Pair, model::ha::Ha};

/// What is wrong with a group that the peer knows otherwise.
const DIFFERS: &str = "the peer has other addresses in it, another `node.hash_seed`, another line \
                       `place` in its key file, another `ha.heartbeat`, or another witness or \
                       none: it must be configured alike on both nodes";

/// What is wrong with a group that the peer does not have.
const LACKS: &str = "the peer has no group of this name: a node that serves it goes on, but none \
                     begins to beside a peer that may serve its addresses by another name; it must \
                     be configured alike on both nodes";

/// What is wrong with a peer whose answers come too late for any lease.
const TOO_FAR: &str = "frames to the peer and back take longer than 18 heartbeats: no node can \
                       begin to serve, make `ha.heartbeat` longer on both";

/// What is wrong where each node has a witness of its own.
const RIVAL: &str = "the peer is answered by another witness: the vote of neither counts, so \
                     no node can go on without the other; leave one of them (a node whose peer \
                     is gone has to be restarted after that)";

/// What is wrong where there are neither peer nor witness.
const NOBODY: &str = "neither the peer nor the witness answers: this node serves nothing, since \
                      the peer may serve";

/// What is wrong, as told last.
#[derive(Debug)]
pub(in crate::agent::ha) struct Trouble {
    /// What is wrong with each group at the peer.
    groups: Vec<Option<&'static str>>,
    /// The peer is too far.
    far: bool,
    /// It has another witness.
    rival: bool,
    missing: Missing,
}

/// Who does not answer, of those who would have to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nobody,
    Witness,
    Both,
}

impl Trouble {
    /// There is none.
    pub(in crate::agent::ha) fn none(groups: usize) -> Self {
        let groups = vec![None; groups];
        Self { groups, far: false, rival: false, missing: Missing::Nobody }
    }

    /// Tells what is wrong since the last look.
    pub(super) fn follow(&mut self, pair: &Pair, ha: &Ha, now: Duration) {
        for (index, group) in ha.groups.iter().enumerate() {
            let wrong = if pair.is_lacked(index, now) {
                Some(LACKS)
            } else {
                pair.differs(index, now).then_some(DIFFERS)
            };
            let before = std::mem::replace(&mut self.groups[index], wrong);
            if let Some(wrong) = wrong.filter(|_| wrong != before) {
                let group = &group.name;
                tracing::error!(group, "{wrong}");
            }
        }
        let began = |told: &mut bool, is: bool| !std::mem::replace(told, is) && is;
        if began(&mut self.far, pair.is_too_far(now)) {
            tracing::error!("{TOO_FAR}");
        }
        if began(&mut self.rival, pair.has_rival_witness()) {
            tracing::error!("{RIVAL}");
        }
        self.miss_witness(pair, ha, now);
    }

    /// What is wrong with a group.
    pub(super) fn of(&self, group: usize) -> Option<&'static str> {
        let others =
            [(self.far, TOO_FAR), (self.rival, RIVAL), (self.missing == Missing::Both, NOBODY)];
        let of_all = || others.into_iter().find_map(|(is, what)| is.then_some(what));
        self.groups[group].or_else(of_all)
    }

    /// Says when the witness is gone: the pair goes on without it as long as it is whole.
    fn miss_witness(&mut self, pair: &Pair, ha: &Ha, now: Duration) {
        let missing = match (pair.misses_witness(now), pair.peer(now)) {
            (false, _) => Missing::Nobody,
            (true, Some(_)) => Missing::Witness,
            (true, None) => Missing::Both,
        };
        if missing == std::mem::replace(&mut self.missing, missing) {
            return;
        }
        match (missing, ha.witness) {
            (_, None) => {}
            (Missing::Nobody, Some(witness)) => tracing::info!(%witness, "the witness answers"),
            (Missing::Witness, Some(witness)) => tracing::warn!(
                %witness,
                "the witness does not answer: no node can go on without the other now"
            ),
            (Missing::Both, Some(witness)) => tracing::error!(%witness, "{NOBODY}"),
        }
    }
}

//! Waits for frames, orders and time; asks the core; sends, serves and stops.
//!
//! The lease goes to the data plane before anything else that a turn decided,
//! and its end is counted from readings that were taken before the decision: a
//! process that stands still in between puts a lease in force that is over.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::{
    Failover, Order,
    addresses::{Kept, Serving},
    frame::{Codec, FrameError, MOST_BYTES},
    sync::Sync,
    term::Terms,
};
use crate::{
    api,
    core::{
        ha::{GroupBeat, Pair, Stance, View},
        model::ha::Ha,
    },
    dataplane::leases::Leases,
};

/// Frames taken in before the next turn: under a flood time goes on as well.
const AT_ONCE: usize = 64;
/// How often a kind of trouble is told.
const TELLING: Duration = Duration::from_secs(10);

/// The HA thread's state.
pub(super) struct Driver {
    pub(super) ha: Ha,
    pub(super) pair: Pair,
    pub(super) codec: Codec,
    pub(super) sockets: Vec<Arc<UdpSocket>>,
    pub(super) leases: Arc<Leases>,
    pub(super) terms: Terms,
    pub(super) serving: watch::Sender<Vec<Serving>>,
    pub(super) kept: watch::Receiver<Vec<Kept>>,
    pub(super) summary: watch::Sender<api::HaSummary>,
    pub(super) sync: Sync,
    pub(super) started: Instant,
    /// When each path brought a frame last.
    pub(super) heard: Vec<Option<Duration>>,
    /// Frames without effect, by reason, and when that was told last.
    pub(super) refused: BTreeMap<&'static str, (u64, Option<Duration>)>,
    /// The latest trouble with a lease or a term, and when it was told.
    pub(super) trouble: Option<(String, Duration)>,
}

/// What a path brought.
struct Arrived {
    path: usize,
    length: usize,
}

impl Driver {
    /// Goes on until the orders end.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut buffer = [0; MOST_BYTES + 1];
        loop {
            let wake = self.started + self.pair.next_wake(self.now());
            let arrived = tokio::select! {
                biased;
                arrived = receive(&self.sockets, &mut buffer) => Some(arrived),
                order = orders.recv() => match order {
                    Some(order) => {
                        self.obey(order);
                        None
                    }
                    None => return,
                },
                Ok(()) = self.kept.changed() => None,
                () = sleep_until(wake.into()) => None,
            };
            // Who was held up hears all that was said meanwhile before it speaks.
            let before: Vec<_> = self.pair.groups().collect();
            let mut answers = vec![false; self.sockets.len()];
            let (mut next, mut left) = (arrived, AT_ONCE);
            while let Some(arrived) = next {
                answers[arrived.path] |= self.take(&arrived, &buffer);
                left -= 1;
                next = if left > 0 { try_receive(&self.sockets, &mut buffer) } else { None };
            }
            self.turn(&before);
            for (path, _) in answers.iter().enumerate().filter(|(_, answer)| **answer) {
                self.send(path, true);
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Does what time and frames ask for.
    fn turn(&mut self, before: &[View]) {
        let moment = self.leases.now();
        let now = self.now();
        self.pair.inform(self.sync.is_informed());
        self.pair.tick(now);
        for (index, view) in self.pair.groups().enumerate() {
            let left = view.lease.map(|end| end.saturating_sub(now));
            self.leases.set(index, moment.as_ref().ok().copied().zip(left));
        }
        if let Err(error) = moment {
            tell(&mut self.trouble, now, format!("cannot read the data plane's clock: {error}"));
        }
        self.publish(before);
        if self.pair.is_due(now) {
            self.pair.begin_round(now);
            for path in 0..self.sockets.len() {
                self.send(path, false);
            }
        }
        if self.terms.are_short(self.pair.term())
            && let Err(error) = self.terms.reserve(self.pair.term())
        {
            tell(&mut self.trouble, now, error.to_string());
        }
    }

    /// Has the addresses follow, and says what changed.
    fn publish(&self, before: &[View]) {
        let serving = |view: View| Serving { active: view.lease.is_some(), since: view.since };
        let serving: Vec<_> = self.pair.groups().map(serving).collect();
        self.serving.send_if_modified(|old| {
            let changed = *old != serving;
            old.clone_from(&serving);
            changed
        });
        let summary = self.summary();
        self.summary.send_if_modified(|old| {
            let changed = *old != summary;
            *old = summary;
            changed
        });
        for ((group, old), new) in self.ha.groups.iter().zip(before).zip(self.pair.groups()) {
            let (group, term) = (&group.name, new.term);
            match (old.lease.is_some(), new.lease.is_some()) {
                (false, true) => tracing::warn!(group, term, "this node serves"),
                (true, false) => tracing::warn!(group, term, "this node serves no more"),
                _ => {}
            }
        }
    }

    /// Takes a frame in: whether it is to be answered.
    fn take(&mut self, arrived: &Arrived, buffer: &[u8]) -> bool {
        let Arrived { path, length } = *arrived;
        let now = self.now();
        let reason = match self.codec.decode(&buffer[..length]) {
            Err(error) => word(error),
            Ok(beat) => match self.pair.receive(&beat, now) {
                Ok(answer) => {
                    self.heard[path] = Some(now);
                    return answer;
                }
                Err(refusal) => refusal.word(),
            },
        };
        let (count, told) = self.refused.entry(reason).or_default();
        *count += 1;
        // The first frames of every run of the peer's are unproven.
        if reason != "unproven" && told.is_none_or(|last| now >= last + TELLING) {
            *told = Some(now);
            let from = self.ha.paths[path].peer;
            tracing::warn!(%from, reason, "a frame has no effect");
        }
        false
    }

    fn send(&mut self, path: usize, answer: bool) {
        let beat = self.pair.beat(answer, self.now());
        // A frame that is lost is followed by others.
        let _ = self.sockets[path].try_send(&self.codec.encode(&beat));
    }

    fn obey(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Status(reply) => drop(reply.send(self.status(now))),
            Order::Failover(name, reply) => drop(reply.send(self.fail_over(name.as_deref(), now))),
            Order::Leave => self.pair.leave(now),
        }
    }

    fn fail_over(&mut self, name: Option<&str>, now: Duration) -> Result<Vec<String>, Failover> {
        let groups = self.ha.groups.iter().enumerate();
        let named: Vec<_> =
            groups.filter(|(_, group)| name.is_none_or(|name| group.name == name)).collect();
        if named.is_empty() {
            return Err(Failover::NoGroup);
        }
        let active: Vec<_> = self.pair.groups().map(|view| view.lease.is_some()).collect();
        let mine: Vec<_> = named.into_iter().filter(|(index, _)| active[*index]).collect();
        if mine.is_empty() {
            return Err(Failover::NotActive);
        }
        let mut gone = Vec::new();
        for (index, group) in mine {
            if !self.pair.resign(index, now) {
                return Err(Failover::NoPeer);
            }
            gone.push(group.name.clone());
        }
        Ok(gone)
    }

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
            peer: self.pair.peer(now).map(|peer| peer.node.clone()),
            connected: self.pair.hears_peer(now),
        }
    }

    fn status(&self, now: Duration) -> api::HaStatus {
        let ago = |then: Duration| now.saturating_sub(then).as_millis() as u64;
        let peer = self.pair.peer(now);
        let groups = self.ha.groups.iter().zip(self.pair.groups()).enumerate();
        let kept = self.kept.borrow();
        api::HaStatus {
            pair: self.ha.pair.clone(),
            peer: peer
                .map(|peer| api::HaPeer { node: peer.node.clone(), heard_ms: ago(peer.heard) }),
            paths: self
                .ha
                .paths
                .iter()
                .zip(&self.heard)
                .map(|(path, heard)| api::HaPath { peer: path.peer, heard_ms: heard.map(ago) })
                .collect(),
            groups: groups
                .map(|(index, (group, view))| api::HaGroup {
                    name: group.name.clone(),
                    role: if view.lease.is_some() { "active" } else { "standby" }.to_owned(),
                    term: view.term,
                    peer_role: self.pair.said_of(index, now).map(role).map(str::to_owned),
                    lease_ms: view.lease.map(|end| end.saturating_sub(now).as_millis() as u64),
                    trouble: kept[index].trouble.clone(),
                })
                .collect(),
            refused: self
                .refused
                .iter()
                .map(|(reason, (count, _))| ((*reason).to_owned(), *count))
                .collect(),
            sync: api::HaSync::default(),
        }
    }
}

fn role(said: &GroupBeat) -> &'static str {
    match said.stance {
        Stance::Active => "active",
        Stance::Standby | Stance::Claiming | Stance::Resigned => "standby",
    }
}

/// What is wrong with a datagram, in one word.
fn word(error: FrameError) -> &'static str {
    match error {
        FrameError::Foreign => "foreign",
        FrameError::Version(_) => "version",
        FrameError::Length(_) => "length",
        FrameError::Key => "key",
        FrameError::Malformed => "malformed",
    }
}

/// Tells of trouble when it begins or changes, and every so often.
fn tell(told: &mut Option<(String, Duration)>, now: Duration, error: String) {
    let new = told.as_ref().is_none_or(|(old, at)| *old != error || now >= *at + TELLING);
    if new {
        tracing::error!(error, "high availability is at risk");
        *told = Some((error, now));
    }
}

async fn receive(sockets: &[Arc<UdpSocket>], buffer: &mut [u8]) -> Arrived {
    loop {
        let ready = sockets.iter().map(|socket| Box::pin(socket.readable()));
        let _ = futures_util::future::select_all(ready).await;
        if let Some(arrived) = try_receive(sockets, buffer) {
            return arrived;
        }
    }
}

fn try_receive(sockets: &[Arc<UdpSocket>], buffer: &mut [u8]) -> Option<Arrived> {
    sockets.iter().enumerate().find_map(|(path, socket)| match socket.try_recv(buffer) {
        Ok(length) => Some(Arrived { path, length }),
        // What an earlier frame of ours met on its way.
        Err(_) => None,
    })
}

//! Waits for frames, orders and time; asks the core; sends, serves and stops.
//!
//! The lease goes to the data plane before anything else that a turn decided,
//! and its end is counted from readings that were taken before the decision: a
//! process that stands still in between puts a lease in force that is over.

mod status;
pub(super) mod trouble;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::select_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep_until,
};

use self::trouble::Trouble;
use super::{
    Failover, Order,
    addresses::{Kept, Serving},
    errands::{answered, done},
    frame::{FrameError, MOST_BYTES_EVER, VERSION},
    history::History,
    key::Fingerprint,
    socket::Way,
    sync::{Sync, replica::Shared},
    term::Terms,
    voice::Voice,
};
use crate::{
    api,
    core::{
        ha::{Cause, Pair, Refusal, Stamp, View},
        model::ha::Ha,
    },
    dataplane::leases::Leases,
};

/// Frames taken in before the next turn: under a flood time goes on as well.
pub(super) const AT_ONCE: usize = 64;
/// How often a kind of trouble is told.
const TELLING: Duration = Duration::from_secs(10);

/// The HA thread's state.
pub(super) struct Driver {
    /// Name of this node.
    pub(super) node: String,
    pub(super) ha: Ha,
    pub(super) pair: Pair,
    pub(super) voice: watch::Sender<Voice>,
    pub(super) ways: Vec<Way>,
    pub(super) witness: Option<Way>,
    pub(super) leases: Arc<Leases>,
    pub(super) terms: Terms,
    pub(super) serving: watch::Sender<Vec<Serving>>,
    pub(super) kept: watch::Receiver<Vec<Kept>>,
    pub(super) summary: watch::Sender<api::HaSummary>,
    pub(super) sync: Sync,
    /// Unless each node has its own configuration.
    pub(super) shared: Option<Shared>,
    pub(super) started: Instant,
    /// When each path brought a frame last.
    pub(super) heard: Vec<Option<Duration>>,
    /// Frames without effect, by reason, and when that was told last.
    pub(super) refused: BTreeMap<&'static str, (u64, Option<Duration>)>,
    /// What became of the groups.
    pub(super) history: History,
    /// While there is no clock to give leases by: when that was told last.
    pub(super) stopped: Option<Duration>,
    /// The node of another version that is there instead of the peer.
    pub(super) stranger: Option<Stranger>,
    /// Name of the latest peer.
    pub(super) peer: Option<String>,
    /// What is wrong, as told last.
    pub(super) trouble: Trouble,
    /// While the peer is told the latest flows.
    pub(super) flushing: Option<JoinHandle<bool>>,
    /// While the peer is fenced.
    pub(super) fencing: Option<JoinHandle<bool>>,
}

/// Frames of unknown runs that are nothing to be told.
const USUAL: u64 = 16;

/// A node of the pair that speaks another version.
#[derive(Clone, Copy)]
pub(super) struct Stranger {
    version: u8,
    heard: Duration,
}

/// A frame that is to be proven, and the key that it was made with.
type Unproven = (Stamp, Fingerprint);

/// What is to be answered, by path: what is heard, and what is to be proven.
struct Answers {
    due: Vec<bool>,
    echoes: Vec<(usize, Unproven)>,
}

impl Answers {
    fn new(paths: usize) -> Self {
        Self { due: vec![false; paths], echoes: Vec::new() }
    }

    /// Paths to answer by, with what is echoed.
    fn all(self) -> impl Iterator<Item = (usize, Option<Unproven>)> {
        let echoes = self.echoes.into_iter().map(|(path, frame)| (path, Some(frame)));
        let due = self.due.into_iter().enumerate().filter(|(_, due)| *due);
        echoes.chain(due.map(|(path, _)| (path, None)))
    }
}

/// What a path brought.
struct Arrived {
    path: usize,
    length: usize,
}

impl Driver {
    /// Goes on until the orders end.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut buffer = [0; MOST_BYTES_EVER + 1];
        loop {
            let wake = self.started + self.pair.next_wake(self.now());
            let before: Vec<_> = self.pair.groups().collect();
            let arrived = tokio::select! {
                biased;
                // What comes from this host comes seldom: a flood of frames does not
                // keep it waiting.
                order = orders.recv() => match order {
                    Some(order) => {
                        self.obey(order);
                        None
                    }
                    None => return,
                },
                Ok(()) = self.kept.changed() => None,
                _ = done(&mut self.flushing) => {
                    // Whether the peer knows them makes no difference: it claims the group.
                    self.pair.flushed(self.now());
                    None
                }
                fenced = done(&mut self.fencing) => {
                    if fenced {
                        self.pair.fenced(self.now());
                    }
                    None
                }
                arrived = receive(&self.ways, &mut buffer) => Some(arrived),
                () = answered(self.witness.as_ref()) => None,
                () = sleep_until(wake.into()) => None,
            };
            // Who was held up hears all that was said meanwhile before it speaks.
            let mut answers = Answers::new(self.ways.len());
            let mut next = arrived.or_else(|| try_receive(&self.ways, 0, &mut buffer));
            let mut left = AT_ONCE;
            while let Some(arrived) = next {
                self.take(&arrived, &buffer, &mut answers);
                left -= 1;
                // Path by path: a flood of one keeps nobody from being heard by another.
                let path = arrived.path + 1;
                next = (left > 0).then(|| try_receive(&self.ways, path, &mut buffer)).flatten();
            }
            self.hear_witness();
            self.turn(&before);
            for (path, echo) in answers.all() {
                self.send(path, true, echo);
            }
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Does what time and frames ask for.
    fn turn(&mut self, before: &[View]) {
        let moment = self.leases.now();
        let now = self.now();
        let agrees = self.shared.as_ref().is_none_or(Shared::agrees);
        self.pair.inform(self.sync.is_informed() && agrees);
        for (index, kept) in self.kept.borrow().iter().enumerate() {
            self.pair.set_fit(index, kept.fit, now);
        }
        let moment = match moment {
            Ok(moment) => {
                self.pair.tick(now);
                self.stopped = None;
                Some(moment)
            }
            Err(error) => {
                self.pair.stop_all(now);
                self.tell_of_stop(&error, now);
                None
            }
        };
        for (index, view) in self.pair.groups().enumerate() {
            let left = view.lease.map(|end| end.saturating_sub(now));
            self.leases.set(index, moment.zip(left));
        }
        self.run_errands();
        self.publish(before);
        self.meet_peer(now);
        self.trouble.follow(&self.pair, &self.ha, now);
        if self.pair.is_due(now) {
            self.pair.begin_round(now);
            for path in 0..self.ways.len() {
                self.send(path, false, None);
            }
            self.ask_witness(now);
        }
        self.terms.keep_ahead(self.pair.term(), now);
    }

    /// Tells why this node cannot serve, when that begins and every so often.
    fn tell_of_stop(&mut self, error: &io::Error, now: Duration) {
        if self.stopped.is_none_or(|told| now >= told + TELLING) {
            self.stopped = Some(now);
            let error = error.to_string();
            tracing::error!(
                error,
                "the data plane's clock cannot be read: this node gives up all groups"
            );
        }
    }

    /// Takes note of a peer's name, by which groups may have been given out.
    fn meet_peer(&mut self, now: Duration) {
        let Some(peer) = self.pair.peer(now).map(|peer| &peer.node) else {
            self.voice.send_if_modified(Voice::forget_peer);
            return;
        };
        if self.peer.as_ref() == Some(peer) {
            return;
        }
        for (group, prefer) in self.ha.preferring_others([&self.node, peer]) {
            tracing::warn!(group, prefer, %peer, "the group prefers a node that is not of this pair");
        }
        self.peer = Some(peer.clone());
    }

    /// Has the addresses follow, and says what changed.
    fn publish(&mut self, before: &[View]) {
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
        let now = self.now();
        for (index, (old, new)) in before.iter().zip(self.pair.groups()).enumerate() {
            if old.lease.is_some() == new.lease.is_some() {
                continue;
            }
            let (group, term) = (&self.ha.groups[index].name, new.term);
            let cause = self.history.add(index, new, now).map(Cause::word);
            match new.lease {
                Some(_) => {
                    // After a peer that died this node serves whatever it knows.
                    let knows_flows = self.sync.is_informed();
                    tracing::warn!(group, term, cause, knows_flows, "this node serves");
                }
                None => tracing::warn!(group, term, cause, "this node serves no more"),
            }
        }
    }

    /// Takes a frame in.
    fn take(&mut self, arrived: &Arrived, buffer: &[u8], answers: &mut Answers) {
        let Arrived { path, length } = *arrived;
        let now = self.now();
        let decoded = self.voice.borrow().decode(&buffer[..length]);
        let reason = match decoded {
            Err(error) => {
                if let FrameError::Version { version, serves } = error {
                    self.meet_stranger(version, serves, path);
                }
                word(error)
            }
            Ok(frame) => match self.pair.receive(&frame.beat, now) {
                Ok(answer) => {
                    self.heard[path] = Some(now);
                    self.stranger = None;
                    self.voice.send_if_modified(|voice| voice.hear(&frame));
                    answers.due[path] |= answer;
                    return;
                }
                Err(refusal) => {
                    if let Refusal::Unproven(Some(stamp)) = refusal {
                        answers.echoes.push((path, (stamp, frame.key)));
                    }
                    refusal.word()
                }
            },
        };
        self.refuse(reason, self.ha.paths[path].peer, now);
    }

    /// Counts a frame without effect, and tells of it at times.
    pub(super) fn refuse(&mut self, reason: &'static str, from: SocketAddr, now: Duration) {
        let (count, told) = self.refused.entry(reason).or_default();
        *count += 1;
        // The first frame of every run of the peer's is unproven; who speaks another
        // version is told of when that begins.
        let usual = reason == "version" || reason == "unproven" && *count <= USUAL;
        if !usual && told.is_none_or(|last| now >= last + TELLING) {
            *told = Some(now);
            tracing::warn!(%from, reason, "a frame has no effect");
        }
    }

    /// Hears a node of another version. Only the newer one is sure to know that the
    /// other is not to be served beside: so it makes way always, and the older one if
    /// the other serves.
    fn meet_stranger(&mut self, version: u8, serves: bool, path: usize) {
        let now = self.now();
        if serves || version < VERSION {
            self.pair.make_way(now);
        }
        let before = self.stranger.replace(Stranger { version, heard: now });
        if before.is_none_or(|before| before.version != version) {
            let from = self.ha.paths[path].peer;
            tracing::error!(
                %from,
                version,
                expected = VERSION,
                "the peer speaks another version of heartbeats: end the agent of the older \
                 version, which the other then takes over from, and upgrade it"
            );
        }
    }

    fn send(&mut self, path: usize, answer: bool, echo: Option<Unproven>) {
        let (echo, key) = echo.unzip();
        let beat = self.pair.beat(answer, echo, self.now());
        let frame = self.voice.borrow().encode(&beat, key);
        self.ways[path].send(&frame);
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
        if !mine.iter().all(|(index, _)| self.pair.can_resign(*index, now)) {
            return Err(Failover::NoPeer);
        }
        mine.iter().for_each(|(index, _)| self.pair.resign(*index, now));
        Ok(mine.into_iter().map(|(_, group)| group.name.clone()).collect())
    }
}

/// What is wrong with a datagram, in one word.
pub(super) fn word(error: FrameError) -> &'static str {
    match error {
        FrameError::Foreign => "foreign",
        FrameError::Version { .. } => "version",
        FrameError::Length { .. } => "length",
        FrameError::Key => "key",
        FrameError::Malformed => "malformed",
    }
}

async fn receive(ways: &[Way], buffer: &mut [u8]) -> Arrived {
    loop {
        select_all(ways.iter().map(|way| Box::pin(way.readable()))).await;
        if let Some(arrived) = try_receive(ways, 0, buffer) {
            return arrived;
        }
    }
}

/// A frame of the first path that has one, from this one on in a circle.
fn try_receive(ways: &[Way], first: usize, buffer: &mut [u8]) -> Option<Arrived> {
    let mut paths = (0..ways.len()).map(|path| (first + path) % ways.len());
    paths.find_map(|path| Some(Arrived { path, length: ways[path].receive(buffer)? }))
}

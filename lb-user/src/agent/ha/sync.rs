//! The flows of one node of the pair in the affinity table of the other.
//!
//! Each node calls the other and tells it the flows of the groups that it
//! serves, see [`sender`], and hears of the other's, see [`receiver`]. On a thread
//! of its own: heartbeats do not wait for it.

mod channel;
mod comparison;
mod message;
mod receiver;
pub(super) mod replica;
mod sender;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use self::{
    receiver::Receiver,
    replica::{Answering, Calling, Ends},
    sender::{Sender, State},
};
use super::{Error, addresses::Serving, group_id, seed_fingerprint, socket, voice::Voice};
use crate::{
    agent::thread::Thread,
    api,
    core::{
        model::{
            Node,
            ha::{Ha, Path},
        },
        sync::Names,
    },
    dataplane::{changes::Changes, flows::Entered},
};

/// How long a call, an answer or a sign of life may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long who hands over waits for the peer to know the latest flows.
const FLUSH: Duration = Duration::from_millis(200);
/// Who may wait at the same time.
const WAITING: usize = 4;
/// What a connection's key is derived for.
const PURPOSE: &str = "flows";

/// What both directions need.
#[derive(Clone)]
struct Common {
    paths: Vec<Path>,
    node: String,
    /// Fingerprint of `node.hash_seed`.
    seed: u64,
    /// `node.flows`.
    flows: u32,
    voice: watch::Receiver<Voice>,
    changes: Arc<Changes>,
    names: watch::Receiver<Arc<Names>>,
    serving: watch::Receiver<Vec<Serving>>,
    /// Ids of the groups, see [`crate::core::ha::GroupBeat::id`]; nodes may have them in
    /// different orders.
    groups: Vec<u64>,
    /// Groups, by position from bit 0, of which the peer does not know all that this
    /// node recorded: what it does not tell is not over.
    owes: Arc<AtomicU16>,
}

/// Groups by position, from bit 0.
type Groups = u16;

/// The groups of which this is so, in their order.
fn groups(are: impl IntoIterator<Item = bool>) -> Groups {
    let positions = (0..).zip(are).filter(|(_, is)| *is);
    positions.fold(0, |groups, (position, _)| groups | 1 << position)
}

impl Common {
    /// See the field.
    fn owes(&self) -> Groups {
        self.owes.load(Ordering::Relaxed)
    }
}

/// How telling the peer goes.
#[derive(Clone, Debug, Default)]
struct Outward {
    connected: bool,
    /// The peer knows all flows.
    complete: bool,
    records: u64,
    /// How old the changes were, at most, that the peer confirmed last.
    lag: Option<Duration>,
    trouble: Option<String>,
}

/// How hearing of the peer's flows goes.
#[derive(Clone, Debug, Default)]
struct Inward {
    connected: bool,
    /// All of the peer's flows are known: it told all, and none was left out.
    complete: bool,
    records: u64,
    /// Entries made or given another backend.
    entered: u64,
    /// Of those the ones that a later pass told: a change was missed.
    repaired: u64,
    /// Entries of flows that the peer does not have any more.
    removed: u64,
    /// Flows to backends that this node does not have.
    unknown: u64,
    /// Whether there were any since the peer began to tell all.
    lacks: bool,
    /// Flows for which the affinity table has no room.
    no_room: u64,
    /// Whether there were any since the peer began to tell all.
    full: bool,
}

/// What is told: this node's affinity table.
pub struct Flows {
    /// Its entries, and which of them changed.
    pub changes: Arc<Changes>,
    /// Who its backends are.
    pub names: watch::Receiver<Arc<Names>>,
}

/// All that the exchange of flows needs, before it begins.
pub(super) struct Exchange {
    paths: Vec<Path>,
    node: String,
    seed: u64,
    flows: u32,
    listeners: Vec<TcpListener>,
    /// See [`message::Message::Welcome`].
    memory: u64,
    groups: Vec<u64>,
    thread: Thread,
}

/// The exchange of flows with the peer, which ends with its thread.
#[derive(Clone, Debug)]
pub(super) struct Sync {
    outward: watch::Receiver<Outward>,
    inward: watch::Receiver<Inward>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    resyncs: watch::Sender<u64>,
    changes: Arc<Changes>,
}

impl Exchange {
    /// Opens the ports where the peer will call.
    ///
    /// # Errors
    /// One is in use, or there is no thread.
    pub(super) async fn open(node: &Node, ha: &Ha) -> Result<Self, Error> {
        let thread = Thread::start("flows").map_err(Error::Thread)?;
        let paths = ha.paths.clone();
        // Sockets belong to the runtime that they are opened in.
        let opened = thread.handle().spawn(async move {
            let mut listeners = Vec::new();
            for path in paths {
                let failed = |source| Error::Listen { address: path.listen, source };
                listeners.push(socket::listen(path.listen).map_err(failed)?);
            }
            Ok::<_, Error>(listeners)
        });
        let opened = opened.await.map_err(|error| Error::Thread(io::Error::other(error)))?;
        Ok(Self {
            paths: ha.paths.clone(),
            node: node.name.clone(),
            // It is named by its hash: it is not for everybody's eyes.
            seed: seed_fingerprint(node),
            flows: node.flows,
            listeners: opened?,
            memory: super::boot()?,
            groups: ha.groups.iter().map(group_id).collect(),
            thread,
        })
    }

    /// Begins to call the peer, and to listen to it, until the thread ends.
    pub(super) fn begin(
        self,
        flows: Flows,
        serving: watch::Receiver<Vec<Serving>>,
        voice: watch::Receiver<Voice>,
        sharing: Option<Ends>,
    ) -> (Sync, Thread) {
        let Self { paths, node, seed, flows: rated, listeners, memory, groups, thread } = self;
        let Flows { changes, names } = flows;
        let marked = Arc::clone(&changes);
        let owes = Arc::new(AtomicU16::new(u16::MAX));
        let flows = rated;
        let common =
            Common { paths, node, seed, flows, voice, changes, names, serving, groups, owes };
        let (out, outward) = watch::channel(Outward::default());
        let (hear, inward) = watch::channel(Inward::default());
        let (flushes, waiting) = mpsc::channel(WAITING);
        let (resyncs, orders) = watch::channel(0);
        let sender = Sender {
            common: common.clone(),
            outward: out,
            flushes: waiting,
            resyncs: orders.clone(),
        };
        let answering = sharing.as_ref().map(|ends| {
            let Ends { ours, heard, .. } = ends;
            Answering { ours: ours.clone(), heard: heard.clone() }
        });
        if let Some(ends) = sharing {
            thread.handle().spawn(Calling { common: common.clone(), ends }.run());
        }
        let memory = Arc::new(AtomicU64::new(memory));
        let receiver = Receiver { common, inward: hear, memory, resyncs: orders, answering };
        thread.handle().spawn(sender.run());
        thread.handle().spawn(receiver.run(listeners));
        (Sync { outward, inward, flushes, resyncs, changes: marked }, thread)
    }
}

impl Sync {
    /// Whether the peer knows all flows of this node's groups.
    pub(super) fn is_told(&self) -> bool {
        // A sender that is gone tells nothing.
        self.outward.has_changed().is_ok() && self.outward.borrow().complete
    }

    /// Whether this node knows all of the peer's flows, while it is there to
    /// tell them.
    pub(super) fn is_informed(&self) -> bool {
        let inward = self.inward.borrow();
        self.inward.has_changed().is_ok() && inward.connected && inward.complete
    }

    /// Waits until the peer knows what changed until now, for a moment: whether
    /// it does.
    pub(super) async fn flush(&self) -> bool {
        let (waits, done) = oneshot::channel();
        self.flushes.try_send(waits).is_ok() && matches!(timeout(FLUSH, done).await, Ok(Ok(())))
    }

    /// Has both nodes tell each other everything again.
    pub(super) fn resync(&self) {
        self.resyncs.send_modify(|number| *number += 1);
    }

    /// Buckets whose changes the peer has still to be told.
    pub(super) fn queue(&self) -> usize {
        self.changes.marks.waiting()
    }

    /// What is known of both directions.
    pub(super) fn status(&self) -> api::HaSync {
        let (outward, inward) = (self.outward.borrow(), self.inward.borrow());
        api::HaSync {
            told: api::HaTold {
                connected: outward.connected,
                complete: outward.complete,
                records: outward.records,
                lag_ms: outward.lag.map(|lag| lag.as_millis() as u64),
                trouble: outward.trouble.clone(),
            },
            heard: api::HaHeard {
                connected: inward.connected,
                complete: inward.complete,
                records: inward.records,
                entered: inward.entered,
                repaired: inward.repaired,
                removed: inward.removed,
                unknown: inward.unknown,
                no_room: inward.no_room,
            },
        }
    }
}

impl Outward {
    /// Follows a connection; whether anybody should know.
    fn take(&mut self, state: State, before: u64) -> bool {
        let new = (state.complete, before + state.records, state.lag);
        let changed = new != (self.complete, self.records, self.lag);
        (self.complete, self.records, self.lag) = new;
        changed
    }
}

impl Inward {
    /// Notes what became of one record.
    fn note(&mut self, entered: Entered) {
        match entered {
            Entered::New | Entered::Moved => self.entered += 1,
            Entered::Known => {}
            Entered::NoRoom => self.no_room += 1,
        }
    }

    /// Adds what one message brought, or a later `pass`.
    fn add(&mut self, news: &Self, pass: bool) {
        self.records += news.records;
        self.entered += news.entered;
        self.repaired += if pass && self.complete { news.entered } else { 0 };
        self.unknown += news.unknown;
        self.lacks |= news.unknown > 0;
        self.no_room += news.no_room;
        self.full |= news.no_room > 0;
        self.complete &= self.whole();
    }

    /// Whether every flow that the peer told since it began could be entered.
    fn whole(&self) -> bool {
        !self.lacks && !self.full
    }
}

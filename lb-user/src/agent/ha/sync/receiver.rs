//! Hears of the peer's flows, and enters them in this node's affinity table.

mod bindings;
mod connections;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{ready, select_all};
use lb_common::{flow::FlowState, lease, limits};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Common, Inward, PATIENCE, PURPOSE,
    channel::{self, Error, Incoming, Outgoing},
    comparison::Comparison,
    message::Message,
    replica::Answering,
};
use crate::{
    core::{
        plan::BackendId,
        sync::{Record, Translation},
    },
    dataplane::flows::Entered,
};

/// Callers that may be about to prove who they are, and how long that may take. One
/// more, and the first of them has to go: whoever calls from the peer's address and
/// says nothing keeps nobody out, since the peer takes no time over it.
const CALLERS: usize = 64;
const GREETING: Duration = Duration::from_millis(500);
/// After which calls are taken again where that failed.
const AGAIN: Duration = Duration::from_millis(100);
/// After which everything is to be told again where there was no room for some flows.
const ROOM: Duration = Duration::from_secs(15);

/// The receiver.
pub(super) struct Receiver {
    pub(super) common: Common,
    pub(super) inward: watch::Sender<Inward>,
    /// See [`Message::Welcome`].
    pub(super) memory: Arc<AtomicU64>,
    /// Changes when all is to be told anew.
    pub(super) resyncs: watch::Receiver<u64>,
    /// Answers about the configuration, unless each node has its own.
    pub(super) answering: Option<Answering>,
}

/// What a peer calls about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Flows,
    Configuration,
}

/// A peer that has proven who it is.
struct Caller {
    node: String,
    subject: Subject,
    say: Outgoing,
    hear: Incoming,
}

impl Receiver {
    /// Has the peer tell everything again.
    fn forget(&self) {
        self.memory.fetch_add(1, Ordering::Relaxed);
        self.inward.send_modify(|inward| (inward.lacks, inward.full) = (false, false));
    }

    /// Listens for the peer again and again. The latest connection is the one
    /// that counts: the peer has one only.
    pub(super) async fn run(mut self, listeners: Vec<TcpListener>) {
        let (mut callers, mut session) = (JoinSet::new(), JoinSet::new());
        let mut waiting = VecDeque::<AbortHandle>::new();
        let mut answers = JoinSet::new();
        let mut told = None;
        loop {
            tokio::select! {
                stream = accept(&listeners, &self.common) => {
                    waiting.retain(|caller| !caller.is_finished());
                    if waiting.len() == CALLERS && let Some(first) = waiting.pop_front() {
                        first.abort();
                    }
                    let (common, shares) = (self.common.clone(), self.answering.is_some());
                    let memory = Arc::clone(&self.memory);
                    waiting.push_back(callers.spawn(greet(common, shares, memory, stream)));
                }
                Some(greeted) = callers.join_next() => match greeted {
                    Ok(Ok(Some(Caller { node, say, hear, subject: Subject::Configuration }))) => {
                        answers.shutdown().await;
                        let answering = self.answering.clone();
                        answers.extend(answering.map(|answering| answering.run(node, say, hear)));
                    }
                    Ok(Ok(Some(caller))) => {
                        told = None;
                        session.shutdown().await;
                        let hearing = Hearing::new(&self, &caller);
                        session.spawn(hearing.run(caller));
                    }
                    Ok(Err(error)) if !error.is_hang_up() => complain(&mut told, &error),
                    // It went, or had to go, or was told why it is not answered.
                    _ => {}
                },
                // The peer calls again, and tells everything to who knows nothing.
                // The same where a key is retired: nobody may go on by it.
                Ok(()) = self.resyncs.changed() => {
                    self.forget();
                    session.abort_all();
                    answers.abort_all();
                }
                // The peer says why, and calls again.
                Some(_) = answers.join_next() => {}
                Some(ended) = session.join_next() => {
                    self.inward.send_modify(|inward| {
                        (inward.connected, inward.complete) = (false, false);
                    });
                    if let Ok(error) = ended {
                        if matches!(error, Error::Anew) {
                            self.forget();
                        }
                        complain(&mut told, &error);
                    }
                }
            }
        }
    }
}

/// Says what is wrong, once.
fn complain(told: &mut Option<String>, error: &Error) {
    let error = match error {
        Error::Refused(reason) => reason.clone(),
        other => other.to_string(),
    };
    if told.as_ref() != Some(&error) {
        tracing::warn!(error, "flows of the peer are not heard");
        *told = Some(error);
    }
}

/// The next call from one of the peer's addresses.
async fn accept(listeners: &[TcpListener], common: &Common) -> TcpStream {
    loop {
        let calls = listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (Ok((stream, from)), ..) = select_all(calls).await else {
            // There may be no descriptor left.
            sleep(AGAIN).await;
            continue;
        };
        if common.paths.iter().any(|path| path.peer.ip() == from.ip()) {
            return stream;
        }
    }
}

/// Finds out who calls; `None`: it is not answered about the configuration, and knows
/// why.
async fn greet(
    common: Common,
    shares: bool,
    memory: Arc<AtomicU64>,
    stream: TcpStream,
) -> Result<Option<Caller>, Error> {
    let greeted = async {
        let keys = common.voice.borrow().secrets(PURPOSE);
        let (mut say, mut hear) = channel::answer(stream, &keys).await?;
        let (subject, (seed, flows), node) = match hear.hear().await? {
            Message::Hello { seed, flows, node } => (Subject::Flows, (seed, flows), node),
            Message::Share { node } => (Subject::Configuration, (common.seed, common.flows), node),
            _ => return Err(Error::Malformed),
        };
        let reason = if node == common.node {
            Some(format!("`node.name` of both nodes is `{node}`"))
        } else if seed != common.seed {
            let ours = common.seed;
            Some(format!(
                "`node.hash_seed` has fingerprint {seed:016x} at `{node}` and {ours:016x} at \
                 `{}`, expected the same",
                common.node
            ))
        } else if limits::flow_buckets(flows) != limits::flow_buckets(common.flows) {
            let (ours, name) = (common.flows, &common.node);
            Some(format!(
                "`node.flows` is {flows} at `{node}` and {ours} at `{name}`, expected the same: a \
                 smaller table has no room for all connections"
            ))
        } else if subject == Subject::Configuration && !shares {
            Some(format!("`ha.config` is \"independent\" at `{}`", common.node))
        } else {
            None
        };
        if let Some(reason) = reason {
            say.say(&Message::Refused { reason: reason.clone() }).await?;
            return match subject {
                Subject::Flows => Err(Error::Refused(reason)),
                Subject::Configuration => Ok(None),
            };
        }
        say.say(&Message::Welcome { memory: memory.load(Ordering::Relaxed) }).await?;
        Ok(Some(Caller { node, subject, say, hear }))
    };
    timeout(GREETING, greeted).await.unwrap_or_else(|_| Err(Error::late()))
}

/// A flow of the peer's: its key, backend, state and seconds to live, and whether a live
/// entry of this node's yields to it.
type Heard = (u64, (BackendId, FlowState, u16), bool);

/// A connection that is listened to.
struct Hearing {
    common: Common,
    inward: watch::Sender<Inward>,
    translation: Translation,
    /// When there was no room for a flow first.
    full: Option<Instant>,
    comparison: Comparison,
}

impl Hearing {
    fn new(receiver: &Receiver, caller: &Caller) -> Self {
        let Receiver { common, inward, .. } = receiver;
        inward.send_modify(|inward| {
            (inward.connected, inward.complete) = (true, false);
        });
        tracing::info!(peer = caller.node, "flows of the peer are heard");
        let translation = Translation::default();
        Self {
            common: common.clone(),
            inward: inward.clone(),
            translation,
            full: None,
            comparison: Comparison::new(),
        }
    }

    async fn run(mut self, mut caller: Caller) -> Error {
        self.common.names.mark_unchanged();
        if !self.inward.borrow().whole() {
            // An earlier connection ended before this could be said.
            return Error::Anew;
        }
        loop {
            let done = tokio::select! {
                message = timeout(PATIENCE, caller.hear.hear()) => match message {
                    Ok(Ok(message)) => self.take(message, &mut caller.say).await,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(Error::late()),
                },
                Ok(()) = self.common.names.changed() => {
                    if self.inward.borrow().lacks {
                        // The backends may be here now: the peer is to tell
                        // everything again.
                        return Error::Anew;
                    }
                    let names = Arc::clone(&self.common.names.borrow_and_update());
                    self.translation.renew(&names);
                    Ok(())
                }
                () = ready(()), if self.comparison.goes_on() => {
                    let removed = self.comparison.go_on(&self.common);
                    if let Ok(removed @ 1..) = removed {
                        self.inward.send_modify(|inward| inward.removed += removed);
                    }
                    // Messages come first.
                    yield_now().await;
                    removed.map(drop)
                }
                () = sleep_until(self.full.unwrap_or_else(Instant::now) + ROOM),
                    if self.full.is_some() => Err(Error::Anew),
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    async fn take(&mut self, message: Message, say: &mut Outgoing) -> Result<(), Error> {
        match message {
            Message::Names(theirs) => {
                let names = Arc::clone(&self.common.names.borrow());
                self.translation.learn(theirs, &names);
                Ok(())
            }
            Message::Begin => {
                self.full = None;
                self.comparison.begin(&self.common.changes);
                self.inward.send_modify(|inward| {
                    (inward.complete, inward.lacks, inward.full) = (false, false, false);
                });
                Ok(())
            }
            Message::Flows { sequence, pass, records } => {
                self.enter(&records, pass)?;
                let whole = self.inward.borrow().whole();
                say.say(&Message::Heard { sequence, whole }).await
            }
            Message::Bindings { sequence, pass, records } => {
                self.enter_bindings(&records, pass)?;
                let whole = self.inward.borrow().whole();
                say.say(&Message::Heard { sequence, whole }).await
            }
            Message::Connections { sequence, pass, group, records } => {
                self.enter_connections(group, &records, pass)?;
                let whole = self.inward.borrow().whole();
                say.say(&Message::Heard { sequence, whole }).await
            }
            Message::Told { sequence, groups } => {
                self.comparison.end(&self.common, &groups);
                let whole = self.inward.borrow().whole();
                self.inward.send_modify(|inward| inward.complete = whole);
                say.say(&Message::Heard { sequence, whole }).await
            }
            _ => Err(Error::Malformed),
        }
    }

    fn enter(&mut self, records: &[Record], pass: bool) -> Result<(), Error> {
        let now = self.common.changes.second()?;
        let serving = self.common.serving.borrow().clone();
        let (mut news, mut crowded) = (Inward::default(), Vec::new());
        for record in records {
            // No flow has key 0: it is that of an empty slot.
            let ours = self.translation.of(record).filter(|ours| ours.key != 0);
            let Some(ours) = ours else {
                news.unknown += 1;
                continue;
            };
            // What this node knows of what it serves is newer.
            let group = lease::index(ours.group) as usize;
            let yields = !serving.get(group).is_some_and(|group| group.active);
            let Record { state, left, .. } = *record;
            let flow = (ours.key, (ours.backend, state, left), yields);
            match self.enter_one(flow, now) {
                Entered::NoRoom => crowded.push(flow),
                entered => news.note(entered),
            }
        }
        if !crowded.is_empty() {
            self.make_room(&crowded, now);
            crowded.into_iter().for_each(|flow| news.note(self.enter_one(flow, now)));
        }
        news.records = records.len() as u64;
        self.publish(&news, pass);
        Ok(())
    }

    fn enter_one(&mut self, (key, flow, yields): Heard, now: u16) -> Entered {
        let entered = self.common.changes.enter(key, flow, now, yields);
        self.comparison.note(&self.common.changes, key);
        entered
    }

    /// Has other flows make room for these, as far as they can.
    fn make_room(&mut self, crowded: &[Heard], now: u16) {
        let changes = &self.common.changes;
        match changes.make_room(crowded.iter().map(|(key, ..)| *key), now) {
            // Where they are now they were not told.
            Ok(moved) => moved.into_iter().for_each(|key| self.comparison.note(changes, key)),
            Err(error) => tracing::debug!(%error, "no flow makes room for another"),
        }
    }

    fn publish(&mut self, news: &Inward, pass: bool) {
        if news.no_room > 0 {
            self.full.get_or_insert_with(Instant::now);
        }
        self.inward.send_modify(|inward| inward.add(news, pass));
    }
}

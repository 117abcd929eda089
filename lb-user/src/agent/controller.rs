//! The single writer of the maps: waits for signals, the network, the packet
//! path and time, asks the core what to do, and does it.
//!
//! Nothing that goes wrong here ends forwarding: the maps and links are
//! pinned, and a change that fails leaves the old generation in force.

mod answer;
mod change;
mod explain;
mod figures;
mod flows;
mod local;
mod outlook;
mod programs;
mod shared;
mod source;
mod state;
mod view;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::{JoinHandle, yield_now},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::state::{Beginning, Origin, State};
pub use self::{source::Source, view::Member};
use super::{
    admin::{self, ListenError, Peer, Refused},
    disk::Disk,
    ha, metrics,
    probe::{self, Prober},
    quic,
    store::{Store, StoreError},
    thread::Thread,
};
use crate::{
    api,
    config::{self, Loaded, overlay::EditError},
    core::{edit::Edits, plan::CapacityError},
    dataplane::{attach::AttachError, load::LoadError, pins::PinError, probe::ProbeError},
    sys::{descriptors, link, route},
};

/// How often interfaces are looked after, a share of the affinity table is
/// swept, and handshakes and flows are counted.
const TICK: Duration = Duration::from_secs(1);

/// How long a disk that did not answer is given at the end.
const LAST: Duration = Duration::from_secs(1);

const NOT_ESTABLISHED: &str = "cannot keep that what is served here stays";

/// The agent cannot start, or refuses a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`link::Error`].
    #[error(transparent)]
    Link(#[from] link::Error),
    /// See [`route::Error`].
    #[error(transparent)]
    Route(#[from] route::Error),
    /// See [`ha::Error`].
    #[error(transparent)]
    Ha(#[from] ha::Error),
    /// See [`PinError`].
    #[error(transparent)]
    Pins(#[from] PinError),
    /// See [`LoadError`].
    #[error(transparent)]
    Load(#[from] LoadError),
    /// See [`AttachError`].
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// See [`ProbeError`].
    #[error(transparent)]
    Probes(#[from] ProbeError),
    /// See [`CapacityError`].
    #[error("the configuration does not fit the data plane")]
    Capacity(#[from] CapacityError),
    /// See [`quic::KeyError`].
    #[error(transparent)]
    QuicKey(#[from] quic::KeyError),
    /// A map could not be read or written.
    #[error("cannot read or write the data plane's maps")]
    Maps(#[source] io::Error),
    /// The key cannot change while the data plane is loaded.
    #[error(
        "`{0}` cannot change while the data plane is loaded, expected its old value: restart the \
         agent after `lb detach`, which ends all flows"
    )]
    Fixed(&'static str),
    /// The key cannot change while the agent runs.
    #[error("`{0}` cannot change while the agent runs, expected its old value: restart the agent")]
    Started(&'static str),
    /// See [`ListenError`].
    #[error(transparent)]
    Admin(#[from] ListenError),
    /// See [`metrics::ListenError`].
    #[error(transparent)]
    Metrics(#[from] metrics::ListenError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`EditError`].
    #[error("the edits in `node.state_dir` do not fit the configuration file")]
    Edits(#[from] EditError),
    /// Some interfaces cannot be attached to again, each with its reason.
    #[error("{0}")]
    Interfaces(String),
    /// The process cannot wait for its events.
    #[error("cannot wait for signals and events")]
    Events(#[source] io::Error),
}

impl Error {
    /// Whether something else is to be asked for: nothing went wrong.
    fn is_operators(&self) -> bool {
        match self {
            Self::Capacity(_)
            | Self::QuicKey(_)
            | Self::Fixed(_)
            | Self::Started(_)
            | Self::Link(link::Error::NoSuchName(_)) => true,
            Self::Attach(error) => error.is_operators(),
            _ => false,
        }
    }

    /// What to do about it, beside what the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Admin(error) => error.hint(),
            Self::Ha(error) => error.hint(),
            Self::Metrics(error) => error.hint(),
            Self::QuicKey(error) => Some(error.hint()),
            Self::Edits(_) => {
                Some("put the file right, or start once with `lb agent --discard-edits`".to_owned())
            }
            _ => None,
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT; the data plane stays. `file` is
/// what `source` says; `log_level` is the level of the data plane's own log, 0
/// for none.
///
/// # Errors
/// The data plane cannot be loaded, configured or attached. Where this
/// process made it, it is removed again.
pub async fn run(file: Loaded, source: Source, log_level: u8) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Events)?;
    let (store, found) = Store::open(&file.model.node.state_dir)?;
    let mut kept = found.clone();
    let (file, direction) = source::confirmed(file, &mut kept, &source);
    if source.discard_edits {
        kept.edits = Edits::default();
    }
    let discards = kept.edits != found.edits;
    let file = shared::begin(file, &mut kept, &source)?;
    let mut origin = Origin { file: file.into(), edits: kept.edits.clone() };
    origin.edits.expire(view::unix_now());
    let model = origin.model()?;
    for surprise in config::surprise::surprises(&model) {
        tracing::warn!("{surprise}");
    }
    for difference in origin.edits.describe(&origin.file.model) {
        tracing::info!("edited: {difference}");
    }
    for lack in local::lacks(&model).await {
        tracing::warn!("{lack}");
    }
    let (mut calls, _server) = admin::serve(&model.admin)?;
    let (mut asks, _metrics) = metrics::serve(model.admin.http).await?;
    let probing = Thread::start("probes").map_err(Error::Events)?;
    let descriptors = descriptors::raise().map_err(Error::Events)?;
    let (prober, mut probes) = Prober::new(probing.handle(), probe::most_at_once(descriptors));
    let pair = match &model.ha {
        Some(ha) => Some(ha::Candidate::new(&model.node, ha).await?),
        None => None,
    };
    let place_seed = pair.as_ref().map(ha::Candidate::place_seed);
    let disk = Disk::new(store, found.clone()).map_err(Error::Events)?;
    let beginning = Beginning { source, origin, direction, disk, kept: found, place_seed, prober };
    let (mut state, mut network) = State::start(beginning, model, log_level).await?;
    let joined = pair.map(|pair| pair.join(state.flows(), Arc::clone(&state.data_plane.leases)));
    let (mut heartbeats, mut sharing) = (None, None);
    if let Some((pair, driving, shares)) = joined {
        (state.ha, heartbeats, sharing) = (Some(pair), Some(driving), shares);
    }
    let (mut notices, _log) = state.listen(log_level).map_err(Error::Events)?;
    if let Err(error) = state.forget(kept, discards).await {
        tracing::error!(error = chain(&error), "what is forgotten is still on disk");
    }
    if let Some(sharing) = &sharing {
        state.begin_sharing(sharing);
    }
    let mut roles = state.ha.as_ref().map(ha::Member::roles);
    let mut following = true;
    let (mut attaching, mut sweeping) = (Complaint::default(), Complaint::default());
    let (mut weighing, mut mending) = (Complaint::default(), Complaint::default());
    let (mut timing, mut establishing) = (Complaint::default(), Complaint::default());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (counted, mut counts) = mpsc::channel::<Vec<u32>>(1);
    let (listed, mut endings) = mpsc::channel(1);
    loop {
        let unconfirmed = state.unconfirmed.as_ref().map(|reload| reload.until);
        tokio::select! {
            order = signals.next() => match order {
                Order::End => break,
                Order::Reload => {
                    let order = api::Reload::default();
                    let done = state.reload(&order, Peer::own(), &mut network).await;
                    state.finish(done, tell_of_reload);
                }
            },
            changed = network.changed(), if following => {
                following = changed.is_ok();
                if !following {
                    tracing::error!(
                        "the network is not followed any more, forwarding goes on with what is \
                         known of it: restart the agent"
                    );
                    continue;
                }
                let now = network.borrow_and_update().clone();
                let done = state.look_after_interfaces().await;
                attaching.report(done, "cannot look after the interfaces");
                report(state.follow(now).await, "cannot follow a change of the network");
            }
            told = notices.next() => {
                state.heed(&told);
                // Under a flood there is always another one: signals and
                // the network get their turn.
                yield_now().await;
            }
            Some(event) = probes.recv() => {
                state.observe(event);
                // What many probes found at once is one change of weights.
                while let Ok(event) = probes.try_recv() {
                    state.observe(event);
                }
                weighing.report(state.reweigh(false).await, "cannot change weights");
            }
            Some(heard) = heard(&mut sharing) => state.hear(heard, &mut network).await,
            Some(call) = calls.recv() => state.answer(call, &mut network).await,
            Some(ask) = asks.recv() => state.answer_reader(ask),
            () = sleep_until(state.next_wake()) => {
                state.expire(&mut network).await;
                weighing.report(state.wake(&listed).await, "cannot change weights");
            }
            Some(unix) = endings.recv() => {
                weighing.report(state.end_drains(unix).await, "cannot change weights");
            }
            () = at(unconfirmed) => state.take_back(&mut network).await,
            // A peer may come the moment after.
            () = changed(&mut roles) => establishing.report(state.establish().await, NOT_ESTABLISHED),
            // Whoever starts the agent again has it serve again.
            () = ended(&mut heartbeats) => return Err(ha::Error::Ended.into()),
            Some(flows) = counts.recv() => state.take_flows(&flows),
            _ = ticks.tick() => {
                let done = state.look_after_interfaces().await;
                attaching.report(done, "cannot look after the interfaces");
                state.look_after_tables();
                weighing.report(state.reweigh(false).await, "cannot change weights");
                mending.report(state.mend().await, "cannot finish a change yet");
                state.give_back_memory();
                state.keep_again(Duration::ZERO).await;
                establishing.report(state.establish().await, NOT_ESTABLISHED);
                sweeping.report(state.sweep(), "cannot sweep the affinity table");
                timing.report(state.take_handshakes(), "cannot tell how long handshakes take");
                if state.wants_flows() {
                    state.count_flows(counted.clone());
                }
            }
        }
    }
    // Nobody would be there to do it in time.
    state.take_back(&mut network).await;
    if state.unconfirmed.is_some() {
        tracing::error!("the reload that was not confirmed is in force until an agent starts");
    }
    match state.ha.take() {
        Some(pair) => tell_of_leave(pair.leave().await),
        None => tracing::info!("the agent ends, forwarding goes on"),
    }
    state.keep_again(LAST).await;
    Ok(())
}

/// Waits for a moment, for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for what the peer says of the configuration, for ever if it is not shared.
async fn heard(sharing: &mut Option<ha::Sharing>) -> Option<ha::Heard> {
    match sharing {
        Some(sharing) => sharing.heard.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until another role is taken, or the peer comes or goes, for ever in no pair.
async fn changed(roles: &mut Option<watch::Receiver<api::HaSummary>>) {
    let gone = match roles {
        Some(roles) => roles.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending::<()>().await;
    }
}

/// Waits for the end of a task, for ever if there is none.
async fn ended(task: &mut Option<JoinHandle<()>>) {
    match task {
        // That it panicked was told where it did.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

fn tell_of_leave(left: ha::Left) {
    match left {
        ha::Left::Served => tracing::info!("the agent ends, the peer serves its groups"),
        ha::Left::Unserved => {
            tracing::warn!("the agent ends, and the peer does not serve all of its groups yet");
        }
        ha::Left::Alone => {
            tracing::warn!("the agent ends, and there is no peer: nobody serves its groups");
        }
    }
}

fn tell_of_reload(done: Result<api::Done, Refused>) {
    match done {
        Ok(done) => {
            for note in done.notes {
                tracing::info!("{note}");
            }
        }
        Err(Refused { refusal, .. }) => {
            for mistake in refusal.mistakes {
                tracing::error!("{mistake}");
            }
            let error = refusal.error;
            tracing::error!(error, "the new configuration is refused, the old one stays in force");
        }
    }
}

fn report(done: Result<(), Error>, what: &str) {
    if let Err(error) = done {
        tracing::error!(error = chain(&error), "{what}");
    }
}

/// The last failure of something that is tried at every tick: told when it
/// begins or changes, not once a second.
#[derive(Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn report(&mut self, done: Result<(), Error>, what: &str) {
        let error = done.err().map(|error| chain(&error));
        if let Some(error) = error.as_ref().filter(|_| error != self.0) {
            tracing::error!(error, "{what}");
        }
        self.0 = error;
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::End,
            _ = self.interrupt.recv() => Order::End,
            _ = self.reload.recv() => Order::Reload,
        }
    }
}

/// What a signal means.
enum Order {
    End,
    Reload,
}

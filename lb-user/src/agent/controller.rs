//! The single writer of the maps: waits for signals, the network, the packet
//! path and time, asks the core what to do, and does it.
//!
//! Nothing that goes wrong here ends forwarding: the maps and links are
//! pinned, and a change that fails leaves the old generation in force.

mod state;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::yield_now,
    time::{MissedTickBehavior, interval},
};

use self::state::State;
use crate::{
    core::{model::Model, nexthop::Network, plan::CapacityError},
    dataplane::{attach::AttachError, load::LoadError, pins::PinError},
    sys::{link, route},
};

/// How often interfaces are looked after, and a share of the affinity table
/// is swept.
const TICK: Duration = Duration::from_secs(1);

/// The agent cannot start, or refuses a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`link::Error`].
    #[error(transparent)]
    Link(#[from] link::Error),
    /// See [`route::Error`].
    #[error(transparent)]
    Route(#[from] route::Error),
    /// See [`PinError`].
    #[error(transparent)]
    Pins(#[from] PinError),
    /// See [`LoadError`].
    #[error(transparent)]
    Load(#[from] LoadError),
    /// See [`AttachError`].
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// See [`CapacityError`].
    #[error("the configuration does not fit the data plane")]
    Capacity(#[from] CapacityError),
    /// A map could not be read or written.
    #[error("cannot read or write the data plane's maps")]
    Maps(#[source] io::Error),
    /// The key cannot change while the data plane is loaded.
    #[error(
        "`{0}` cannot change while the data plane is loaded, expected its old value: restart the \
         agent after `lb detach`, which ends all flows"
    )]
    Fixed(&'static str),
    /// The new configuration is bad.
    #[error("{0}")]
    Configuration(String),
    /// Some interfaces cannot be attached to again, each with its reason.
    #[error("{0}")]
    Interfaces(String),
    /// The process cannot wait for its events.
    #[error("cannot wait for signals and events")]
    Events(#[source] io::Error),
}

/// Runs the agent until SIGTERM or SIGINT; the data plane stays. `reload`
/// reads the configuration again for SIGHUP; `log_level` is the level of the
/// data plane's own log, 0 for none.
///
/// # Errors
/// The data plane cannot be loaded, configured or attached. Where this
/// process made it, it is removed again.
pub async fn run(
    model: Model,
    reload: impl Fn() -> Result<Model, String>,
    log_level: u8,
) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Events)?;
    let (mut state, mut network) = State::start(model, log_level).await?;
    let (mut questions, _log) = state.listen(log_level).map_err(Error::Events)?;
    let mut following = true;
    let (mut attaching, mut sweeping) = (Complaint::default(), Complaint::default());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::End => break,
                Order::Reload => reload_once(&mut state, &mut network, &reload).await,
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
            asked = questions.next() => {
                state.resolve(&asked);
                // Under a flood there is always another question: signals and
                // the network get their turn.
                yield_now().await;
            }
            _ = ticks.tick() => {
                let done = state.look_after_interfaces().await;
                attaching.report(done, "cannot look after the interfaces");
                state.look_after_tables();
                sweeping.report(state.sweep(), "cannot sweep the affinity table");
            }
        }
    }
    tracing::info!("the agent ends, forwarding goes on");
    Ok(())
}

async fn reload_once(
    state: &mut State,
    network: &mut watch::Receiver<Arc<Network>>,
    reload: &impl Fn() -> Result<Model, String>,
) {
    let done = match reload() {
        Ok(model) => state.reload(model, network).await,
        Err(text) => Err(Error::Configuration(text)),
    };
    report(done, "the new configuration is refused, the old one stays in force");
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
fn chain(error: &dyn std::error::Error) -> String {
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

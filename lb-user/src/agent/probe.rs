//! Probes: asks every backend at its times whether it serves, and tells what
//! it found. What follows from that is `core/health.rs`'s business.
//!
//! Each target has a task of its own. Between its probes that costs a timer and
//! some hundred bytes. All tasks share a thread, which does nothing else.

mod attempt;
mod dns;
mod exec;
mod http;
mod line;
mod peer;
mod post;
mod reason;
mod schedule;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

use std::{collections::BTreeMap, mem, net::IpAddr, sync::Arc};

use lb_common::addr;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

pub(super) use self::exec::Group;
use self::{
    attempt::Attempt,
    post::{Found, Urgency},
    schedule::Schedule,
    tls::Configs,
    trouble::Troubles,
};
use crate::core::{
    health::Observation,
    model::health::{Health, Probe, Tls},
    plan::identity::BackendIdentity,
};

/// Observations that wait for the controller. A target whose observation finds
/// no room waits with it and is not probed meanwhile, so none is lost.
const WAITING: usize = 1024;

/// Probes that may be in flight at any time however few targets there are.
const LEAST_AT_ONCE: usize = 64;

/// Descriptors that the agent needs besides those of probes.
const OTHER_DESCRIPTORS: u64 = 256;

/// Descriptors that a probe needs at the most: a program's.
const DESCRIPTORS: u64 = 4;

/// How many probes may be in flight in a process that may have so many
/// descriptors.
#[must_use]
pub fn most_at_once(descriptors: u64) -> usize {
    let most = descriptors.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS;
    usize::try_from(most).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

/// Who is probed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which backend.
    pub key: BackendIdentity,
    /// Where it is probed.
    pub address: IpAddr,
    /// The port probed; `None` only for `exec` probes.
    pub port: Option<u16>,
    /// How and how often.
    pub health: Health,
    /// "service/backend", for programs.
    pub name: String,
    /// `SO_MARK` of the probe's sockets, which needs CAP_NET_ADMIN: its packets
    /// go to the service's VIP, see [`lb_common::probe`]. 0: none, they go to
    /// `address`.
    pub mark: u32,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which backend.
    pub key: BackendIdentity,
    /// By one probe.
    pub observation: Observation,
}

/// Probes all targets. Dropping it ends all probes.
pub struct Prober {
    running: BTreeMap<BackendIdentity, Running>,
    configs: Configs,
    permits: Arc<Semaphore>,
    /// Permits there are, free or not.
    at_once: usize,
    most_at_once: usize,
    finds: mpsc::Sender<Found>,
    troubles: Troubles,
    runtime: Handle,
    /// Where the grid of probes begins.
    epoch: Instant,
}

impl Prober {
    /// Without targets; probes run on `runtime`.
    ///
    /// As many probes may be in flight as there are when no target answers, so
    /// that in an outage none has to wait for another, but never more than
    /// `most_at_once`. Those that must wait have their turns in the order in
    /// which they were due.
    #[must_use]
    pub fn new(runtime: Handle, most_at_once: usize) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(WAITING);
        let (finds, found) = mpsc::channel(WAITING);
        runtime.spawn(post::deliver(found, events));
        let prober = Self {
            running: BTreeMap::new(),
            configs: Configs::new(runtime.clone()),
            permits: Arc::new(Semaphore::new(0)),
            at_once: 0,
            most_at_once,
            finds,
            troubles: Troubles::default(),
            runtime,
            epoch: Instant::now(),
        };
        (prober, receiver)
    }

    /// From now on these are the targets, keys unique. Those that were targets
    /// before keep their times; those that are changed begin anew; the others
    /// end, a probe in flight along with them. What was found before may still
    /// be on its way to the receiver.
    pub fn set(&mut self, targets: Vec<Target>) {
        let mut before = mem::take(&mut self.running);
        let mut fresh = Vec::new();
        for target in targets {
            match before.remove(&target.key) {
                Some(running) if running.target == target => {
                    self.running.insert(target.key, running);
                }
                _ => {
                    let attempt = Attempt::new(&target, &mut self.configs);
                    fresh.extend(attempt.map(|attempt| (target, attempt)));
                }
            }
        }
        let together = fresh.len();
        for (target, attempt) in fresh {
            self.running.insert(target.key, self.start(target, attempt, together));
        }
        self.configs.keep(self.running.values().filter_map(|running| running.target.tls()));
        self.make_room();
    }

    /// Lets as many probes be in flight as these targets need.
    fn make_room(&mut self) {
        let healths = self.running.values().map(|running| &running.target.health);
        let needed = schedule::at_once(healths).max(LEAST_AT_ONCE);
        let wanted = needed.min(self.most_at_once);
        if wanted < needed && wanted != self.at_once {
            tracing::warn!(
                needed,
                possible = wanted,
                "in an outage probes will have to wait for each other: raise the limit of open \
                 files (`ulimit -Hn`, `LimitNOFILE`)"
            );
        }
        if wanted > self.at_once {
            self.permits.add_permits(wanted - self.at_once);
            self.at_once = wanted;
        } else {
            // Those in use are left for the next time.
            self.at_once -= self.permits.forget_permits(self.at_once - wanted);
        }
    }

    /// Starts a target, one of `together`.
    fn start(&self, target: Target, attempt: Attempt, together: usize) -> Running {
        let (key, interval) = (target.key, target.health.interval);
        let seed = schedule::seed(&key.bytes());
        let first = Instant::now() + schedule::first(seed, together, interval);
        let mut schedule = Schedule::new(first, &target.health, seed);
        let (permits, finds) = (self.permits.clone(), self.finds.clone());
        let (troubles, mut trouble) = (self.troubles.clone(), None);
        let (mut urgency, epoch) = (Urgency::new(target.health.rise), self.epoch);
        let task = self.runtime.spawn(async move {
            loop {
                let due = schedule::on_grid(schedule.due(), epoch, interval);
                sleep_until(due).await;
                let Ok(permit) = permits.acquire().await else { return };
                let late = due.elapsed();
                let observation = attempt.make((late > interval / 10).then_some(late)).await;
                drop(permit);
                trouble = troubles.after(&observation.outcome, trouble);
                let urgent = urgency.of(&observation);
                let event = Event { key, observation };
                if finds.send(Found { event, urgent }).await.is_err() {
                    return;
                }
                schedule.advance(Instant::now());
            }
        });
        Running { target, task }
    }
}

impl Target {
    /// The settings of TLS that it is probed with.
    fn tls(&self) -> Option<&Tls> {
        match &self.health.probe {
            Probe::Http(http) => http.tls.as_ref(),
            _ => None,
        }
    }

    /// The VIP that it is probed for.
    fn vip(&self) -> Option<IpAddr> {
        (self.mark != 0).then(|| addr::from_bytes(self.key.service.vip))
    }
}

/// A target and the task that probes it, which ends with it.
struct Running {
    target: Target,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

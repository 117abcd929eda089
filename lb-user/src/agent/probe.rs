//! Probes: asks every backend at its times whether it serves, and tells what
//! it found. What follows from that is `core/health.rs`'s business.
//!
//! Each target has a task of its own on the agent's one thread. Between its
//! probes that costs a timer and some hundred bytes.

mod attempt;
mod dns;
mod exec;
mod http;
mod line;
mod peer;
mod reason;
mod schedule;
#[cfg(test)]
mod tests;
mod tls;

use std::{collections::BTreeMap, mem, net::IpAddr, sync::Arc};

use lb_common::addr;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use self::{attempt::Attempt, schedule::Schedule, tls::Configs};
use crate::core::{
    health::Observation,
    model::health::{Health, Probe, Tls},
    plan::identity::BackendIdentity,
};

/// Observations that wait for the controller. A target whose observation finds
/// no room waits with it and is not probed meanwhile, so none is lost.
const WAITING: usize = 1024;

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
    events: mpsc::Sender<Event>,
}

impl Prober {
    /// Without targets. At most `most_at_once` probes are in flight at any
    /// time; those that must wait have their turns in the order in which they
    /// were due.
    #[must_use]
    pub fn new(most_at_once: usize) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(WAITING);
        let permits = Arc::new(Semaphore::new(most_at_once));
        let prober =
            Self { running: BTreeMap::new(), configs: Configs::default(), permits, events };
        (prober, receiver)
    }

    /// From now on these are the targets, keys unique. Those that were targets
    /// before keep their times; those that are changed, or whose `ca_file` is,
    /// begin anew; the others end, a probe in flight along with them. What was
    /// found before may still be on its way to the receiver.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn set(&mut self, targets: Vec<Target>) {
        let renewed = self.configs.renew();
        let mut before = mem::take(&mut self.running);
        let mut fresh = Vec::new();
        for target in targets {
            match before.remove(&target.key) {
                Some(running) if running.target == target && !target.trusts_any(&renewed) => {
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
    }

    /// Starts a target, one of `together`.
    fn start(&self, target: Target, attempt: Attempt, together: usize) -> Running {
        let (key, interval) = (target.key, target.health.interval);
        let seed = schedule::seed(&key.bytes());
        let first = Instant::now() + schedule::first(seed, together, interval);
        let mut schedule = Schedule::new(first, &target.health, seed);
        let (permits, events) = (self.permits.clone(), self.events.clone());
        let task = tokio::spawn(async move {
            loop {
                sleep_until(schedule.due()).await;
                let Ok(permit) = permits.acquire().await else { return };
                let late = schedule.due().elapsed();
                let observation = attempt.make((late > interval / 10).then_some(late)).await;
                drop(permit);
                if events.send(Event { key, observation }).await.is_err() {
                    return;
                }
                schedule.advance(Instant::now());
            }
        });
        Running { target, task }
    }
}

impl Target {
    /// The VIP that it is probed for.
    fn vip(&self) -> Option<IpAddr> {
        (self.mark != 0).then(|| addr::from_bytes(self.key.service.vip))
    }

    /// Whether it is probed with one of these settings of TLS.
    fn trusts_any(&self, settings: &[Tls]) -> bool {
        match &self.health.probe {
            Probe::Http(http) => http.tls.as_ref().is_some_and(|tls| settings.contains(tls)),
            _ => false,
        }
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

//! From probes, time and counts to weights in force.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};

use super::{super::Error, State};
use crate::{
    agent::{controller::view::unix_now, probe::Event},
    core::{
        model::Policy,
        plan::{
            identity::{BackendIdentity, ServiceIdentity},
            ids::present_backends,
        },
    },
};

/// How long nothing at all may be due.
const FAR: Duration = Duration::from_secs(3600);

impl State {
    /// Time since the agent started.
    pub(in super::super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When [`Self::wake`] is to be called next.
    pub(in super::super) fn next_wake(&self) -> Instant {
        let now = self.now();
        let fleet = self.fleet.next_wake(now, unix_now());
        let denials = self.edits.next_expiry();
        let denials = denials.map(|at| now + Duration::from_secs(at.saturating_sub(unix_now())));
        let next = fleet.into_iter().chain(denials).min().unwrap_or(now + FAR);
        self.started + next.max(now + Duration::from_millis(1))
    }

    /// Does what is due: slow starts, policies, drains that end.
    pub(in super::super) async fn wake(&mut self) -> Result<(), Error> {
        let unix = unix_now();
        for who in self.fleet.due_drains(unix) {
            tracing::info!(backend = self.name_of(&who), "the drain is over, its flows end");
        }
        self.fleet.tick(self.now(), unix);
        self.reweigh(false).await
    }

    /// What an earlier agent found down does not serve until it is probed.
    pub(super) fn presume_down(&mut self) {
        let (now, outline) = (self.now(), self.data_plane.tables.outline());
        for (who, id) in present_backends(&outline) {
            if !outline.is_serving(id) {
                self.fleet.presume_down(&who, now);
            }
        }
        self.fleet.tick(now, unix_now());
    }

    /// Takes in what a probe found; weights follow with [`Self::reweigh`].
    pub(in super::super) fn observe(&mut self, event: Event) {
        let now = self.now();
        let Event { key, observation } = event;
        let health = |state: &Self| state.fleet.backend(&key).map(|a| a.tracker.health());
        let before = health(self);
        self.fleet.observe(&key, observation, now);
        let after = health(self);
        if before != after {
            let reason = self.fleet.backend(&key).map(|account| account.tracker.reason());
            tracing::info!(backend = self.name_of(&key), health = ?after, reason, "health changed");
        }
    }

    /// Whether a policy wants to know how many flows there are.
    pub(in super::super) fn wants_flows(&self) -> bool {
        self.model.services.iter().any(|service| service.policy == Policy::LeastFlows)
    }

    /// Counts live flows beside the controller; [`Self::take_flows`] takes them.
    pub(in super::super) fn count_flows(&mut self, counted: mpsc::Sender<Vec<u32>>) {
        let Ok(now) = self.data_plane.now() else { return };
        let flows = Arc::clone(&self.data_plane.tables.flows);
        spawn_blocking(move || {
            // One count may wait; another one is not needed then.
            let _ = counted.try_send(flows.count(now));
        });
    }

    /// Takes in live flows by backend id.
    pub(in super::super) fn take_flows(&mut self, counts: &[u32]) {
        let ids = present_backends(&self.data_plane.tables.outline());
        for (who, id) in ids {
            let flows = counts.get(usize::from(id)).copied().unwrap_or(0);
            self.fleet.set_flows(&who, flows.into());
        }
    }

    /// "service/backend".
    fn name_of(&self, who: &BackendIdentity) -> String {
        let service = self.model.services.iter().find(|s| ServiceIdentity::of(s) == who.service);
        let backend = service.and_then(|service| {
            let mut backends = service.backends.iter();
            let backend = backends.find(|b| BackendIdentity::of(service, b) == *who)?;
            Some(format!("{}/{}", service.name, backend.name))
        });
        backend.unwrap_or_else(|| lb_common::addr::from_bytes(who.addr).to_string())
    }
}

//! From probes, time and counts to weights in force.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};

use super::{super::Error, State};
use crate::{
    agent::{
        controller::{
            chain,
            flows::Flows,
            view::{self, unix_now},
        },
        probe::Event,
    },
    api::FlowFilter,
    core::{
        fleet,
        handshake::Counted,
        model::Policy,
        plan::{
            identity::{BackendIdentity, ServiceIdentity},
            ids::present_backends,
        },
    },
    dataplane::flows::Keys,
};

/// How long nothing at all may be due.
const FAR: Duration = Duration::from_hours(1);

/// Flows listed when a drain is over.
const LISTED: u64 = 100;

impl State {
    /// Time since the agent started.
    pub(in super::super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When [`Self::wake`] is to be called next.
    pub(in super::super) fn next_wake(&self) -> Instant {
        let now = self.now();
        let fleet = self.fleet.next_wake(now, unix_now());
        let denials = self.origin.edits.next_expiry().map(|at| now + fleet::until(at, unix_now()));
        let denials = denials.map(|at| at.max(self.expire_again.unwrap_or_default()));
        let next = fleet.into_iter().chain(denials).min().unwrap_or(now + FAR);
        self.started + next.max(now + Duration::from_millis(1))
    }

    /// Does what is due: slow starts, policies, drains that end.
    pub(in super::super) async fn wake(&mut self) -> Result<(), Error> {
        let unix = unix_now();
        for who in self.fleet.due_drains(unix) {
            if let Err(error) = self.tell_of_flows_left(&who) {
                tracing::warn!(error = chain(&error), "cannot list the flows that end");
            }
        }
        self.fleet.tick(self.now(), unix);
        self.reweigh(false).await
    }

    /// Lists, beside the controller, the flows that a drain's end leaves
    /// without their backend.
    fn tell_of_flows_left(&mut self, who: &BackendIdentity) -> Result<(), Error> {
        let now = self.data_plane.now()?;
        let Some((service, backend)) = self.names_of(who) else { return Ok(()) };
        let outline = self.data_plane.tables.outline();
        let members = view::members(self, &outline, Some(&service)).map_err(Error::Maps)?;
        let flows = Flows::new(self, &outline, &members, now);
        let filter = FlowFilter {
            service: Some(service.clone()),
            backend: Some(backend.clone()),
            limit: Some(LISTED),
            ..FlowFilter::default()
        };
        spawn_blocking(move || {
            let left = flows.count(&filter);
            tracing::info!(service, backend, flows = left, "the drain is over, its flows end");
            for flow in flows.list(&filter) {
                let client = flow.client.map_or("?".to_owned(), |client| client.to_string());
                let (port, state, idle_s) = (flow.client_port, flow.state, flow.idle_s);
                tracing::info!(service, backend, client, port, state, idle_s, "flow left");
            }
        });
        Ok(())
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
        // While one count is made, or waits, another one is not needed.
        let Ok(place) = counted.try_reserve_owned() else { return };
        let Ok(now) = self.data_plane.now() else { return };
        let tables = &self.data_plane.tables;
        let (flows, keys) = (Arc::clone(&tables.flows), Keys::of(&tables.outline()));
        spawn_blocking(move || drop(place.send(flows.count(now, &keys))));
    }

    /// Takes in live flows by backend id.
    pub(in super::super) fn take_flows(&mut self, counts: &[u32]) {
        let ids = present_backends(&self.data_plane.tables.outline());
        for (who, id) in ids {
            let flows = counts.get(usize::from(id)).copied().unwrap_or(0);
            self.fleet.set_flows(&who, flows.into());
        }
    }

    /// Takes in what packets told of handshakes, for the services whose weights
    /// follow that.
    pub(in super::super) fn take_handshakes(&mut self) -> Result<(), Error> {
        let timed = self.model.services.iter().filter(|service| service.is_timed());
        let timed: BTreeSet<_> = timed.map(ServiceIdentity::of).collect();
        if timed.is_empty() {
            return Ok(());
        }
        let (now, tables) = (self.now(), &self.data_plane.tables);
        let ids = present_backends(&tables.outline());
        for (who, id) in ids.into_iter().filter(|(who, _)| timed.contains(&who.service)) {
            let stats = tables.kernel.stats(id).map_err(Error::Maps)?;
            let counted = Counted { handshakes: stats.handshakes, us: stats.handshake_us };
            self.fleet.count_handshakes(&who, counted, now);
        }
        Ok(())
    }

    /// "service/backend".
    fn name_of(&self, who: &BackendIdentity) -> String {
        match self.names_of(who) {
            Some((service, backend)) => format!("{service}/{backend}"),
            None => lb_common::addr::from_bytes(who.addr).to_string(),
        }
    }

    /// Names of a backend's service and of itself.
    fn names_of(&self, who: &BackendIdentity) -> Option<(String, String)> {
        let mut services = self.model.services.iter();
        let service = services.find(|service| ServiceIdentity::of(service) == who.service)?;
        let mut backends = service.backends.iter();
        let backend = backends.find(|backend| BackendIdentity::of(service, backend) == *who)?;
        Some((service.name.clone(), backend.name.clone()))
    }
}

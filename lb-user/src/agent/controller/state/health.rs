//! From probes, time and counts to weights in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::service::quota;
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
    core::{
        fleet,
        handshake::Counted,
        model::{Policy, Service},
        plan::{
            Snapshot,
            identity::{BackendIdentity, ServiceIdentity},
            ids::present_backends,
        },
        quota::usage,
        weight::AdminState,
    },
    dataplane::flows::Keys,
};

/// How long nothing at all may be due.
const FAR: Duration = Duration::from_hours(1);

/// Flows of a backend that are listed when its drain is over.
const LISTED: usize = 100;

impl State {
    /// Time since the agent started.
    pub(in super::super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When [`Self::wake`] is to be called next.
    pub(in super::super) fn next_wake(&self) -> Instant {
        let now = self.now();
        // Drains wait while the flows that they leave are listed.
        let fleet = self.fleet.next_wake(now, if self.listing { 0 } else { unix_now() });
        let denials = self.origin.edits.next_expiry().map(|at| now + fleet::until(at, unix_now()));
        let denials = denials.map(|at| at.max(self.expire_again.unwrap_or_default()));
        let next = fleet.into_iter().chain(denials).min().unwrap_or(now + FAR);
        self.started + next.max(now + Duration::from_millis(1))
    }

    /// Does what is due: slow starts, policies, drains that end. The flows
    /// that these leave without a backend are listed first, beside the
    /// controller; [`Self::end_drains`] follows with what `listed` says.
    pub(in super::super) async fn wake(&mut self, listed: &mpsc::Sender<u64>) -> Result<(), Error> {
        let unix = unix_now();
        let mut ending = unix;
        if self.listing {
            ending = 0;
        } else if let over = self.fleet.due_drains(unix)
            && !over.is_empty()
        {
            match self.list_flows_left(&over, unix, listed.clone()) {
                Ok(()) => (self.listing, ending) = (true, 0),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot list the flows that end");
                }
            }
        }
        self.fleet.tick(self.now(), ending);
        self.reweigh(false).await
    }

    /// Ends the drains that were over by this UNIX second.
    pub(in super::super) async fn end_drains(&mut self, unix: u64) -> Result<(), Error> {
        self.listing = false;
        self.fleet.tick(self.now(), unix);
        self.reweigh(false).await
    }

    fn list_flows_left(
        &mut self,
        over: &[BackendIdentity],
        unix: u64,
        listed: mpsc::Sender<u64>,
    ) -> Result<(), Error> {
        let (now, outline) = (self.data_plane.now()?, self.data_plane.tables.outline());
        let members = view::members(self, &outline, None).map_err(Error::Maps)?;
        let flows = Flows::new(self, &outline, &members, now);
        let ids = present_backends(&outline);
        let names = |who| Some((*ids.get(who)?, self.name_of(who)));
        let names: BTreeMap<_, _> = over.iter().filter_map(names).collect();
        tokio::spawn(async move {
            // It takes no turn: who asks for much puts no drain's end off.
            let told = spawn_blocking(move || {
                let ids = names.keys().copied().collect();
                for (id, (left, some)) in flows.left(&ids, LISTED) {
                    let backend = &names[&id];
                    tracing::info!(backend, flows = left, "the drain is over, its flows end");
                    for flow in some {
                        let client = flow.client.map_or("?".to_owned(), |ip| ip.to_string());
                        let (port, state, idle_s) = (flow.client_port, flow.state, flow.idle_s);
                        tracing::info!(backend, client, port, state, idle_s, "flow left");
                    }
                }
            });
            // Listed or not, the drains end.
            let _ = told.await;
            let _ = listed.send(unix).await;
        });
        Ok(())
    }

    /// What an earlier agent found down does not serve until it is probed; who
    /// is ordered not to serve need not be down.
    pub(super) fn presume_down(&mut self) {
        let (now, unix, outline) = (self.now(), unix_now(), self.data_plane.tables.outline());
        for (who, id) in present_backends(&outline) {
            let order = self.names_of(&who);
            let order =
                order.and_then(|(service, backend)| self.origin.edits.admin(&service, &backend));
            let ordered = match order {
                Some((AdminState::Maint, _)) => true,
                Some((AdminState::Drain, deadline)) => deadline.is_some_and(|at| at <= unix),
                _ => false,
            };
            if !outline.is_serving(id) && !ordered {
                self.fleet.presume_down(&who, now);
            }
        }
        self.fleet.tick(now, unix_now());
    }

    /// Takes in what a probe found; weights follow with [`Self::reweigh`].
    pub(in super::super) fn observe(&mut self, event: Event) {
        let now = self.now();
        let Event { key, observation } = event;
        self.tally.probes.entry(key.service).or_default().add(&observation.outcome);
        let health = |state: &Self| state.fleet.backend(&key).map(|a| a.tracker.health());
        let before = health(self);
        self.fleet.observe(&key, observation, now);
        let after = health(self);
        if before != after {
            let reason = self.fleet.backend(&key).map(|account| account.tracker.reason());
            tracing::info!(backend = self.name_of(&key), health = ?after, reason, "health changed");
        }
    }

    /// Whether a policy or a quota wants to know how many flows there are.
    pub(in super::super) fn wants_flows(&self) -> bool {
        let wants =
            |service: &Service| service.policy == Policy::LeastFlows || service.max_flows > 0;
        self.model.services.iter().any(wants)
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
        let outline = self.data_plane.tables.outline();
        for (who, id) in present_backends(&outline) {
            let flows = counts.get(usize::from(id)).copied().unwrap_or(0);
            self.fleet.set_flows(&who, flows.into());
        }
        self.fill(&outline, counts);
    }

    /// Has services that have as many flows as they may take no new ones.
    fn fill(&self, outline: &Snapshot, counts: &[u32]) {
        let Ok(now) = self.data_plane.now() else { return };
        for usage in usage(&self.model, outline, counts) {
            let (full, was) = (usage.is_full(), outline.services[&usage.id].full_until != 0);
            let (service, flows) = (&usage.service.name, usage.flows);
            if full && !was {
                tracing::warn!(service, flows, "`max_flows` is reached, new flows are refused");
            } else if was && !full {
                tracing::info!(service, flows, "new flows are taken again");
            }
            if full || was {
                let until = if full { quota::until(now) } else { 0 };
                self.data_plane.tables.set_full_until(usage.id, until);
            }
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

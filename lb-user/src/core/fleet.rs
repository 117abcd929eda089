//! What the agent knows of its backends, and what follows for their weights:
//! the pure half of the driver that probes, counts flows and keeps time.
//!
//! Times called `now` count from the agent's start; deadlines of drains are in
//! UNIX seconds, because they outlive the agent.

mod pool;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::pool::{Pool, Seat};
use super::{
    handshake::Counted,
    health::{Observation, Tracker},
    model::Model,
    plan::identity::{BackendIdentity, ServiceIdentity},
    weight::{AdminState, ServiceState, Standing, Standings},
};

/// What the operator ordered of a backend, by names of service and backend:
/// its admin state, and when (UNIX seconds) a drain ends the flows that are
/// left. `None`: nothing, so it is ready.
pub type Orders<'a> = dyn Fn(&str, &str) -> Option<(AdminState, Option<u64>)> + 'a;

/// All backends of the configuration.
///
/// An observation that changes nothing costs a look-up, and so does a service
/// that a new generation leaves as it is. One that does costs as much as its
/// service has backends, and so does a step of a slow start;
/// a policy costs that once a second.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    zone: Option<String>,
    /// Shared with copies of the fleet until one of them changes.
    pools: BTreeMap<ServiceIdentity, Arc<Pool>>,
    standings: Standings,
    /// Services whose standings may differ from those taken.
    touched: BTreeSet<ServiceIdentity>,
    /// When which service has something to do.
    wakes: BTreeSet<(Duration, ServiceIdentity)>,
    /// Drains that have not ended their flows, by deadline.
    deadlines: BTreeSet<(u64, BackendIdentity)>,
    /// Of earlier generations, see [`Fleet::remember`].
    remembered: BTreeMap<ServiceIdentity, Arc<Pool>>,
}

/// Time left until a UNIX second. Nobody waits for more than a day at once,
/// whatever is written on the disk.
#[must_use]
pub fn until(at: u64, unix_now: u64) -> Duration {
    Duration::from_secs(at.saturating_sub(unix_now)).min(Duration::from_hours(24))
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// Health, reason, latency, report.
    pub tracker: &'a Tracker,
    /// What the operator ordered.
    pub admin: AdminState,
    /// When (UNIX seconds) its drain ends the flows that are left.
    pub deadline: Option<u64>,
    /// Live flows, as last set.
    pub flows: u64,
    /// Smoothed time of its handshakes with clients.
    pub handshake: Option<Duration>,
    /// What the data plane is to know.
    pub standing: Standing,
}

impl Fleet {
    /// Without backends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has backends that come back with the next generation keep what an
    /// earlier fleet knew of them.
    pub fn remember(&mut self, earlier: &Self) {
        self.remembered.clone_from(&earlier.pools);
    }

    /// Takes a new generation of the configuration: backends that stay keep
    /// what is known of them, also where their service has another address or
    /// mode now; those that left are forgotten, new ones begin with a slow
    /// start unless their service is new as well. A deadline that
    /// has passed takes effect with the next [`tick`](Self::tick).
    pub fn configure(&mut self, model: &Model, orders: &Orders<'_>, now: Duration) {
        let same_zone = self.zone == model.node.zone;
        self.zone.clone_from(&model.node.zone);
        let mut before = std::mem::take(&mut self.pools);
        let remembered = std::mem::take(&mut self.remembered);
        self.deadlines.clear();
        self.wakes.clear();
        let stay: BTreeSet<_> = model.services.iter().map(ServiceIdentity::of).collect();
        let moved: BTreeMap<_, _> = before
            .iter()
            .filter(|(identity, _)| !stay.contains(identity))
            .map(|(_, pool)| (pool.name().to_owned(), pool.clone()))
            .collect();
        for service in &model.services {
            let identity = ServiceIdentity::of(service);
            let known = before.remove(&identity).or_else(|| moved.get(&service.name).cloned());
            let stays = same_zone && known.as_ref().is_some_and(|pool| pool.is_of(service, orders));
            let earlier = remembered.get(&identity);
            let new = || earlier.cloned().unwrap_or_else(|| Pool::new(service).into());
            let mut pool = known.unwrap_or_else(new);
            if !stays {
                let pool = Arc::make_mut(&mut pool);
                for gone in pool.configure(service, earlier.map(Arc::as_ref), orders, now) {
                    self.standings.0.remove(&gone);
                }
            }
            self.deadlines.extend(pool.deadlines());
            self.wakes.extend(pool.wake().map(|at| (at, identity)));
            self.pools.insert(identity, pool);
            if !stays {
                self.weigh(&identity, now);
                self.publish(&identity);
            }
        }
        for (identity, pool) in before {
            for seat in pool.seats() {
                self.standings.0.remove(&seat.identity);
            }
            self.touched.insert(identity);
        }
    }

    /// Takes in what a probe found. Whether standings may have changed.
    pub fn observe(
        &mut self,
        key: &BackendIdentity,
        observation: Observation,
        now: Duration,
    ) -> bool {
        let seat = self.seat_mut(key);
        let changed = seat.is_some_and(|seat| seat.tracker.observe(observation, now));
        changed && self.weigh(&key.service, now)
    }

    /// Takes over from an earlier agent that a backend was down.
    pub fn presume_down(&mut self, key: &BackendIdentity, now: Duration) {
        let seat = self.seat_mut(key);
        if seat.is_some_and(|seat| seat.tracker.presume_down(now)) {
            self.weigh(&key.service, now);
        }
    }

    /// Says how many live flows a backend has; the next update of its
    /// service's policy looks at it.
    pub fn set_flows(&mut self, key: &BackendIdentity, flows: u64) {
        if let Some(seat) = self.seat_mut(key) {
            seat.flows = flows;
        }
    }

    /// Takes in what was counted of a backend's handshakes by `now`; the next
    /// update of its service's policy looks at it.
    pub fn count_handshakes(&mut self, key: &BackendIdentity, counted: Counted, now: Duration) {
        if let Some(seat) = self.seat_mut(key) {
            seat.handshakes.observe(counted, now);
        }
    }

    /// Does what is due: steps of slow starts, updates of policies, ends of
    /// drains. Whether standings may have changed.
    pub fn tick(&mut self, now: Duration, unix_now: u64) -> bool {
        let mut due = BTreeSet::new();
        while let Some(&(deadline, key)) = self.deadlines.first().filter(|(at, _)| *at <= unix_now)
        {
            self.deadlines.remove(&(deadline, key));
            if let Some(seat) = self.seat_mut(&key) {
                seat.ended = true;
            }
            due.insert(key.service);
        }
        due.extend(self.wakes.iter().take_while(|(at, _)| *at <= now).map(|(_, service)| *service));
        // All of them, whatever the first one says.
        due.iter().filter(|service| self.weigh(service, now)).count() > 0
    }

    /// Backends whose drain is due to end their flows; the next
    /// [`tick`](Self::tick) does it.
    #[must_use]
    pub fn due_drains(&self, unix_now: u64) -> Vec<BackendIdentity> {
        self.deadlines.iter().take_while(|(at, _)| *at <= unix_now).map(|(_, key)| *key).collect()
    }

    /// When [`tick`](Self::tick) has something to do next, if nothing else
    /// happens. A drain's end may come up to a second late.
    #[must_use]
    pub fn next_wake(&self, now: Duration, unix_now: u64) -> Option<Duration> {
        let wake = self.wakes.first().map(|(at, _)| *at);
        let left = |(at, _): &(u64, _)| now + until(*at, unix_now);
        wake.into_iter().chain(self.deadlines.first().map(left)).min()
    }

    /// Of every backend of the configuration.
    #[must_use]
    pub fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Services whose standings differ from those last taken, because a
    /// standing changed or a backend came or left. They count as taken from
    /// now on.
    pub fn take_changes(&mut self) -> BTreeSet<ServiceIdentity> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        touched.filter(|service| self.pool_mut(service).is_none_or(Pool::take)).collect()
    }

    /// What is known of a backend.
    #[must_use]
    pub fn backend(&self, key: &BackendIdentity) -> Option<Account<'_>> {
        let Seat { tracker, admin, deadline, flows, handshakes, standing, .. } =
            self.pools.get(&key.service)?.seat(key)?;
        let (admin, deadline, flows, standing) = (*admin, *deadline, *flows, *standing);
        let handshake = handshakes.latency();
        Some(Account { tracker, admin, deadline, flows, handshake, standing })
    }

    /// Whether a service has enough backends.
    #[must_use]
    pub fn service(&self, service: &ServiceIdentity) -> Option<ServiceState> {
        self.pools.get(service).map(|pool| pool.state())
    }

    fn pool_mut(&mut self, service: &ServiceIdentity) -> Option<&mut Pool> {
        self.pools.get_mut(service).map(Arc::make_mut)
    }

    fn seat_mut(&mut self, key: &BackendIdentity) -> Option<&mut Seat> {
        self.pool_mut(&key.service)?.seat_mut(key)
    }

    /// Weighs a service's backends anew. Whether standings changed.
    fn weigh(&mut self, service: &ServiceIdentity, now: Duration) -> bool {
        let Some(pool) = self.pools.get_mut(service).map(Arc::make_mut) else { return false };
        if let Some(at) = pool.wake() {
            self.wakes.remove(&(at, *service));
        }
        let changed = pool.weigh(self.zone.as_deref(), now);
        if let Some(at) = pool.wake() {
            self.wakes.insert((at, *service));
        }
        if changed {
            self.publish(service);
        }
        changed
    }

    /// Shows a service's standings.
    fn publish(&mut self, service: &ServiceIdentity) {
        let Some(pool) = self.pools.get(service) else { return };
        self.standings.0.extend(pool.seats().map(|seat| (seat.identity, seat.standing)));
        self.touched.insert(*service);
    }
}

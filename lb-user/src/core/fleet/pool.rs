//! The backends of one service.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Orders;
use crate::core::{
    handshake::Handshakes,
    health::Tracker,
    model::{Policy, Service},
    plan::identity::BackendIdentity,
    weight::{
        self, AdminState, Member, ServiceState, Standing, Weighed,
        policy::{self, Factor, Sample},
        ramp,
    },
};

/// A service and its backends.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    service: Service,
    /// In the order of the service.
    seats: Vec<Seat>,
    /// Where in `seats` a backend is.
    index: BTreeMap<BackendIdentity, usize>,
    state: ServiceState,
    /// When slow start changes a weight next.
    step: Option<Duration>,
    /// When the policy is to be asked next.
    policy_due: Option<Duration>,
    /// The standings last taken.
    taken: BTreeMap<BackendIdentity, Standing>,
}

/// A backend.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) identity: BackendIdentity,
    pub(super) tracker: Tracker,
    pub(super) admin: AdminState,
    pub(super) deadline: Option<u64>,
    /// Its drain has come to its deadline.
    pub(super) ended: bool,
    pub(super) flows: u64,
    pub(super) handshakes: Handshakes,
    pub(super) standing: Standing,
    up_since: Option<Duration>,
    factor: Factor,
}

impl Seat {
    /// A new backend; it is `warm` if it needs no slow start.
    fn new(identity: BackendIdentity, tracker: Tracker, warm: bool) -> Self {
        Self {
            identity,
            tracker,
            admin: AdminState::Ready,
            deadline: None,
            ended: false,
            flows: 0,
            handshakes: Handshakes::default(),
            standing: Standing { weight: 0, serving: warm },
            up_since: None,
            factor: Factor::ONE,
        }
    }

    /// Whoever did not serve at all and now does begins with a slow start.
    fn pace(&mut self, slow_start: Duration, now: Duration) {
        if self.member().serving() && !self.standing.serving {
            self.up_since = Some(now);
            // As of probes: how fast it was says nothing of how fast it will be.
            self.handshakes = Handshakes::default();
        }
        // What is over must not begin again with a longer slow start.
        if ramp::ramp(slow_start, self.up_since, now).next.is_none() {
            self.up_since = None;
        }
    }

    fn member(&self) -> Member {
        Member {
            // What a drain is at its end.
            admin: if self.ended { AdminState::Maint } else { self.admin },
            health: self.tracker.health(),
            report: self.tracker.report().unwrap_or_default(),
            up_since: self.up_since,
            factor: self.factor,
        }
    }

    /// An order that is repeated does not undo that its deadline has come.
    fn order(&mut self, order: (AdminState, Option<u64>)) {
        let (admin, deadline) = kept(order);
        if (self.admin, self.deadline) != (admin, deadline) {
            (self.admin, self.deadline, self.ended) = (admin, deadline, false);
        }
    }
}

/// Only a drain has a deadline.
fn kept((admin, deadline): (AdminState, Option<u64>)) -> (AdminState, Option<u64>) {
    (admin, deadline.filter(|_| admin == AdminState::Drain))
}

impl Pool {
    /// A service that is new; [`configure`](Self::configure) brings its backends.
    pub(super) fn new(service: &Service) -> Self {
        Self {
            service: Service { backends: Vec::new(), ..service.clone() },
            seats: Vec::new(),
            index: BTreeMap::new(),
            state: ServiceState::default(),
            step: None,
            policy_due: None,
            taken: BTreeMap::new(),
        }
    }

    /// Whether that is what it knows already.
    pub(super) fn is_of(&self, service: &Service, orders: &Orders<'_>) -> bool {
        self.service == *service
            && self.seats.iter().zip(&service.backends).all(|(seat, backend)| {
                let order = orders(&service.name, &backend.name).unwrap_or_default();
                (seat.admin, seat.deadline) == kept(order)
            })
    }

    /// Takes a new generation, and says which backends left. Of those that
    /// come, what an earlier pool knew is known.
    pub(super) fn configure(
        &mut self,
        service: &Service,
        earlier: Option<&Self>,
        orders: &Orders<'_>,
        now: Duration,
    ) -> BTreeSet<BackendIdentity> {
        let gone = if self.service == *service {
            BTreeSet::new()
        } else {
            self.rebuild(service, earlier, now)
        };
        for (seat, backend) in self.seats.iter_mut().zip(&service.backends) {
            seat.order(orders(&service.name, &backend.name).unwrap_or_default());
        }
        let moves = service.policy != Policy::Static && self.seats.len() > 1;
        self.policy_due = moves.then(|| self.policy_due.unwrap_or(now + policy::INTERVAL));
        gone
    }

    fn rebuild(
        &mut self,
        service: &Service,
        earlier: Option<&Self>,
        now: Duration,
    ) -> BTreeSet<BackendIdentity> {
        let before = std::mem::replace(&mut self.service, service.clone());
        let warm = !self.seats.iter().any(|seat| seat.standing.serving);
        // What answers at the same port of the same host is the same server,
        // also for another VIP or mode.
        let server = |who: &BackendIdentity| (who.addr, who.effective_port());
        let seats = std::mem::take(&mut self.seats).into_iter();
        let mut gone: BTreeSet<_> = seats.clone().map(|seat| seat.identity).collect();
        let mut stay: BTreeMap<_, _> = seats.map(|seat| (server(&seat.identity), seat)).collect();
        for backend in &service.backends {
            let identity = BackendIdentity::of(service, backend);
            gone.remove(&identity);
            let mut seat = stay
                .remove(&server(&identity))
                .or_else(|| earlier?.seat(&identity).cloned())
                .map(|seat| Seat { identity, ..seat })
                .unwrap_or_else(|| Seat::new(identity, Tracker::new(&service.health, now), warm));
            if before.health != service.health {
                seat.tracker.reconfigure(&service.health, now);
            }
            if before.policy != service.policy {
                seat.factor = Factor::ONE;
                seat.handshakes = Handshakes::default();
            }
            self.seats.push(seat);
        }
        self.index = self.seats.iter().zip(0..).map(|(seat, at)| (seat.identity, at)).collect();
        gone
    }

    /// Weighs the backends, after the policy has had its say if that is due.
    /// Whether a standing changed.
    pub(super) fn weigh(&mut self, zone: Option<&str>, now: Duration) -> bool {
        for seat in &mut self.seats {
            seat.pace(self.service.slow_start, now);
        }
        let mut weighed = self.weighed(zone, now);
        if self.policy_due.is_some_and(|due| due <= now) {
            self.policy_due = Some(now + policy::INTERVAL);
            self.follow_policy(&weighed.base);
            weighed = self.weighed(zone, now);
        }
        self.state = weighed.state;
        self.step = weighed.next_change;
        let mut changed = false;
        for (seat, standing) in self.seats.iter_mut().zip(weighed.standings) {
            changed |= seat.standing != standing;
            seat.standing = standing;
        }
        changed
    }

    fn weighed(&self, zone: Option<&str>, now: Duration) -> Weighed {
        let members: Vec<_> = self.seats.iter().map(Seat::member).collect();
        weight::weigh(&self.service, zone, &members, now)
    }

    fn follow_policy(&mut self, base: &[u64]) {
        let sample = |(seat, &base): (&Seat, &u64)| Sample {
            base,
            probe: seat.tracker.latency(),
            handshake: seat.handshakes.latency(),
            flows: seat.flows,
        };
        let samples: Vec<_> = self.seats.iter().zip(base).map(sample).collect();
        let factors: Vec<_> = self.seats.iter().map(|seat| seat.factor).collect();
        let factors = policy::update(self.service.policy, &samples, &factors);
        for (seat, factor) in self.seats.iter_mut().zip(factors) {
            seat.factor = factor;
        }
    }

    /// Whether standings differ from those last taken; takes them.
    pub(super) fn take(&mut self) -> bool {
        let standings = self.seats.iter().map(|seat| (seat.identity, seat.standing)).collect();
        let before = std::mem::replace(&mut self.taken, standings);
        before != self.taken
    }

    /// When it is to be weighed next, if nothing else happens.
    pub(super) fn wake(&self) -> Option<Duration> {
        self.step.into_iter().chain(self.policy_due).min()
    }

    /// Deadlines that have not come.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (u64, BackendIdentity)> {
        let open = self.seats.iter().filter(|seat| !seat.ended);
        open.filter_map(|seat| Some((seat.deadline?, seat.identity)))
    }

    /// Name of the service.
    pub(super) fn name(&self) -> &str {
        &self.service.name
    }

    pub(super) fn state(&self) -> ServiceState {
        self.state
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter()
    }

    pub(super) fn seat(&self, key: &BackendIdentity) -> Option<&Seat> {
        self.index.get(key).map(|&at| &self.seats[at])
    }

    pub(super) fn seat_mut(&mut self, key: &BackendIdentity) -> Option<&mut Seat> {
        self.index.get(key).map(|&at| &mut self.seats[at])
    }
}

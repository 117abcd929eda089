//! What a backend gets: effective weight = configured x admin state x health
//! x slow start x policy.
//!
//! In this order, for the backends of one service:
//!
//! 1. **Able.** A backend is able to take new flows while it is `ready`, not
//!    `down`, and has a weight. What it reports of itself (`drain`, `maint`,
//!    percent) lowers what the operator ordered, never raises it. Existing
//!    flows go on unless it is `down` or in `maint`; nothing below changes that.
//! 2. **`min_up`.** With fewer able backends, backups included, the service is
//!    down: no weight at all.
//! 3. **Backups** have a weight only while no other backend is able. Where
//!    groups matter (`split`, `route`) this is decided within each group, and
//!    for backends without a group over the whole service.
//! 4. **Zone.** See [`ENOUGH`]; within each group as well.
//! 5. **Slow start and policy** scale what is left, together never below
//!    [`FLOOR`] of it.
//!
//! Weights are rounded to the nearest integer, and to 1 rather than 0. Where a
//! weight would exceed 65535, all of the service are scaled down alike. So
//! slow start and policies work as finely as the configured weights are large:
//! with weights of 1 they do nothing, with 100 their steps are of a percent.

pub mod policy;
pub mod ramp;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use self::{policy::Factor, ramp::Ramp};
use super::{
    health::Report,
    model::{Backend, Service},
    plan::identity::BackendIdentity,
};

/// One, in the thousandths that slow start and policies are counted in.
pub const ONE: u64 = 1000;

/// Part of its weight, in thousandths, that slow start and policy together
/// leave a backend at the least: a tenth.
pub const FLOOR: u64 = 100;

/// The node's own zone serves alone while at least one part in so many of its
/// configured weight is there, counting slow start (a zone that comes back
/// takes over once it is warm) but not policies (they shift weight, they are
/// no loss of it). With less than half there, all zones serve.
pub const ENOUGH: u64 = 2;

/// What the operator ordered, from the least to the most restrictive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Serve.
    #[default]
    Ready,
    /// No new flows; existing ones go on.
    Drain,
    /// Nothing at all.
    Maint,
}

/// What probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Too early to say; served like one that is up.
    #[default]
    Unknown,
    /// Enough successes in a row.
    Up,
    /// Enough failures in a row.
    Down,
}

/// What the data plane is to know of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Effective weight.
    pub weight: u16,
    /// Whether existing flows may still go there.
    pub serving: bool,
}

/// Standings that differ from "serving, at the configured weight".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings(pub BTreeMap<BackendIdentity, Standing>);

impl Standings {
    /// Of a backend with this configured weight.
    #[must_use]
    pub fn of(&self, identity: &BackendIdentity, configured: u16) -> Standing {
        self.0.get(identity).copied().unwrap_or(Standing { weight: configured, serving: true })
    }
}

/// What the weight of a backend depends on besides the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// What the operator ordered.
    pub admin: AdminState,
    /// What probes say.
    pub health: Health,
    /// What the backend says of itself.
    pub report: Report,
    /// When its slow start began; `None`: it is over.
    pub up_since: Option<Duration>,
    /// What the policy makes of it.
    pub factor: Factor,
}

impl Member {
    /// The stricter of what the operator ordered and what the backend reports.
    #[must_use]
    pub fn admin(&self) -> AdminState {
        self.admin.max(self.report.admin.unwrap_or_default())
    }

    /// Whether existing flows may go there.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.health != Health::Down && self.admin() != AdminState::Maint
    }

    /// Weight in percents of one: configured times reported.
    fn ordered(&self, configured: u16) -> u64 {
        if !self.serving() || self.admin() != AdminState::Ready {
            return 0;
        }
        u64::from(configured) * u64::from(self.report.percent.unwrap_or(100).min(100))
    }
}

/// Whether a service has enough backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Backends able to take new flows, whether they are needed or not.
    pub able: u32,
    /// `able` is at least `min_up`, and not 0.
    pub up: bool,
}

/// What [`weigh`] finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weighed {
    /// Of each backend, in the order of the service.
    pub standings: Vec<Standing>,
    /// Weight of each backend before the policy, in units that only compare
    /// with each other; 0: it takes no new flows.
    pub base: Vec<u64>,
    /// Of the whole service.
    pub state: ServiceState,
    /// When slow start changes a weight next.
    pub next_change: Option<Duration>,
}

/// Weighs the backends of a service; `members` are in their order, `zone` is
/// the node's own.
#[must_use]
pub fn weigh(service: &Service, zone: Option<&str>, members: &[Member], now: Duration) -> Weighed {
    let seat = |(backend, member)| Seat::new(backend, member, service.slow_start, now);
    let seats: Vec<_> = service.backends.iter().zip(members).map(seat).collect();
    let able = seats.iter().filter(|seat| seat.able()).count() as u32;
    let state = ServiceState { able, up: able > 0 && able >= service.min_up };
    let grouped = !service.split.is_empty() || !service.routes.is_empty();
    let chosen = if state.up { choose(&seats, zone, grouped) } else { vec![false; seats.len()] };
    let of_chosen = |values: Vec<u64>| -> Vec<u64> {
        values.into_iter().zip(&chosen).map(|(value, &on)| if on { value } else { 0 }).collect()
    };
    let weights = fit(&of_chosen(seats.iter().map(Seat::weight).collect()));
    let standing =
        |(weight, seat): (u16, &Seat<'_>)| Standing { weight, serving: seat.member.serving() };
    Weighed {
        standings: weights.into_iter().zip(&seats).map(standing).collect(),
        base: of_chosen(seats.iter().map(Seat::base).collect()),
        state,
        next_change: seats.iter().filter_map(|seat| seat.ramp.next).min(),
    }
}

/// A backend on the way to its weight.
struct Seat<'a> {
    backend: &'a Backend,
    member: &'a Member,
    ordered: u64,
    ramp: Ramp,
}

impl<'a> Seat<'a> {
    fn new(backend: &'a Backend, member: &'a Member, slow_start: Duration, now: Duration) -> Self {
        let ramp = ramp::ramp(slow_start, member.up_since, now);
        Self { backend, member, ordered: member.ordered(backend.weight), ramp }
    }

    fn able(&self) -> bool {
        self.ordered > 0
    }

    /// Its group, where groups matter.
    fn group(&self, grouped: bool) -> Option<&'a str> {
        self.backend.group.as_deref().filter(|_| grouped)
    }

    fn base(&self) -> u64 {
        self.ordered * self.ramp.share
    }

    fn weight(&self) -> u64 {
        let pace = (self.ramp.share * self.member.factor.thousandths() / ONE).max(FLOOR);
        ((self.ordered * pace + WHOLE / 2) / WHOLE).max(1)
    }
}

/// What a configured weight of 1 is as [`Seat::base`].
const WHOLE: u64 = 100 * ONE;

/// What decides among the backends of a group, by whether they are backups.
#[derive(Default)]
struct Pool {
    /// Some backend that is no backup is able.
    primary: bool,
    /// Weight configured in the own zone.
    configured: [u64; 2],
    /// Weight there is in the own zone.
    there: [u64; 2],
}

/// Which of the able backends take new flows: rules 3 and 4.
fn choose(seats: &[Seat<'_>], zone: Option<&str>, grouped: bool) -> Vec<bool> {
    let local = |seat: &Seat<'_>| zone.is_some() && seat.backend.zone.as_deref() == zone;
    let mut pools: BTreeMap<Option<&str>, Pool> = BTreeMap::new();
    for seat in seats {
        let pool = pools.entry(seat.group(grouped)).or_default();
        let tier = usize::from(seat.backend.backup);
        pool.primary |= seat.able() && !seat.backend.backup;
        if local(seat) {
            pool.configured[tier] += u64::from(seat.backend.weight) * WHOLE;
            pool.there[tier] += seat.base();
        }
    }
    let primary = pools.values().any(|pool| pool.primary);
    pools.entry(None).or_default().primary = primary;
    let chosen = |seat: &Seat<'_>| {
        let pool = &pools[&seat.group(grouped)];
        let tier = usize::from(seat.backend.backup);
        let there = pool.there[tier];
        let alone = there > 0 && there * ENOUGH >= pool.configured[tier];
        seat.able() && seat.backend.backup != pool.primary && (local(seat) || !alone)
    };
    seats.iter().map(chosen).collect()
}

/// As weights of the data plane: scaled down alike where one is too large.
fn fit(weights: &[u64]) -> Vec<u16> {
    let (most, limit) = (weights.iter().copied().max().unwrap_or(0), u64::from(u16::MAX));
    let scaled = |weight: u64| if most > limit { weight * limit / most } else { weight };
    weights.iter().map(|&weight| scaled(weight).max(weight.min(1)) as u16).collect()
}

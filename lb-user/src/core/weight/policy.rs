//! Policies `latency` and `least-flows`: backends that answer late, or that
//! sit on more flows than their share, get a smaller weight.
//!
//! Every backend has a factor, 1 at first. From what was measured follows
//! what it should be: a ratio in [`LEAST`]`..=`[`MOST`]. An update takes the
//! factor half of the way there (the geometric mean) and by a tenth at the
//! most. A change of less than a twentieth is left undone, because it would
//! make a new lookup table for nothing: so with steady measurements a factor
//! comes to rest within a tenth or so of its ratio.
//!
//! Half of the way, because what is measured answers to the weights: where a
//! backend's flows follow its weight at once, the whole way would overshoot
//! by as much as it corrects, for ever. And a ratio, not a running sum of
//! errors: flows answer to weights only as fast as they end, and a sum would
//! grow beyond all measure meanwhile.

use std::time::Duration;

use super::ONE;
use crate::core::model::Policy;

/// From one update of the factors to the next, at least.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Least factor, in thousandths.
pub const LEAST: u64 = 250;
/// Largest factor, in thousandths.
pub const MOST: u64 = 4000;
/// Part of a factor that an update changes at most.
pub const STEP: u64 = 10;
/// Part of a factor below which a change is left undone.
pub const DEAD: u64 = 20;
/// Flows that every backend is taken to have on top of its own, so that a
/// handful of them decides nothing.
pub const FEW: u64 = 16;

/// Of which a policy multiplies a weight; starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u64);

impl Default for Factor {
    fn default() -> Self {
        Self::ONE
    }
}

impl Factor {
    /// The weight as it is.
    pub const ONE: Self = Self(ONE);

    /// In thousandths, [`LEAST`]`..=`[`MOST`].
    #[must_use]
    pub fn thousandths(self) -> u64 {
        self.0
    }

    /// One update towards `ratio` (in thousandths).
    pub(super) fn towards(self, ratio: u64) -> Self {
        let halfway = (self.0 * ratio.clamp(LEAST, MOST)).isqrt();
        let change = halfway.abs_diff(self.0);
        if change * DEAD < self.0 {
            return self;
        }
        let change = change.min(self.0 / STEP);
        Self(if halfway > self.0 { self.0 + change } else { self.0 - change })
    }
}

/// What was measured of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its weight before the policy, in any unit; 0: it takes no new flows,
    /// and does not count.
    pub base: u64,
    /// Smoothed time of its probes.
    pub probe: Option<Duration>,
    /// Smoothed time of its handshakes with clients.
    pub handshake: Option<Duration>,
    /// Its live flows.
    pub flows: u64,
}

/// The factors after an update, in the order of `samples`. A backend that
/// does not count, or of which nothing is known, goes back to 1: at once and
/// step by step, respectively.
#[must_use]
pub fn update(policy: Policy, samples: &[Sample], factors: &[Factor]) -> Vec<Factor> {
    let ratios = match policy {
        Policy::Static => return vec![Factor::ONE; factors.len()],
        Policy::Latency => latency_ratios(samples),
        Policy::LeastFlows => flow_ratios(samples),
    };
    let factor = |((sample, ratio), factor): ((&Sample, u64), &Factor)| {
        if sample.base == 0 { Factor::ONE } else { factor.towards(ratio) }
    };
    samples.iter().zip(ratios).zip(factors).map(factor).collect()
}

/// Median latency by own latency, of handshakes or of probes: a page takes
/// longer than a handshake, so one is never compared with the other. What is
/// known of more backends decides; of as many, what clients see.
fn latency_ratios(samples: &[Sample]) -> Vec<u64> {
    let counting = || samples.iter().filter(|sample| sample.base > 0);
    let handshakes = counting().filter(|sample| sample.handshake.is_some()).count();
    let probes = counting().filter(|sample| sample.probe.is_some()).count();
    let own = |sample: &Sample| {
        let latency = if handshakes < probes { sample.probe } else { sample.handshake };
        Some(latency.filter(|_| sample.base > 0)?.as_micros().max(1))
    };
    let mut latencies: Vec<_> = samples.iter().filter_map(own).collect();
    latencies.sort_unstable();
    // Of an even number the lower one of the middle: it is a backend's own.
    let median = latencies.get(latencies.len().saturating_sub(1) / 2).copied();
    let ratio = |sample: &Sample| match (own(sample), median) {
        (Some(own), Some(median)) => thousandths(median, own),
        _ => ONE,
    };
    samples.iter().map(ratio).collect()
}

/// Flows it would have if flows were as weights are, by flows it has.
fn flow_ratios(samples: &[Sample]) -> Vec<u64> {
    let count = samples.iter().filter(|sample| sample.base > 0);
    let (flows, base) = count.fold((0, 0), |(flows, base), sample| {
        (flows + u128::from(sample.flows), base + u128::from(sample.base))
    });
    let ratio = |sample: &Sample| {
        let due = flows * u128::from(sample.base) / base.max(1);
        let few = u128::from(FEW);
        thousandths(due + few, u128::from(sample.flows) + few)
    };
    samples.iter().map(ratio).collect()
}

fn thousandths(part: u128, whole: u128) -> u64 {
    u64::try_from(part * u128::from(ONE) / whole).unwrap_or(MOST)
}

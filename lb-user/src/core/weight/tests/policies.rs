//! Policies, alone and against backends that answer to their weights.

use std::time::Duration;

use proptest::prelude::*;

use crate::core::{
    model::Policy,
    weight::{
        ONE,
        policy::{DEAD, FEW, Factor, LEAST, MOST, STEP, Sample, update},
    },
};

fn any_sample() -> impl Strategy<Value = Sample> {
    let base = prop_oneof![Just(0u64), 1u64..10_000_000_000];
    let latency = proptest::option::of((0u64..10_000_000).prop_map(Duration::from_micros));
    (base, latency.clone(), latency, 0u64..10_000_000)
        .prop_map(|(base, probe, handshake, flows)| Sample { base, probe, handshake, flows })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Static), Just(Policy::Latency), Just(Policy::LeastFlows)]
}

fn history_of(policy: Policy, samples: &[Sample], rounds: usize) -> Vec<Vec<Factor>> {
    let mut history = vec![vec![Factor::ONE; samples.len()]];
    for _ in 0..rounds {
        let last = history.last().unwrap();
        history.push(update(policy, samples, last));
    }
    history
}

proptest! {
    #[test]
    fn steps_are_limited_and_steady_measurements_bring_rest(
        policy in any_policy(), samples in proptest::collection::vec(any_sample(), 1..12)
    ) {
        let history = history_of(policy, &samples, 40);
        for pair in history.windows(2) {
            for (before, after) in pair[0].iter().zip(&pair[1]) {
                let [before, after] = [before, after].map(|factor| factor.thousandths());
                prop_assert!((LEAST..=MOST).contains(&after));
                let change = before.abs_diff(after);
                prop_assert!(change * STEP <= before, "too large");
                prop_assert!(change == 0 || change * DEAD >= before, "too small");
            }
        }
        // With the same measurements nobody turns back, and all come to rest.
        for n in 0..samples.len() {
            let way: Vec<_> = history.iter().map(|factors| factors[n]).collect();
            prop_assert!(way.is_sorted() || way.iter().rev().is_sorted());
            prop_assert_eq!(way[38], way[39]);
        }
    }

    #[test]
    fn a_faster_backend_never_gets_less(latencies in proptest::collection::vec(1u64..1_000_000, 2..12)) {
        let sample = |&us: &u64| Sample {
            base: 1, handshake: Some(Duration::from_micros(us)), ..Sample::default()
        };
        let samples: Vec<_> = latencies.iter().map(sample).collect();
        let last = history_of(Policy::Latency, &samples, 40).pop().unwrap();
        for (a, fast) in latencies.iter().zip(&last) {
            for (b, slow) in latencies.iter().zip(&last) {
                prop_assert!(a > b || fast >= slow, "{} us and {} us", a, b);
            }
        }
    }

    /// Flows come at `rate` per second by weight and last for `lasts` seconds
    /// at each backend: for a moment or for long, weights settle.
    #[test]
    fn least_flows_settles_whatever_flows_last(
        lasts in proptest::collection::vec(0.05f64..60.0, 2..8), rate in 1_000.0f64..100_000.0
    ) {
        let mut factors = vec![Factor::ONE; lasts.len()];
        let mut flows = vec![0.0; lasts.len()];
        let mut late = Vec::new();
        for round in 0..1200 {
            let total: u64 = factors.iter().map(|factor| factor.thousandths()).sum();
            for ((flows, factor), lasts) in flows.iter_mut().zip(&factors).zip(&lasts) {
                let steady = rate * factor.thousandths() as f64 / total as f64 * lasts;
                *flows += (steady - *flows) * (1.0 - (-1.0 / lasts).exp());
            }
            let sample = |flows: &f64| Sample { base: 1, flows: *flows as u64, ..Sample::default() };
            let samples: Vec<_> = flows.iter().map(sample).collect();
            factors = update(Policy::LeastFlows, &samples, &factors);
            if round >= 900 {
                late.push(factors.clone());
            }
        }
        for n in 0..lasts.len() {
            let of = late.iter().map(|factors| factors[n].thousandths());
            let (least, most) = (of.clone().min().unwrap(), of.max().unwrap());
            prop_assert!((most - least) * STEP <= most, "{} to {}", least, most);
        }
    }
}

/// A backend whose probes take so many milliseconds.
fn probed(ms: Option<u64>) -> Sample {
    Sample { base: 1, probe: ms.map(Duration::from_millis), ..Sample::default() }
}

#[test]
fn handshakes_are_compared_with_handshakes_and_probes_with_probes() {
    let sample = |probe, handshake: Option<u64>| Sample {
        handshake: handshake.map(Duration::from_millis),
        ..probed(probe)
    };
    let updated = |samples: [Sample; 2]| {
        let last = history_of(Policy::Latency, &samples, 40).pop().unwrap();
        [last[0].thousandths(), last[1].thousandths()].map(|factor| factor * 2 / ONE)
    };
    // Where both are known, what clients see.
    assert_eq!(updated([sample(Some(1), Some(10)), sample(Some(1), Some(40))]), [2, 0]);
    // An idle backend is not slow by as much as a probe takes longer.
    assert_eq!(updated([sample(Some(20), Some(1)), sample(Some(20), None)]), [2, 2]);
    assert_eq!(updated([sample(Some(20), Some(1)), sample(Some(80), None)]), [2, 0]);
    // Nobody probes: who was not measured keeps its weight.
    assert_eq!(updated([sample(None, Some(1)), sample(None, None)]), [2, 2]);
    // Who takes no new flows is not asked.
    let out = Sample { base: 0, ..sample(Some(1), None) };
    let [one, two] = [sample(Some(1), Some(10)), sample(Some(1), Some(40))];
    let last = history_of(Policy::Latency, &[one, two, out], 40).pop().unwrap();
    assert!(last[1] < Factor::ONE && last[2] == Factor::ONE);
}

#[test]
fn half_as_fast_gets_about_half() {
    let samples = [10, 10, 20].map(|ms| probed(Some(ms)));
    let last = history_of(Policy::Latency, &samples, 40).pop().unwrap();
    assert_eq!(last[..2], [Factor::ONE; 2]);
    assert!((500..=555).contains(&last[2].thousandths()), "{last:?}");
}

#[test]
fn who_was_not_measured_keeps_its_weight() {
    let samples = [probed(None), probed(Some(1))];
    assert_eq!(update(Policy::Latency, &samples, &[Factor::ONE; 2]), [Factor::ONE; 2]);
}

#[test]
fn a_handful_of_flows_decides_nothing() {
    let sample = |flows| Sample { base: 1, flows, ..Sample::default() };
    let samples = [sample(1), sample(0), sample(2)];
    assert_eq!(update(Policy::LeastFlows, &samples, &[Factor::ONE; 3]), [Factor::ONE; 3]);
    let samples = [sample(FEW * 4), sample(0), sample(0)];
    let found = update(Policy::LeastFlows, &samples, &[Factor::ONE; 3]);
    assert!(found[0] < Factor::ONE && found[1] > Factor::ONE);
}

#[test]
fn who_takes_no_new_flows_begins_anew() {
    let busy = Sample { base: 1, flows: 1_000, ..Sample::default() };
    let idle = Sample { flows: 0, ..busy };
    let factors = history_of(Policy::LeastFlows, &[busy, idle], 10).pop().unwrap();
    assert!(factors[0].thousandths() < ONE);
    let out = Sample { base: 0, ..busy };
    assert_eq!(update(Policy::LeastFlows, &[out, idle], &factors)[0], Factor::ONE);
}

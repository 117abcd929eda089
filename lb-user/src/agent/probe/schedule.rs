//! When a target is probed.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use tokio::time::Instant;

use crate::core::model::health::Health;

/// What each target that starts along with others adds to the time over which
/// their first probes are spread.
const SPACING: Duration = Duration::from_millis(1);

/// Probes begin on a grid of such steps, those of one step together: a thread
/// that sleeps between each two of them is mostly busy with waking up.
const STEP: Duration = Duration::from_millis(10);

/// The moment on the grid at which a probe that is due begins. The steps of
/// short intervals are a tenth of them.
pub(super) fn on_grid(due: Instant, epoch: Instant, interval: Duration) -> Instant {
    let step = STEP.min(interval / 10).as_nanos().max(1);
    let late = (due - epoch).as_nanos() % step;
    due + Duration::from_nanos(((step - late) % step) as u64)
}

/// How late the first probe of one of `together` targets that start at once is.
/// Few of them go at once, many are spread over the first interval.
pub(super) fn first(seed: u64, together: usize, interval: Duration) -> Duration {
    let others = u32::try_from(together.saturating_sub(1)).unwrap_or(u32::MAX);
    SPACING.saturating_mul(others).min(interval).mul_f64(fraction(seed, 0))
}

/// How many probes are in flight when nobody answers. On the average each
/// target's is for `timeout / interval` of the time; a quarter more, since they
/// are not spread evenly.
pub(super) fn at_once<'a>(targets: impl Iterator<Item = &'a Health>) -> usize {
    let shares = targets.map(|health| health.timeout.div_duration_f64(health.interval));
    (shares.sum::<f64>() * 1.25).ceil() as usize
}

/// The times at which one target's probes are due.
///
/// Intervals vary by a tenth, so that balancers and backends do not fall into
/// step. A backend must nevertheless be found down in time, and probed as
/// often as it was asked for: how much a probe is put off depends on its place
/// in a cycle of `fall` probes. So any `fall` intervals in a row last exactly
/// `fall` times the interval. None is shorter than the timeout, so that a
/// probe is over when the next is due.
pub(super) struct Schedule {
    /// When the current probe would be due if none were put off.
    beat: Instant,
    interval: Duration,
    /// Upper bound of how much a probe is put off.
    reach: Duration,
    /// Place in the cycle.
    place: u32,
    cycle: u32,
    seed: u64,
}

impl Schedule {
    /// That begins with a probe at `first`; `seed` is the target's own.
    pub(super) fn new(first: Instant, health: &Health, seed: u64) -> Self {
        let interval = health.interval;
        let slack = interval.saturating_sub(health.timeout);
        let reach = slack.min(interval / 10);
        Self { beat: first, interval, reach, place: 0, cycle: health.fall.max(1), seed }
    }

    /// When the current probe is due.
    pub(super) fn due(&self) -> Instant {
        let share = if self.place == 0 { 0.0 } else { fraction(self.seed, self.place) };
        self.beat + self.reach.mul_f64(share)
    }

    /// On to the next probe. Those whose time is wholly over at `now` are left
    /// out.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            self.beat += self.interval;
            self.place = (self.place + 1) % self.cycle;
            if self.beat + self.interval > now {
                break;
            }
        }
    }
}

/// A number that stands for these bytes.
pub(super) fn seed(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// At least 0 and less than 1, the same for the same arguments.
fn fraction(seed: u64, place: u32) -> f64 {
    let mut hasher = DefaultHasher::new();
    (seed, place).hash(&mut hasher);
    let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(health: &Health, seed: u64, count: usize) -> Vec<Instant> {
        let mut schedule = Schedule::new(Instant::now(), health, seed);
        let next = |_| {
            let due = schedule.due();
            schedule.advance(due);
            due
        };
        (0..count).map(next).collect()
    }

    proptest! {
        #[test]
        fn intervals_vary_but_not_over_a_fall(
            seed: u64, fall in 1_u32..9, interval in 1_u32..100_000, share in 1_u32..=100,
        ) {
            let interval = Duration::from_millis(interval.into());
            let timeout = interval * share / 100;
            let health = Health { interval, timeout, fall, ..Health::default() };
            let times = times(&health, seed, 40);
            for pair in times.windows(2) {
                let between = pair[1] - pair[0];
                prop_assert!(between >= timeout && between >= interval * 9 / 10);
                prop_assert!(between <= interval * 11 / 10);
            }
            for pair in times.iter().zip(&times[fall as usize..]) {
                prop_assert_eq!(*pair.1 - *pair.0, interval * fall);
            }
        }

        #[test]
        fn first_probes_are_spread(seed: u64, together in 0_usize..5000) {
            let interval = Duration::from_secs(1);
            let first = first(seed, together, interval);
            prop_assert!(first < interval.min(SPACING * 5000));
            prop_assert!(together > 100 || first <= Duration::from_millis(100));
            prop_assert!(together > 1 || first.is_zero());
        }
    }

    #[test]
    fn as_many_probes_are_at_once_as_time_out_together() {
        let half = Health::default();
        let whole = Health { timeout: half.interval, ..half.clone() };
        assert_eq!(at_once([].into_iter()), 0);
        assert_eq!(at_once([&half].into_iter()), 1);
        assert_eq!(at_once(std::iter::repeat_n(&half, 1000)), 625);
        assert_eq!(at_once(std::iter::repeat_n(&whole, 1000)), 1250);
    }

    #[test]
    fn a_probe_begins_at_the_next_step() {
        let epoch = Instant::now();
        let begins = |due: u64, interval| {
            let due = epoch + Duration::from_micros(due);
            (on_grid(due, epoch, Duration::from_millis(interval)) - epoch).as_micros()
        };
        assert_eq!(
            [0, 1, 9_999, 10_000, 10_001].map(|due| begins(due, 1000)),
            [0, 10_000, 10_000, 10_000, 20_000]
        );
        assert_eq!([1, 2_000, 2_001].map(|due| begins(due, 20)), [2_000, 2_000, 4_000]);
    }

    #[test]
    fn intervals_do_vary() {
        let times = times(&Health::default(), 1, 3);
        assert_ne!(times[1] - times[0], times[2] - times[1]);
    }

    #[test]
    fn probes_whose_time_is_over_are_left_out() {
        let begin = Instant::now();
        let health = Health { fall: 1, ..Health::default() };
        let mut schedule = Schedule::new(begin, &health, 1);
        schedule.advance(begin + health.interval * 7 / 2);
        assert_eq!(schedule.due(), begin + health.interval * 3);
    }
}

//! Slow start: a backend that begins to serve gets its weight by and by, so
//! that cold caches and pools fill before the whole load arrives.

use std::time::Duration;

use super::{FLOOR, ONE};

/// Steps from a tenth of the weight to the whole: each of them makes a new
/// lookup table, so they are few.
pub const STEPS: u64 = 18;

/// How far a slow start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Part of the weight, in thousandths: [`FLOOR`] at first, then linear in
    /// [`STEPS`] equal steps.
    pub share: u64,
    /// When the next step comes; `None`: there is none.
    pub next: Option<Duration>,
}

/// At `now`, for a slow start of length `slow_start` that began at `begin`.
#[must_use]
pub fn ramp(slow_start: Duration, begin: Option<Duration>, now: Duration) -> Ramp {
    let over = Ramp { share: ONE, next: None };
    let Some(begin) = begin else { return over };
    let (length, steps) = (slow_start.as_nanos(), u128::from(STEPS));
    let elapsed = now.saturating_sub(begin).as_nanos();
    if elapsed >= length {
        return over;
    }
    let step = elapsed * steps / length;
    // Rounded up, so that at that time the step has come.
    let next = ((step + 1) * length).div_ceil(steps);
    Ramp {
        share: FLOOR + (ONE - FLOOR) * step as u64 / STEPS,
        next: Some(begin + Duration::from_nanos(next as u64)),
    }
}

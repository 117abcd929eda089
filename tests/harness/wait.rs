//! The only sleep.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it holds (true) or `limit` has passed (false).
/// It is looked at once more at the end, so a slow machine is not a failure.
#[must_use]
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if condition() {
            return true;
        }
        thread::sleep(INTERVAL);
    }
    condition()
}

//! How often a CPU refuses packets: a token bucket kept as the moment at which
//! the next refusal is due (the virtual scheduling algorithm of ITU-T I.371),
//! so that it is one word.
//!
//! Moments are seconds times 2^32, modulo 2^64.

/// Refusals a second and CPU; as many may come at once.
pub const RATE: u64 = 1000;

/// A second.
const SECOND: u64 = 1 << 32;

/// Between two refusals.
const STEP: u64 = SECOND / RATE;

/// Whether a refusal may be sent `now`, when the next one was `due`; if so,
/// when the one after it is. A moment more than a second ago, or further ahead
/// than a refusal puts it, is none that was written of late.
#[inline(always)]
#[must_use]
pub const fn admit(due: u64, now: u64) -> Option<u64> {
    if due.wrapping_sub(now) <= STEP {
        return None;
    }
    let due = if now.wrapping_sub(due) > SECOND { now.wrapping_sub(SECOND) } else { due };
    Some(due.wrapping_add(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(due: &mut u64, now: u64, asked: u32) -> u32 {
        let mut count = 0;
        for _ in 0..asked {
            if let Some(next) = admit(*due, now) {
                *due = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        // A clock that is about to wrap, and an entry nobody has written.
        let (mut due, now) = (0, SECOND.wrapping_neg());
        assert_eq!(admitted(&mut due, now, 5000), 1001);
        assert_eq!(admitted(&mut due, now, 5000), 0);
        let (half, later) = (now.wrapping_add(SECOND / 2), now.wrapping_add(10 * SECOND));
        assert!(admitted(&mut due, half, 5000).abs_diff(500) <= 1);
        assert_eq!(admitted(&mut due, later, 5000), 1001);
    }
}

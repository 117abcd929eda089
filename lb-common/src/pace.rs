//! How often a CPU refuses packets: a token bucket kept as the moment at which
//! the next refusal is due (the virtual scheduling algorithm of ITU-T I.371),
//! so that it is one word.
//!
//! Moments are seconds times 2^32, modulo 2^64.

/// Refusals a second and CPU; as many may come at once.
pub const RATE: u64 = 1000;

/// A second.
const SECOND: u64 = 1 << 32;

/// Whether a refusal may be sent `now`, when the next one was `due`; if so,
/// when the one after it is.
#[inline(always)]
#[must_use]
pub const fn admit(due: u64, now: u64) -> Option<u64> {
    next(due, now, SECOND / RATE, SECOND)
}

/// The same of a bucket that gets a token each `interval`, and holds those of `slack`
/// and one more.
#[inline(always)]
#[must_use]
pub const fn next(due: u64, now: u64, interval: u64, slack: u64) -> Option<u64> {
    let earliest = now.wrapping_sub(slack);
    let due = if is_before(due, earliest) { earliest } else { due };
    if is_before(now, due) { None } else { Some(due.wrapping_add(interval)) }
}

/// Whether one moment is before another, at most half the range away.
#[inline(always)]
#[must_use]
pub const fn is_before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
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
        // An entry nobody has written. (The clock counts from the machine's
        // start: it comes to half its range after 68 years.)
        let (mut due, now) = (0, 300 * SECOND);
        assert_eq!(admitted(&mut due, now, 5000), 1001);
        assert_eq!(admitted(&mut due, now, 5000), 0);
        let (half, later) = (now.wrapping_add(SECOND / 2), now.wrapping_add(10 * SECOND));
        assert!(admitted(&mut due, half, 5000).abs_diff(500) <= 1);
        assert_eq!(admitted(&mut due, later, 5000), 1001);
    }
}

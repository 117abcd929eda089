//! When a node tells its neighbours that an address is now at its interface.
//!
//! An announcement may be lost, or come while a switch has not noticed yet:
//! hence several, and some later. A node that died with its addresses, or is
//! frozen, answers for them until they go by themselves: until then there are five a
//! second, so that who has believed it is put right before long. Who missed them all, or learnt otherwise from a node that was
//! cut off, learns by the regular ones.

use std::time::Duration;

/// How long an address stays at a node whose agent does not hold it anew.
pub const VALID: Duration = Duration::from_secs(3);

/// Announcements at once, when an address has come.
const BURST: u32 = 5;
/// After this there is another, until [`LAST`].
const REPEAT: Duration = Duration::from_millis(200);
/// Until when the other node may answer: the kernel may be a second late.
const LAST: Duration = VALID.saturating_add(Duration::from_secs(1));
/// From then on there is one each time this has passed.
const INTERVAL: Duration = Duration::from_secs(60);

/// When announcements are due next, of addresses that are here since `since`
/// and were announced at `last`.
#[must_use]
pub fn next(since: Duration, last: Option<Duration>) -> Duration {
    match last.filter(|last| *last >= since) {
        None => since,
        Some(last) if last < since + LAST => last + REPEAT,
        Some(last) => last + INTERVAL,
    }
}

/// How many announcements are due at `now`, see [`next`].
#[must_use]
pub fn due(since: Duration, last: Option<Duration>, now: Duration) -> u32 {
    let next = next(since, last);
    if now < next {
        0
    } else if next == since {
        BURST
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is announced until `end` by who looks at these moments.
    fn announced(since: Duration, looks: impl Iterator<Item = Duration>) -> Vec<(Duration, u32)> {
        let mut last = None;
        let look = |now| {
            let due = due(since, last, now);
            (due > 0).then(|| last = Some(now))?;
            Some((now, due))
        };
        looks.filter_map(look).collect()
    }

    #[test]
    fn five_are_due_at_once_then_five_a_second_while_the_other_may_answer_then_one_a_minute() {
        let tenths = |number| Duration::from_millis(100) * number;
        let found = announced(tenths(3), (0..1300).map(tenths));
        let expected = [(3, 5)].into_iter().chain((5..=43).step_by(2).map(|at| (at, 1)));
        let expected = expected.chain([(643, 1), (1243, 1)]);
        let expected: Vec<_> = expected.map(|(at, number)| (tenths(at), number)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_address_that_came_back_is_announced_anew() {
        let seconds = Duration::from_secs;
        assert_eq!(due(seconds(20), Some(seconds(19)), seconds(20)), BURST);
        assert_eq!(due(seconds(20), Some(seconds(20)), seconds(20) + REPEAT), 1);
        assert_eq!(due(seconds(20), Some(seconds(24)), seconds(26)), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_due_before_its_time_and_something_from_then_on(
            since in 0..100_000_u64,
            last in prop::option::of(0..200_000_u64),
            now in 0..300_000_u64,
        ) {
            let [since, now] = [since, now].map(Duration::from_millis);
            let last = last.map(Duration::from_millis);
            prop_assert_eq!(due(since, last, now) > 0, now >= next(since, last));
            // Once done, it is not due again.
            prop_assert!(next(since, Some(now.max(since))) > now);
        }
    }
}

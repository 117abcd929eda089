//! How many flows a source may begin (`firewall.new_flows_per_source`): token buckets,
//! each kept as the moment at which its next token is due, as in [`crate::pace`].
//!
//! There is no entry for each source, which a flood from random ones could fill: a
//! source has two buckets in an array, by a hash that nobody outside can foresee, and
//! each of them has half of what it may. Sources that share a bucket by chance share
//! its half. So a source is never given more than it may have; one that meets a flood
//! in one of its buckets keeps half of it, and only who meets floods in both begins
//! nothing. A flood from so many sources that all buckets are empty (half a rate for
//! each of them) leaves nobody anything: choose a rate that is far from that.
//!
//! Moments are seconds times 2^32, modulo 2^64.

use crate::{hash, limits::SOURCE_BUCKETS, pace};

/// What a source may, as one word: the time between two tokens of a bucket (in seconds
/// times 2^30) in the low half, tokens of both buckets together in the high half.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SourceRate(pub u64);

impl SourceRate {
    /// As many as it likes.
    pub const NONE: Self = Self(0);

    /// `rate` flows a second, 1 at least, and `burst` at once (2 at least; one less if
    /// it is odd).
    ///
    /// # Panics
    /// `rate` is 0.
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Self {
        let interval = (2 << 30) / rate as u64;
        Self(interval | (burst as u64) << 32)
    }

    /// Whether sources are not limited.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether a flow may begin `now`, when the next tokens of its source's buckets are
    /// `due`: from which of them its token is taken, and when the next one is due there.
    #[inline(always)]
    #[must_use]
    pub const fn admit(self, due: [u64; 2], now: u64) -> Option<(usize, u64)> {
        let interval = (self.0 & 0xffff_ffff) << 2;
        let slack = interval * (self.0 >> 32).saturating_sub(2) / 2;
        // The fuller one.
        let (which, due) = if pace::is_before(due[1], due[0]) { (1, due[1]) } else { (0, due[0]) };
        match pace::next(due, now, interval, slack) {
            Some(next) => Some((which, next)),
            None => None,
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(transparent)]` over a word.
unsafe impl aya::Pod for SourceRate {}

/// What begins a flow. Each kind has buckets of its own: the packet after a SYN that was
/// let in is let in as well, whatever became of other SYNs from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Beginning {
    /// A SYN.
    Syn = 1,
    /// A packet of a flow that is not known.
    Other = 2,
}

/// The two buckets of a source in `SOURCES`. `high` is the first word of its address:
/// all of IPv4's, the network (64 bits) of IPv6's, in which a host has what it likes.
#[inline(always)]
#[must_use]
pub const fn buckets(high: u64, beginning: u64, seed: [u64; 2]) -> [u32; 2] {
    const HALF: u32 = SOURCE_BUCKETS / 2;
    let hash = hash::client([high, beginning], seed);
    [hash as u32 % HALF, HALF + (hash >> 32) as u32 % HALF]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{collections::HashSet, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1 << 32;
    /// A machine that runs for a while.
    const START: u64 = 5_000_000 * SECOND;

    /// How many of `asked` flows begin at once.
    fn begin(rate: SourceRate, due: &mut [u64; 2], now: u64, asked: u32) -> u32 {
        let mut begun = 0;
        for _ in 0..asked {
            if let Some((which, next)) = rate.admit(*due, now) {
                due[which] = next;
                begun += 1;
            }
        }
        begun
    }

    #[test]
    fn a_burst_begins_at_once_and_then_the_rate() {
        for (rate, burst) in [(500, 1000), (1, 2), (1, 20), (1_000_000, 10_000), (7, 100_000)] {
            let limit = SourceRate::new(rate, burst);
            // Buckets that nobody has written.
            let mut due = [0; 2];
            let most = 100_100;
            assert_eq!(begin(limit, &mut due, START, most), burst, "{rate} {burst}");
            assert_eq!(begin(limit, &mut due, START, 10), 0, "{rate} {burst}");
            let later = begin(limit, &mut due, START + 2 * SECOND, most);
            let expected = (2 * rate).min(burst);
            assert!(later.abs_diff(expected) <= 2 + rate / 1000, "{rate} {burst}: {later}");
        }
        let mut due = [0; 2];
        assert_eq!(begin(SourceRate::new(5, 7), &mut due, START, 10), 6);
    }

    #[test]
    fn who_meets_a_flood_in_one_bucket_keeps_half() {
        let limit = SourceRate::new(100, 100);
        let flooded = START + 1000 * SECOND;
        let mut due = [flooded, 0];
        assert_eq!(begin(limit, &mut due, START, 1000), 50);
        let second = begin(limit, &mut due, START + SECOND, 1000);
        assert!(second.abs_diff(50) <= 1, "{second}");
        assert_eq!(due[0], flooded);
        assert_eq!(begin(limit, &mut [flooded; 2], START, 10), 0);
    }

    proptest! {
        #[test]
        fn nobody_is_given_more_than_he_may(
            (rate, burst) in (1..=1_000_000_u32, 2..=500_u32),
            gaps in prop::collection::vec((0..SECOND, 1..50_u32), 1..200),
            due: [u64; 2],
        ) {
            let limit = SourceRate::new(rate, burst);
            let (mut due, mut now, mut begun) = (due, START, 0_u64);
            for (gap, asked) in gaps {
                now += gap;
                begun += u64::from(begin(limit, &mut due, now, asked));
                let passed = (now - START) as f64 / SECOND as f64;
                let most = f64::from(burst) + f64::from(rate) * passed * 1.001;
                prop_assert!(begun as f64 <= most, "{begun} of {most}");
            }
        }

        #[test]
        fn who_keeps_to_the_rate_always_begins(
            (rate, burst) in (1..=1_000_000_u32, 2..=1_000_000_u32),
            pauses in prop::collection::vec(0..SECOND, 1..200),
        ) {
            let limit = SourceRate::new(rate, burst);
            let (mut due, mut now) = ([0; 2], START);
            for pause in pauses {
                prop_assert_eq!(begin(limit, &mut due, now, 1), 1);
                now += SECOND.div_ceil(rate.into()) + if pause % 3 == 0 { pause } else { 0 };
            }
        }

        #[test]
        fn a_source_has_two_buckets_of_each_kind(high: u64, seed: [u64; 2]) {
            let all = [Beginning::Syn, Beginning::Other]
                .map(|beginning| buckets(high, beginning as u64, seed));
            for [first, second] in all {
                prop_assert!(first < SOURCE_BUCKETS / 2);
                prop_assert!((SOURCE_BUCKETS / 2..SOURCE_BUCKETS).contains(&second));
            }
            prop_assert_ne!(all[0], all[1]);
        }
    }

    #[test]
    fn sources_are_spread() {
        let all: Vec<_> = (0..10_000).map(|source| buckets(source, 1, [3, 5])).collect();
        for which in [0, 1] {
            let distinct: HashSet<_> = all.iter().map(|buckets| buckets[which]).collect();
            assert!(distinct.len() > 9_000, "{}", distinct.len());
        }
    }
}

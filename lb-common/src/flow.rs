//! The affinity table: flow -> backend, one array of cache lines that both
//! the packet path and the agent read and write.
//!
//! # Protocol
//! A slot is a key and a value, two aligned words that are only ever read and
//! written whole. Nothing is locked:
//! - to **claim** a slot, store the new key, then the value, which carries a
//!   **tag** of the key's hash;
//! - a **reader** that finds its key with another key's tag has met a slot
//!   between the two stores, or one that two newcomers claimed at once, or
//!   whose former owner wrote late: a miss. Its next packet claims again.
//!
//! So CPUs that race cost a recomputation, never a wrong backend. Comparing and
//! swapping the key would rule out only one of these cases, and costs a new flow
//! a third more: a locked instruction waits for all stores before it, and lets
//! no load behind it begin. A slot whose time is up is free; nothing sweeps on
//! the packet path.

use crate::pod::map_type;

/// Slots of a bucket.
pub const SLOTS: usize = 4;

map_type! {
    /// A bucket: one 64-byte cache line. Key 0 is an empty slot.
    pub struct Bucket: 64 {
        /// [`crate::hash::flow_key_v4`] or [`crate::hash::flow_key_hashed`].
        0 => pub keys: [u64; SLOTS],
        /// [`FlowValue`] as a word.
        32 => pub values: [u64; SLOTS],
    }
}

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// One packet seen (or a SYN, while tables differ): may be displaced.
    Embryonic = 0,
    /// Two packets seen: never displaced before its time is up.
    Established = 1,
    /// FIN or RST seen: may be displaced.
    Closing = 2,
}

/// Value of a slot: backend id, the second it lives to, state, tag in one word.
///
/// The moment of expiry, not of the last packet, is kept: so whether a slot is
/// free can be told without its service, whose timeouts are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue(pub u64);

impl FlowValue {
    /// Packs a value. `expires` is the last second of its life, modulo 2^16;
    /// `tag` has 24 bits.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u16, expires: u16, state: FlowState, tag: u32) -> Self {
        Self(backend as u64 | (expires as u64) << 16 | (state as u64) << 32 | (tag as u64) << 40)
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }

    /// The last second of its life, modulo 2^16.
    #[inline(always)]
    #[must_use]
    pub const fn expires(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Number of the state.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Tag of the key this value was written for.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// Seconds left to live, at most [`MAX_TIMEOUT`]; negative when it is over.
    /// CPUs whose clocks are a tick apart agree but for that tick.
    #[inline(always)]
    #[must_use]
    pub const fn left(self, now: u16) -> i16 {
        self.expires().wrapping_sub(now).cast_signed()
    }

    /// The same with another life and state.
    #[inline(always)]
    #[must_use]
    pub const fn touched(self, expires: u16, state: u8) -> Self {
        Self(self.0 & 0xffff_ff00_0000_ffff | (expires as u64) << 16 | (state as u64) << 32)
    }
}

/// Seconds a flow is kept without a packet, by state. At most
/// [`MAX_TIMEOUT`]: the clock in a slot wraps at 2^16 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// See [`FlowState::Embryonic`].
    pub embryonic: u16,
    /// See [`FlowState::Established`].
    pub established: u16,
    /// See [`FlowState::Closing`].
    pub closing: u16,
}

/// Longest timeout: half the range of the clock in a slot (9.1 hours).
pub const MAX_TIMEOUT: u16 = 0x7fff;

impl Timeouts {
    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.embryonic as u64 | (self.established as u64) << 16 | (self.closing as u64) << 32
    }

    /// From what [`Self::to_raw`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self { embryonic: raw as u16, established: (raw >> 16) as u16, closing: (raw >> 32) as u16 }
    }

    /// The timeout of the state with this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, state: u8) -> u16 {
        if state == FlowState::Established as u8 {
            self.established
        } else if state == FlowState::Closing as u8 {
            self.closing
        } else {
            self.embryonic
        }
    }
}

/// The data plane's clock: seconds since some moment, modulo 2^16.
/// `scale` is `2^32 / HZ`.
#[inline(always)]
#[must_use]
pub const fn second(jiffies: u64, scale: u64) -> u16 {
    (jiffies.wrapping_mul(scale) >> 32) as u16
}

/// The slot of a bucket that a newcomer would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Number of the slot.
    pub slot: usize,
    /// How good it is: the greater the better, 0 not at all.
    pub score: u32,
    /// How many slots of the bucket nobody lives in.
    pub free: u32,
}

impl Candidate {
    /// Whether it already has the newcomer's key.
    #[inline(always)]
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.score == OWN
    }

    /// Whether to take this one, of the alternate bucket, rather than that of
    /// the primary bucket. The last free slot of a bucket is left to those
    /// that have it as their only free one: at rated load three flows in a
    /// million then go unrecorded and 94 % are in their primary bucket
    /// (taking whatever is free: 200 in a million, and 98 %).
    #[inline(always)]
    #[must_use]
    pub const fn is_better_than(&self, primary: &Self) -> bool {
        if primary.free == 0 || self.score == OWN {
            self.score > primary.score
        } else {
            self.free > primary.free
        }
    }
}

// Classes of slots, above the 16 bits of an age. Expired ones may be
// displaceable too, which makes no difference.
const OWN: u32 = 5 << 16;
const EMPTY: u32 = 4 << 16;
const EXPIRED: u32 = 2 << 16;
const DISPLACEABLE: u32 = 1 << 16;

/// Class of a slot that is in use, and how near its end is, in plain
/// arithmetic: in a flood branches would be mispredicted, and the verifier
/// would judge each.
#[inline(always)]
const fn score(value: FlowValue, now: u16) -> u32 {
    let left = value.left(now).cast_unsigned();
    let expired = (left >> 15) as u32;
    // 0 for established (1), 1 for embryonic (0) and closing (2).
    let displaceable = ((value.state() as u32 ^ FlowState::Established as u32) + 3) >> 2;
    let spent = MAX_TIMEOUT.wrapping_sub(left) as u32;
    (expired * EXPIRED) | (displaceable * DISPLACEABLE) | spent
}

/// Finds a newcomer's place in a bucket: the slot that already has its key,
/// else an empty one, an expired one, an embryonic or closing one; among
/// equals the one nearest to its end.
#[inline(always)]
#[must_use]
pub fn candidate(keys: [u64; SLOTS], values: [u64; SLOTS], key: u64, now: u16) -> Candidate {
    let mut best = Candidate { slot: 0, score: 0, free: 0 };
    let mut slot = 0;
    while slot < SLOTS {
        let score = if keys[slot] == 0 {
            EMPTY
        } else if keys[slot] == key {
            OWN
        } else {
            score(FlowValue(values[slot]), now)
        };
        best.free += (score >> 17 | score >> 18) & 1;
        if score > best.score {
            best = Candidate { slot, score, free: best.free };
        }
        slot += 1;
    }
    if best.score < DISPLACEABLE {
        best.score = 0;
    }
    best
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::hash::{flow_key_v4, place};

    const SEED: [u64; 2] = [0x5eed, 0x0dd5];

    #[test]
    fn a_value_gives_back_what_was_put_in() {
        let value = FlowValue::new(0xbeef, 0xcafe, FlowState::Closing, 0x00ab_cdef);
        assert_eq!((value.backend(), value.expires()), (0xbeef, 0xcafe));
        assert_eq!((value.state(), value.tag()), (FlowState::Closing as u8, 0x00ab_cdef));
        let touched = value.touched(7, FlowState::Established as u8);
        assert_eq!((touched.backend(), touched.tag()), (0xbeef, 0x00ab_cdef));
        assert_eq!((touched.expires(), touched.state()), (7, FlowState::Established as u8));
    }

    #[test]
    fn the_clock_counts_seconds_and_wraps() {
        let scale = (1u64 << 32) / 250;
        let passed = second(250 * 1000 + 100, scale) - second(250 * 10 + 100, scale);
        assert_eq!(passed, 990);
        let value = FlowValue::new(1, 0x10, FlowState::Embryonic, 0);
        assert_eq!((value.left(0xfff0), value.left(0x10), value.left(0x11)), (0x20, 0, -1));
    }

    proptest! {
        #[test]
        fn a_live_established_flow_is_never_displaced(
            keys: [u64; 4], states in proptest::array::uniform4(0u8..3),
            lefts: [i16; 4], key in 1u64.., now: u16,
        ) {
            let values = core::array::from_fn(|i| {
                FlowValue(0).touched(now.wrapping_add_signed(lefts[i]), states[i]).0
            });
            let found = candidate(keys, values, key, now);
            let free = |i: usize| keys[i] == 0 || lefts[i] < 0;
            let yields = |i: usize| free(i) || states[i] != FlowState::Established as u8;
            if keys.contains(&key) {
                prop_assert!(found.is_own() && keys[found.slot] == key);
            } else if let Some(nearest) =
                (0..4).filter(|&i| yields(i)).map(|i| (!free(i), keys[i] != 0, lefts[i])).min()
            {
                prop_assert!(found.score != 0 && yields(found.slot));
                prop_assert_eq!(free(found.slot), !nearest.0);
                prop_assert_eq!(keys[found.slot] == 0, !nearest.1);
            } else {
                prop_assert_eq!(found.score, 0);
            }
            let free = (0..4).filter(|&i| free(i) || keys[i] == key).count();
            prop_assert_eq!(found.free as usize, free);
        }
    }

    /// A table used as the packet path does, by one CPU.
    struct Table {
        buckets: Vec<Bucket>,
    }

    impl Table {
        fn insert(&mut self, key: u64, state: FlowState) -> Option<(usize, usize)> {
            let mask = self.buckets.len() as u32 - 1;
            let at = place(key, SEED, mask);
            let find = |bucket: u32| {
                let bucket = &self.buckets[bucket as usize];
                candidate(bucket.keys, bucket.values, key, 0)
            };
            let (mut bucket, mut best) = (at.primary, find(at.primary));
            if best.free < 2 && !best.is_own() {
                let other = find(at.alternate);
                if other.is_better_than(&best) {
                    (bucket, best) = (at.alternate, other);
                }
            }
            if best.score == 0 {
                return None;
            }
            let bucket = bucket as usize;
            self.buckets[bucket].keys[best.slot] = key;
            self.buckets[bucket].values[best.slot] = FlowValue::new(1, 600, state, at.tag).0;
            Some((bucket, best.slot))
        }
    }

    #[test]
    fn at_rated_load_almost_no_live_flow_goes_unrecorded() {
        let rated = 1usize << 16;
        let mut table = Table { buckets: vec![Bucket::ZERO; rated] };
        let mut live: Vec<Option<(usize, usize)>> = vec![None; rated];
        let (mut unrecorded, mut arrivals) = (0u32, 0u32);
        for i in 0..8 * rated {
            // The oldest flow ends, another begins.
            if let Some((bucket, slot)) = live[i % rated].take() {
                table.buckets[bucket].keys[slot] = 0;
            }
            let key = flow_key_v4((i as u32).wrapping_mul(0x9e37_79b9), (i >> 4) as u16, 7);
            live[i % rated] = table.insert(key, FlowState::Established);
            arrivals += 1;
            unrecorded += u32::from(live[i % rated].is_none());
        }
        assert!(unrecorded * 10_000 < arrivals, "{unrecorded} of {arrivals} unrecorded");
    }
}

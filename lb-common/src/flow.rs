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

/// State of a flow. Bit 0 is set of established ones only, see [`Room::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// One packet seen (or a SYN, while tables differ): may be displaced.
    Embryonic = 0,
    /// Two packets seen: never displaced before its time is up.
    Established = 1,
    /// FIN or RST seen: may be displaced.
    Closing = 2,
    /// Embryonic, and not where the peer of a pair would send it: the peer is
    /// told, see [`crate::change`].
    Exception = 4,
}

impl FlowState {
    /// The state with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Embryonic),
            1 => Some(Self::Established),
            2 => Some(Self::Closing),
            4 => Some(Self::Exception),
            _ => None,
        }
    }
}

/// Value of a slot: backend id, tag, state, the second it lives to in one word.
///
/// The moment of expiry, not of the last packet, is kept: so whether a slot is
/// free can be told without its service, whose timeouts are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue(pub u64);

impl FlowValue {
    /// Packs a value. `tag` has 24 bits; `expires` is the last second of its
    /// life, modulo 2^16.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u16, tag: u32, state: FlowState, expires: u16) -> Self {
        Self(backend as u64 | (tag as u64) << 16 | (state as u64) << 40 | (expires as u64) << 48)
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }

    /// Tag of the key this value was written for.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 16) as u32 & 0x00ff_ffff
    }

    /// Number of the state.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// The last second of its life, modulo 2^16.
    #[inline(always)]
    #[must_use]
    pub const fn expires(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Seconds left to live, at most [`MAX_TIMEOUT`]; negative when it is over.
    /// CPUs whose clocks are a tick apart agree but for that tick.
    #[inline(always)]
    #[must_use]
    pub const fn left(self, now: u16) -> i16 {
        self.expires().wrapping_sub(now).cast_signed()
    }

    /// Whether a newcomer may have the slot: expired, embryonic or closing.
    #[inline(always)]
    #[must_use]
    pub const fn yields(self, now: u16) -> bool {
        self.left(now) < 0 || self.state() != FlowState::Established as u8
    }

    /// The same with another backend.
    #[inline(always)]
    #[must_use]
    pub const fn with_backend(self, backend: u16) -> Self {
        Self(self.0 & !0xffff | backend as u64)
    }

    /// The same with another life and state.
    #[inline(always)]
    #[must_use]
    pub const fn touched(self, expires: u16, state: u8) -> Self {
        Self(self.0 & 0xff_ffff_ffff | (state as u64) << 40 | (expires as u64) << 48)
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

/// What a newcomer may take in a bucket: sets of slots, bit 0 for slot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Slots nobody lives in: empty ones and expired ones.
    pub free: u32,
    /// Slots of embryonic and closing flows; free ones may be among them.
    pub displaceable: u32,
}

impl Room {
    /// Looks over a bucket, in plain arithmetic: in a flood the outcomes are
    /// random, and a mispredicted branch would hold up whatever follows until
    /// the bucket has come from memory.
    #[inline(always)]
    #[must_use]
    pub const fn of(keys: &[u64; SLOTS], values: &[u64; SLOTS], now: u16) -> Self {
        let (mut free, mut established) = (0, 0);
        let mut slot = 0;
        while slot < SLOTS {
            if keys[slot] == 0 {
                free |= 1 << slot;
            }
            let value = values[slot];
            free |= (value.wrapping_sub((now as u64) << 48) >> 63 << slot) as u32;
            established |= (value >> 40 << 63 >> 63 << slot) as u32;
            slot += 1;
        }
        Self { free, displaceable: established ^ 0xf }
    }

    /// The slot to take whatever the alternate bucket has, if there is one.
    ///
    /// The last free slot is only taken when the alternate bucket has no more:
    /// at rated load three flows in a million then go unrecorded and 94 % are
    /// in their primary bucket (taking whatever is free: 200 in a million, and
    /// 98 %). Of free slots the first is taken, so that a search mostly ends
    /// where the last did; of displaceable ones any, by `turn`, so that
    /// newcomers live as long as they can.
    #[inline(always)]
    #[must_use]
    pub const fn settled(&self, turn: u32) -> Option<u32> {
        if self.is_roomy() {
            Some(lowest(self.free))
        } else if self.free == 0 && self.displaceable != 0 {
            Some(one_of(self.displaceable, turn))
        } else {
            None
        }
    }

    /// The slot to take, here or in the alternate bucket (slots 4 to 7), where
    /// nothing is settled by this bucket; none where established flows have all.
    #[inline(always)]
    #[must_use]
    pub const fn choose(&self, alternate: &Self, turn: u32) -> Option<u32> {
        let take = if self.free != 0 && !alternate.is_roomy() {
            return Some(lowest(self.free));
        } else if alternate.free != 0 {
            lowest(alternate.free)
        } else if alternate.displaceable != 0 {
            one_of(alternate.displaceable, turn)
        } else {
            return None;
        };
        Some(SLOTS as u32 + take)
    }

    /// Whether more than one slot is free.
    #[inline(always)]
    const fn is_roomy(&self) -> bool {
        self.free & self.free.wrapping_sub(1) != 0
    }
}

/// One of a set of slots, by the bits of `turn`.
#[inline(always)]
const fn one_of(slots: u32, turn: u32) -> u32 {
    let turn = turn & 3;
    (lowest((slots | slots << SLOTS) >> turn) + turn) & 3
}

/// The lowest of a set of slots.
#[inline(always)]
const fn lowest(slots: u32) -> u32 {
    // Two bits for each set of four.
    0x1213_1210 >> ((slots & 0xf) * 2) & 3
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
        let value = FlowValue::new(0xbeef, 0x00ab_cdef, FlowState::Closing, 0xcafe);
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
        let value = FlowValue::new(1, 0, FlowState::Embryonic, 0x10);
        assert_eq!((value.left(0xfff0), value.left(0x10), value.left(0x11)), (0x20, 0, -1));
    }

    proptest! {
        #[test]
        fn a_live_established_flow_is_never_displaced(
            keys: [[u64; 4]; 2],
            states in proptest::array::uniform8(prop::sample::select(vec![0u8, 1, 2, 4])),
            lefts: [i16; 8], now: u16, turn: u32,
        ) {
            let value = |i: usize| {
                FlowValue(0).touched(now.wrapping_add_signed(lefts[i]), states[i]).0
            };
            let buckets = [0, 1].map(|b| (keys[b], core::array::from_fn(|i| value(4 * b + i))));
            let keys = keys.concat();
            let free = |i: usize| keys[i] == 0 || lefts[i] < 0;
            let yields = |i: usize| free(i) || states[i] != FlowState::Established as u8;
            match choose(&buckets, now, turn) {
                Some(taken) if keys[3] != 0 && taken < 4 => prop_assert!(yields(taken)),
                // A live flow yields only where its bucket has no free slot.
                Some(taken) => {
                    let bucket = taken / 4 * 4;
                    let full = !(bucket..bucket + 4).any(free);
                    prop_assert!(free(taken) || full && yields(taken));
                }
                None => prop_assert!(!(0..8).any(yields)),
            }
        }

        #[test]
        fn one_of_a_set_is_in_it_and_all_have_their_turn(slots in 1u32..0x10) {
            let taken = (0..4).fold(0, |taken, turn| taken | 1 << one_of(slots, turn));
            prop_assert_eq!(taken, slots);
        }
    }

    /// What the packet path does with the two buckets of a key.
    fn choose(buckets: &[([u64; 4], [u64; 4]); 2], now: u16, turn: u32) -> Option<usize> {
        let any = (turn & 3) as usize;
        if buckets[0].0[3] != 0 && FlowValue(buckets[0].1[any]).yields(now) {
            return Some(any);
        }
        let [primary, alternate] = [0, 1].map(|b| Room::of(&buckets[b].0, &buckets[b].1, now));
        let slot = primary.settled(turn).or_else(|| primary.choose(&alternate, turn));
        slot.map(|slot| slot as usize)
    }

    /// A table used as the packet path does, by one CPU.
    struct Table {
        buckets: Vec<Bucket>,
    }

    impl Table {
        fn insert(&mut self, key: u64, state: FlowState) -> Option<(usize, usize)> {
            let mask = self.buckets.len() as u32 - 1;
            let at = place(key, SEED, mask);
            let places = [at.primary, at.alternate];
            let buckets = places.map(|b| {
                let bucket = &self.buckets[b as usize];
                (bucket.keys, bucket.values)
            });
            let taken = choose(&buckets, 0, at.tag)?;
            let (bucket, slot) = (places[taken / 4] as usize, taken % 4);
            self.buckets[bucket].keys[slot] = key;
            self.buckets[bucket].values[slot] = FlowValue::new(1, at.tag, state, 600).0;
            Some((bucket, slot))
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

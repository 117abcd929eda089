//! The affinity table: flow -> backend, one array of cache lines that both
//! the packet path and the agent read and write.
//!
//! # Protocol
//! A slot is a key and a value, two aligned words that are only ever read and
//! written whole. Nothing is locked:
//! - to **claim** a slot, compare-and-swap its key from the value seen to the
//!   new key; who loses leaves the flow unrecorded (its next packet tries again);
//! - then store the value, which carries a **tag** of the key's hash;
//! - a **reader** that finds its key with another key's tag has met a slot
//!   between the two steps, or one whose former owner wrote late: a miss.
//!
//! So CPUs that race cost a recomputation, never a wrong backend. A slot whose
//! time is up is free; nothing sweeps on the packet path.

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

/// State of a flow, see `architecture.md`'s glossary in `ARCHITECTURE.md`.
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

/// Value of a slot: backend id, last second seen, state, tag in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue(pub u64);

impl FlowValue {
    /// Packs a value. `tag` has 24 bits.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u16, seen: u16, state: FlowState, tag: u32) -> Self {
        Self(backend as u64 | (seen as u64) << 16 | (state as u64) << 32 | (tag as u64) << 40)
    }

    /// Backend id.
    #[inline(always)]
    #[must_use]
    pub const fn backend(self) -> u16 {
        self.0 as u16
    }

    /// Second of the last packet, modulo 2^16.
    #[inline(always)]
    #[must_use]
    pub const fn seen(self) -> u16 {
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

    /// Seconds since the last packet.
    #[inline(always)]
    #[must_use]
    pub const fn age(self, now: u16) -> u16 {
        now.wrapping_sub(self.seen())
    }

    /// The same with another second and state.
    #[inline(always)]
    #[must_use]
    pub const fn touched(self, seen: u16, state: u8) -> Self {
        Self(self.0 & 0xffff_ff00_0000_ffff | (seen as u64) << 16 | (state as u64) << 32)
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

/// How good a slot is for a newcomer: the greater the better, 0 not at all.
/// The slot that already has the newcomer's key beats an empty one, then
/// come the expired, then embryonic and closing ones, the oldest first.
#[inline(always)]
#[must_use]
pub const fn claim_score(
    slot_key: u64,
    value: FlowValue,
    key: u64,
    now: u16,
    timeouts: Timeouts,
) -> u32 {
    if slot_key == key {
        return 4 << 16;
    }
    if slot_key == 0 {
        return 3 << 16;
    }
    let age = value.age(now);
    if age > timeouts.of(value.state()) {
        2 << 16 | age as u32
    } else if value.state() != FlowState::Established as u8 {
        1 << 16 | age as u32
    } else {
        0
    }
}

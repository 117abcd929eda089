//! How long backends take to answer a SYN, seen from the balancer: from the
//! client's SYN to the backend's SYN-ACK. The packet path measures it for
//! services with [`crate::service::flags::TIMED`].
//!
//! # Protocol
//! A SYN leaves its moment in an array, at a place that follows from its flow;
//! the answer finds it there, and empties the place. An entry is one word, so
//! CPUs that race see whole entries. Whoever comes later takes the place: a
//! flood of SYNs costs samples, never a wrong one.
//!
//! A connection that lost a packet says how long a retransmission takes, not
//! how fast the backend is, and which of its SYNs was answered cannot be told
//! (Karn's algorithm, RFC 6298, section 3). So a SYN that comes again leaves
//! the first one's moment as it is, and an answer that took [`LONGEST`], before
//! which no SYN comes again, is no sample.

use crate::limits;

/// Microseconds from which on an answer is no sample: nine tenths of the time
/// after which a SYN is sent again (RFC 6298, section 2.1), as the second one
/// may travel faster than the first.
pub const LONGEST: u32 = 900_000;

/// An entry of `HANDSHAKES`: a flow's tag and the moment of its SYN; 0 is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(pub u64);

impl Begun {
    /// Nobody's.
    pub const EMPTY: Self = Self(0);

    /// The flow with `key` begins `now`: microseconds, modulo 2^32.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: u64, now: u32) -> Self {
        Self(tag(key) << 32 | now as u64)
    }

    /// Whether it is of the flow with `key`.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, key: u64) -> bool {
        self.0 >> 32 == tag(key)
    }

    /// Microseconds that an answer took that comes `now`; `None`: too long to
    /// be a sample.
    #[inline(always)]
    #[must_use]
    pub const fn took(self, now: u32) -> Option<u32> {
        let took = now.wrapping_sub(self.0 as u32);
        if took < LONGEST { Some(took) } else { None }
    }
}

/// Where the flow with `key` has its entry. `key` is a
/// [`crate::hash::flow_key_hashed`], whose lowest bit is set.
#[inline(always)]
#[must_use]
pub const fn index(key: u64) -> u32 {
    (key >> 32) as u32 & (limits::HANDSHAKES - 1)
}

/// The half of a key that [`index`] does not look at: never 0.
#[inline(always)]
const fn tag(key: u64) -> u64 {
    key & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_answer_tells_how_long_it_took(key: u64, begin: u32, took: u32) {
            let (key, now) = (key | 1, begin.wrapping_add(took));
            let begun = Begun::new(key, begin);
            prop_assert!(begun.is_of(key) && begun != Begun::EMPTY);
            prop_assert_eq!(begun.took(now), Some(took).filter(|&took| took < LONGEST));
            prop_assert!(index(key) < limits::HANDSHAKES);
        }

        #[test]
        fn flows_at_one_place_are_told_apart(key: u64, other: u64, now: u32) {
            let (key, other) = (key | 1, other | 1);
            prop_assume!(key as u32 != other as u32);
            prop_assert!(!Begun::new(key, now).is_of(other) && !Begun::EMPTY.is_of(key));
        }
    }
}

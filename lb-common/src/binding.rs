//! Bindings of mode `fullnat` (RFC 4787 and RFC 5382 call them mappings): which client's
//! flow has which source address and port towards its backend.
//!
//! # Two maps
//! `BINDINGS` is an array with one entry for each port of each source address, so a
//! reply finds its flow by its destination alone. `BOUND` is a kernel hash map from
//! the flow, as the client sends it, to the index of its entry. The entry is what
//! counts: `BOUND` only says where to look, and who looks compares the whole flow.
//!
//! # Protocol
//! The value of an entry ([`FlowValue`](crate::flow::FlowValue): backend, turn, state, the
//! second it lives to) is one word, and every change of it is a compare-and-swap, by packets
//! and agent alike:
//! - an entry may be **claimed** if its value is 0 or its time is up. Who claims it
//!   stores a value without a backend and with the next turn, deletes what `BOUND` has of
//!   the flow that had it, writes the new flow, then stores a value with a backend;
//! - a **reader** that finds no backend has found nobody. After it read the flow it
//!   reads the value again: another turn means that the entry changed hands.
//!
//! So nothing displaces a binding before its time is up, established or not: an answer
//! that is still on its way must not reach another client. What a flood of new flows
//! takes are free ports, for [`EMBRYONIC`] seconds.

use core::num::NonZero;

use crate::{flow::Timeouts, limits, pod::map_type};

map_type! {
    /// One port of one source address: an entry of `BINDINGS`.
    pub struct Binding: 32 {
        /// The client's address as loaded from a frame: two words, an IPv4 address is
        /// the first.
        0 => pub client: [u64; 2],
        /// [`crate::flow::FlowValue`] as a word; its tag is the entry's turn. 0: free.
        16 => pub value: u64,
        /// The client's ports, as [`crate::hash::ports`] puts them.
        24 => pub ports: u32,
        /// The service.
        28 => pub service: u16,
        30 => pub _pad: u16,
    }
}

map_type! {
    /// A flow as its client sends it: the key of `BOUND`.
    pub struct Flow: 24 {
        /// The client's address as loaded from a frame.
        0 => pub client: [u64; 2],
        /// Ports, as [`crate::hash::ports`] puts them.
        16 => pub ports: u32,
        /// The service, which stands for VIP and protocol.
        20 => pub service: u32,
    }
}

map_type! {
    /// A packet whose flow is to be bound. It goes from program to program, and from
    /// function to function, in a map: the stack has no room for it.
    pub struct Task: 48 {
        /// Its flow.
        0 => pub flow: Flow,
        /// [`Timeouts`] as a word.
        24 => pub timeouts: u64,
        /// Source addresses to take ports of.
        32 => pub sources: u32,
        /// The backend that was selected; 0: none, the packet is not on its way to one.
        36 => pub backend: u16,
        /// The data plane's second.
        38 => pub now: u16,
        /// IP protocol number.
        40 => pub proto: u8,
        /// TCP flags.
        41 => pub tcp_flags: u8,
        42 => pub _pad: u16,
        /// 1 if addresses are IPv4, else 0.
        44 => pub v4: u32,
    }
}

/// Seconds that a binding is kept which has not come past its first packet, unless the
/// service keeps flows for less: each takes a port, which is scarce.
pub const EMBRYONIC: u16 = 10;

/// Lowest port that is taken; those below are reserved (RFC 6335, section 6).
pub const FIRST_PORT: u16 = 1024;
/// Ports that are taken of each address.
pub const PORTS: u32 = (1 << 16) - FIRST_PORT as u32;
/// Ports that are looked at in a row before others are tried at random.
pub const ROW: u32 = 16;
/// Ports that are looked at before they are taken to be exhausted: with 97 of 100 in
/// use this fails once in two thousand times, with 93 practically never.
pub const TRIES: u32 = 256;

/// How long a binding lives.
#[inline(always)]
#[must_use]
pub const fn timeouts(of_service: Timeouts) -> Timeouts {
    let embryonic = of_service.embryonic;
    Timeouts { embryonic: if embryonic < EMBRYONIC { embryonic } else { EMBRYONIC }, ..of_service }
}

/// Index in `BINDINGS` of a port (host byte order) of a source address, by its number in
/// its prefix.
#[inline(always)]
#[must_use]
pub const fn index(v4: bool, source: u32, port: u16) -> u32 {
    let family = if v4 { 0 } else { limits::NAT_SOURCES };
    (family + (source & (limits::NAT_SOURCES - 1))) << 16 | port as u32
}

/// Number of the source address of an index.
#[inline(always)]
#[must_use]
pub const fn source(index: u32) -> u32 {
    index >> 16 & (limits::NAT_SOURCES - 1)
}

/// Port of an index (host byte order).
#[inline(always)]
#[must_use]
pub const fn port(index: u32) -> u16 {
    index as u16
}

/// Index of a position, 0 to `sources *` [`PORTS`] - 1. One after the other goes
/// through all addresses, so that a port is used again as late as possible.
#[inline(always)]
#[must_use]
pub fn at(v4: bool, sources: NonZero<u32>, position: u32) -> u32 {
    let port = u32::from(FIRST_PORT) + position / sources % PORTS;
    index(v4, position % sources, port as u16)
}

/// Where a CPU begins to take ports: CPUs are spread over all positions.
#[inline(always)]
#[must_use]
pub const fn beginning(cpu: u32) -> u32 {
    (cpu + 1).wrapping_mul(0x9e37_79b9)
}

/// The position to look at, of `sources *` [`PORTS`]: the first [`ROW`] tries are in a row
/// from `cursor` (any number), others at random.
#[inline(always)]
#[must_use]
pub fn position(cursor: u32, attempt: u32, sources: NonZero<u32>) -> u32 {
    let Some(total) = NonZero::new(sources.get() * PORTS) else { return 0 };
    if attempt < ROW {
        return cursor.wrapping_add(attempt) % total;
    }
    let flow = u64::from(cursor) | u64::from(attempt) << 32;
    let mixed = flow.wrapping_mul(0x9fb2_1c65_1e98_df25);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (((mixed >> 32) * u64::from(total.get())) >> 32) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn some(sources: u32) -> NonZero<u32> {
        NonZero::new(sources).unwrap()
    }

    proptest! {
        #[test]
        fn an_index_names_source_and_port(v4: bool, of in 0..limits::NAT_SOURCES, number: u16) {
            let index = index(v4, of, number);
            prop_assert_eq!((source(index), port(index)), (of, number));
            prop_assert!(index < limits::BINDINGS);
        }

        #[test]
        fn every_try_is_at_a_port_that_may_be_taken(
            v4: bool, sources in 1..=limits::NAT_SOURCES, cursor: u32, attempt in 0..TRIES,
        ) {
            let position = position(cursor, attempt, some(sources));
            prop_assert!(position < sources * PORTS);
            let index = at(v4, some(sources), position);
            prop_assert!(port(index) >= FIRST_PORT && source(index) < sources);
        }
    }

    #[test]
    fn all_positions_are_ports_of_their_own() {
        for sources in 1..=limits::NAT_SOURCES {
            let all: HashSet<_> =
                (0..sources * PORTS).map(|p| at(true, some(sources), p)).collect();
            assert_eq!(all.len() as u32, sources * PORTS);
            assert!(!all.contains(&index(false, 0, FIRST_PORT)));
        }
    }

    /// As the packet path takes ports, from one CPU.
    #[test]
    fn sixty_thousand_of_one_address_are_found_and_nearly_all_can_be() {
        let (mut taken, mut cursor) = (HashSet::new(), beginning(0));
        let mut take = |cursor: &mut u32| {
            let free = |p: &u32| !taken.contains(p);
            let position = (0..TRIES).map(|n| position(*cursor, n, some(1))).find(free);
            *cursor = position.map_or(cursor.wrapping_add(TRIES), |position| position + 1);
            position.is_some_and(|position| taken.insert(position))
        };
        assert!((0..60_000).all(|_| take(&mut cursor)));
        let found = (60_000..PORTS).filter(|_| take(&mut cursor)).count();
        assert!(found > 3000, "{found}");
    }

    #[test]
    fn a_binding_is_embryonic_for_a_short_time_only() {
        let all = |embryonic| Timeouts { embryonic, established: 600, closing: 30 };
        assert_eq!(timeouts(all(60)), all(EMBRYONIC));
        assert_eq!(timeouts(all(5)), all(5));
    }
}

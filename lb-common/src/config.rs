//! The one entry of `CONFIG`: what every packet needs to know first.

use crate::{pod::map_type, rate::SourceRate};

map_type! {
    /// Global state of the data plane. The agent writes the inactive
    /// [`Generation`] and everything it refers to, then publishes all of it by
    /// storing `active`, one aligned word.
    pub struct Config: 456 {
        /// Index of the generation in force: 0 or 1.
        0 => pub active: u32,
        /// [`crate::limits::ABI_VERSION`] of whoever created the maps.
        4 => pub abi: u32,
        /// Mask of the affinity table: buckets - 1.
        8 => pub flow_mask: u32,
        /// Changed by the agent when a route or neighbour changed: cached next
        /// hops towards clients with another number are not used.
        12 => pub route_epoch: u32,
        /// Seconds per jiffy as a binary fraction: `2^32 / HZ`.
        16 => pub tick_scale: u64,
        /// Secret that places flows in the affinity table.
        24 => pub place_seed: [u64; 2],
        /// Seed that picks a flow's slot; equal on all balancers of a VIP.
        40 => pub slot_seed: [u64; 2],
        /// Not 0: the data plane is attached to ports of bridges.
        56 => pub bridged: u32,
        60 => pub _pad: u32,
        64 => pub generations: [Generation; 2],
        /// How many flows a source may begin.
        448 => pub source_rate: SourceRate,
    }
}

map_type! {
    /// What is switched at once with [`Config::active`].
    pub struct Generation: 192 {
        /// Which features are in use, bits of [`features`].
        0 => pub features: u32,
        /// Mask of the endpoint table: buckets - 1.
        4 => pub endpoint_mask: u32,
        /// Makes the endpoint table free of overflow; chosen by the agent.
        8 => pub endpoint_salt: u64,
        /// Number of the configuration, counted by the agent.
        16 => pub number: u64,
        /// First local port for the host's own connections (host order).
        24 => pub ephemeral_low: u16,
        /// Last local port for the host's own connections (host order).
        26 => pub ephemeral_high: u16,
        28 => pub _pad: u32,
        /// Sources of packets that wrap others: what is the same of all, as in a
        /// frame, and the bits in which they differ.
        32 => pub tunnel_v4: u32,
        36 => pub tunnel_v4_spread: u32,
        40 => pub tunnel_v6: [u64; 2],
        /// Of the second word.
        56 => pub tunnel_v6_spread: u64,
        /// [`Filter`] of all addresses of `ADDRESSES`.
        64 => pub addresses: Filter,
        /// [`Filter`] of the addresses that replies come from.
        96 => pub repliers: Filter,
        /// Sources of mode `fullnat`, likewise: what is the same of all, and the bits
        /// that number them.
        128 => pub nat_v4: u32,
        132 => pub nat_v4_spread: u32,
        136 => pub nat_v6: [u64; 2],
        /// Of the second word.
        152 => pub nat_v6_spread: u64,
        160 => pub _pad2: [u64; 4],
    }
}

/// A set of addresses with false positives, one bit per address: says of most
/// packets that are not ours that they are not, without a look at a table.
pub type Filter = [u64; 4];

/// Word and bit of an address in a [`Filter`]; `words` as loaded from a frame,
/// IPv4 as the first word and 0.
#[inline(always)]
#[must_use]
pub const fn filter_bit(words: [u64; 2]) -> (usize, u64) {
    let h = (words[0] ^ words[1].rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((h >> 62) as usize, 1 << (h >> 56 & 63))
}

/// Bits of [`Generation::features`]; what is off costs a packet one test.
pub mod features {
    /// At least one service rewrites addresses: replies must be looked for.
    pub const NAT: u32 = 1;
    /// A `nat` backend of a service with a range or any port: replies from
    /// any of its ports must be looked for.
    pub const NAT_ANY_PORT: u32 = 1 << 1;
    /// `firewall.deny_sources` is not empty (IPv4).
    pub const DENY_V4: u32 = 1 << 2;
    /// `firewall.deny_sources` is not empty (IPv6).
    pub const DENY_V6: u32 = 1 << 3;
    /// `firewall.host = "drop"`.
    pub const GUARD_HOST: u32 = 1 << 4;
    /// At least one service of mode `fullnat` has, or had, SYN cookies.
    pub const SYN_COOKIES: u32 = 1 << 5;
    /// At least one service rewrites both addresses (`fullnat`).
    pub const FULLNAT: u32 = 1 << 28;
}

//! Port policy and source policy.

use crate::{addr::AddrBytes, pod::map_type};

map_type! {
    /// 64 ports of `firewall.allow`: bit `port % 64` of entry
    /// `allow_index(..)`.
    pub struct AllowWord: 8 {
        /// One bit per port.
        0 => pub bits: u64,
    }
}

/// Words of `ALLOW` per generation: 65536 bits each for TCP and UDP.
pub const ALLOW_WORDS: u32 = 2048;

/// Entry of `ALLOW` that holds `port` (host byte order) of TCP (or UDP).
#[inline(always)]
#[must_use]
pub const fn allow_index(generation: u32, tcp: bool, port: u16) -> u32 {
    generation * ALLOW_WORDS + if tcp { 0 } else { 1024 } + (port >> 6) as u32
}

map_type! {
    /// An address whose neighbour the kernel does not know: the agent asks.
    pub struct Unresolved: 24 {
        /// Where the frame was to go.
        0 => pub addr: AddrBytes,
        /// Interface it came in by.
        16 => pub ifindex: u32,
        20 => pub _pad: u32,
    }
}

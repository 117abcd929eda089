//! Port policy and source policy.

use crate::pod::map_type;

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

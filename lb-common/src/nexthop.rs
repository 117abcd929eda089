//! Next hops towards clients, as the packet path remembers them.

use crate::pod::map_type;

map_type! {
    /// One answer of the kernel's routing, direct-mapped by destination.
    pub struct CachedHop: 64 {
        /// The destination: two words of an IPv6 address, or an IPv4 word and 0.
        0 => pub key: [u64; 2],
        /// Bytes 0 to 7 of the Ethernet header to send with.
        16 => pub macs_low: u64,
        /// Bytes 8 to 11.
        24 => pub macs_high: u32,
        /// Interface to send by.
        28 => pub ifindex: u32,
        /// [`crate::config::Config::route_epoch`] when it was asked.
        32 => pub epoch: u32,
        /// Largest IP packet that fits, in bytes; 0: unknown.
        36 => pub mtu: u32,
        /// The data plane's second when it was asked.
        40 => pub second: u16,
        /// Bits of [`flags`].
        42 => pub flags: u16,
        /// One of [`vlan`].
        44 => pub vlan: u16,
        46 => pub _pad: [u16; 9],
    }
}

/// What becomes of a frame's VLAN tag (IEEE 802.1Q). One with two tags keeps them.
pub mod vlan {
    /// It is kept: nothing is known of VLANs on the interface that it leaves by.
    pub const KEPT: u16 = 0;
    /// There is none: it leaves by an interface that carries VLANs, but to no VLAN.
    pub const NONE: u16 = u16::MAX;
    // Else it is the VLAN's number, 1 to 4094.
}

/// Bits of [`CachedHop::flags`].
pub mod flags {
    /// The entry was filled in.
    pub const VALID: u16 = 1;
    /// The destination is this host: not for us to forward.
    pub const LOCAL: u16 = 1 << 1;
    /// The key is an IPv4 address.
    pub const V4: u16 = 1 << 2;
}

/// Entry for a destination key, before masking.
#[inline(always)]
#[must_use]
pub const fn cache_index(key: [u64; 2]) -> u32 {
    ((key[0] ^ key[1].rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
}

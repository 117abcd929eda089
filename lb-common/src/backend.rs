//! Backends as the packet path sees them.

use crate::{addr::AddrBytes, pod::map_type};

map_type! {
    /// One backend of one service: an entry of `BACKENDS`, one cache line,
    /// indexed by `BackendId`. Id 0 is nobody.
    ///
    /// The agent changes an entry in place only by single aligned words
    /// (`flags`, `macs_low`, …); everything else is written before anything
    /// refers to the id.
    pub struct Backend: 64 {
        /// Bytes 0 to 7 of the Ethernet header to send with: destination
        /// address and the first two bytes of the source address.
        0 => pub macs_low: u64,
        /// Bytes 8 to 11 of the Ethernet header: the rest of the source address.
        8 => pub macs_high: u32,
        /// Interface the next hop is on.
        12 => pub ifindex: u32,
        /// Address of the backend.
        16 => pub addr: AddrBytes,
        /// Bits of [`flags`].
        32 => pub flags: u32,
        /// Port to rewrite to (network byte order); 0 keeps the packet's.
        36 => pub port: u16,
        /// [`Self::ip_delta`] of a packet that is one hop older, too.
        38 => pub aged_delta: u16,
        /// What rewriting the destination address adds to an IPv4 header's
        /// checksum, see [`crate::csum`].
        40 => pub ip_delta: u16,
        /// What rewriting destination address and port adds to a TCP or UDP
        /// checksum; the port's share is left out where the service has more
        /// than one port.
        42 => pub l4_delta: u16,
        /// The service it belongs to.
        44 => pub service: u16,
        /// One of [`crate::nexthop::vlan`].
        46 => pub vlan: u16,
        /// Where several services share this address, port and protocol, and
        /// replies need an exact entry: [`crate::hash::shared_salt`]; else 0.
        48 => pub shared_salt: u64,
        /// Bytes of the longest IP packet that goes this way; 0: not known.
        56 => pub mtu: u32,
        60 => pub _pad2: u32,
    }
}

/// Bits of [`Backend::flags`].
pub mod flags {
    /// Existing flows may go there. Clear: removed, down or in maintenance;
    /// its flows are released.
    pub const SERVING: u32 = 1;
    /// The Ethernet addresses and the interface are known.
    pub const RESOLVED: u32 = 1 << 1;
    /// Rewrites addresses (mode `nat`). Without this, [`TUNNEL`] and [`FULLNAT`]: only the
    /// Ethernet header (`dsr`).
    pub const NAT: u32 = 1 << 2;
    /// It is configured. Clear: the id is retired. Only the agent looks at it.
    pub const IN_USE: u32 = 1 << 3;
    /// Wraps packets in others (`ipip`).
    pub const IPIP: u32 = 1 << 4;
    /// Wraps packets in UDP (`gue`).
    pub const GUE: u32 = 1 << 5;
    /// Rewrites both addresses (`fullnat`).
    pub const FULLNAT: u32 = 1 << 6;
    /// Wraps packets, by either header.
    pub const TUNNEL: u32 = IPIP | GUE;
}

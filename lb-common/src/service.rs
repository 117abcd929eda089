//! Services, the addresses they live on, and the table that finds them.

use crate::{addr::AddrBytes, pod::map_type, table::TableRef};

/// Slots of an endpoint bucket.
pub const ENDPOINT_SLOTS: usize = 4;
/// Port ranges one VIP can have.
pub const RANGES: usize = 16;

map_type! {
    /// One cache line of `ENDPOINTS`, the read-mostly hash table that answers
    /// three questions with one probe each, see [`EndpointKind`]. The agent
    /// builds it so that no bucket overflows.
    pub struct EndpointBucket: 64 {
        /// [`endpoint_key_v4`] or [`endpoint_key_v6`]; 0 is empty.
        0 => pub keys: [u64; ENDPOINT_SLOTS],
        /// Index of the entry, by kind.
        32 => pub ids: [u32; ENDPOINT_SLOTS],
        48 => pub _pad: [u64; 2],
    }
}

/// What an endpoint key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndpointKind {
    /// Destination address, port, protocol -> service id.
    Service = 1,
    /// Destination address -> index in `ADDRESSES`.
    Address = 2,
    /// Source address, port, protocol of a reply -> backend id.
    Reply = 3,
}

/// Key of an IPv4 endpoint; exact. `addr` and `port` as loaded from a frame;
/// `port` and `proto` are 0 for [`EndpointKind::Address`].
#[inline(always)]
#[must_use]
pub const fn endpoint_key_v4(kind: EndpointKind, addr: u32, port: u16, proto: u8) -> u64 {
    addr as u64 | (port as u64) << 32 | (proto as u64) << 48 | (kind as u64) << 56
}

/// Key of an IPv6 endpoint: a hash, so a hit must be confirmed by comparing
/// the entry's address. `addr` as two words loaded from a frame. The agent
/// picks a salt with which no two of its endpoints have the same key.
#[inline(always)]
#[must_use]
pub const fn endpoint_key_v6(
    kind: EndpointKind,
    addr: [u64; 2],
    port: u16,
    proto: u8,
    salt: u64,
) -> u64 {
    let low = (addr[0] ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = (addr[1] ^ salt).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let folded = (low ^ (low >> 32)).wrapping_add(high ^ (high >> 29));
    // The top bit tells IPv6 keys from IPv4 keys, whose kinds are small.
    (folded ^ endpoint_key_v4(kind, 0, port, proto)) | 1 << 63
}

/// Bucket of an endpoint key, before masking.
#[inline(always)]
#[must_use]
pub const fn endpoint_bucket(key: u64, salt: u64) -> u32 {
    ((key ^ salt).wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32) as u32
}

map_type! {
    /// One service: an entry of `SERVICES`, indexed by service id. Id 0 is nobody.
    pub struct Service: 64 {
        /// The VIP.
        0 => pub vip: AddrBytes,
        /// Current Maglev table; none: no backend may take new flows. Of an
        /// active bank it is changed by one store.
        16 => pub table: TableRef,
        /// The table before it; the same as the current one where nothing changed.
        24 => pub previous: TableRef,
        /// Port (network byte order); 0 where the service has a range.
        32 => pub port: u16,
        /// Last port of a range (network byte order), else equal to the first.
        34 => pub port_last: u16,
        /// First port (network byte order).
        36 => pub port_first: u16,
        /// IP protocol number: 6 or 17.
        38 => pub proto: u8,
        /// Bits of [`flags`].
        39 => pub flags: u8,
        /// Seconds a new flow is kept without a second packet.
        40 => pub embryonic_timeout: u16,
        /// Seconds an established flow is kept without a packet.
        42 => pub established_timeout: u16,
        /// Seconds a flow is kept after FIN or RST.
        44 => pub closing_timeout: u16,
        /// The VIP's group, see [`crate::lease::group`]; 0: none.
        46 => pub group: u16,
        /// [`crate::hash::service_salt`] of its identity.
        48 => pub salt: u64,
        /// Set of the sources that are served, see [`crate::route`]; 0: everybody is.
        56 => pub sources: u16,
        /// Until when it takes no new flows, see [`quota`]; 0: it takes them. Of an
        /// active bank it is changed in place.
        58 => pub full_until: u16,
        /// Set of its QUIC configurations, see [`crate::quic`]; 0: none.
        60 => pub quic: u16,
        /// Above how many SYNs a second they are answered with cookies, see
        /// [`crate::synproxy::SynRate`]; 0: they never are.
        62 => pub syn_rate: u16,
    }
}

/// How long a service takes no new flows, since it has as many as it may. The agent
/// says so for a few seconds at a time: where it says nothing any more, nobody counts,
/// and the service takes them again.
pub mod quota {
    /// Seconds that a word holds; the agent counts every second, if it is not kept busy.
    const SECONDS: u16 = 10;

    /// What [`super::Service::full_until`] is to be `now`, never 0; `now` is the data
    /// plane's second, see [`crate::flow::second`].
    #[must_use]
    pub const fn until(now: u16) -> u16 {
        match now.wrapping_add(SECONDS) {
            0 => u16::MAX,
            until => until,
        }
    }

    /// Whether that still holds `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_full(until: u16, now: u16) -> bool {
        until != 0 && until.wrapping_sub(now) <= SECONDS
    }
}

/// Bits of [`Service::flags`].
pub mod flags {
    /// The entry is in use.
    pub const IN_USE: u8 = 1;
    /// More than one port: affinity keys are hashes that include the port.
    pub const RANGE: u8 = 1 << 1;
    /// All flows of a source address stay together (`affinity = "client"`).
    pub const CLIENT: u8 = 1 << 2;
    /// Who cannot be served is told so (`on_empty = "reject"`).
    pub const REJECT: u8 = 1 << 3;
    /// TCP flows of a backend that serves no more are reset (`on_down = "reset"`).
    pub const RESET: u8 = 1 << 4;
    /// Handshakes are timed (`policy = "latency"` of a TCP service in mode `nat`).
    pub const TIMED: u8 = 1 << 5;
    /// More is asked of a packet than where it goes (`allow_sources`,
    /// `firewall.new_flows_per_source`, `max_flows`, `syn_cookies_above`).
    pub const GUARDED: u8 = 1 << 6;
    /// The affinity table is neither read nor written (`affinity = "none"`): every
    /// packet goes by the current Maglev table. Of UDP services only.
    pub const UNTRACKED: u8 = 1 << 7;
}

map_type! {
    /// An address the balancer answers for: an entry of `ADDRESSES`.
    pub struct Address: 160 {
        /// The address.
        0 => pub addr: AddrBytes,
        /// Bits of [`address_flags`].
        16 => pub flags: u32,
        /// How many of `ranges` are in use.
        20 => pub range_count: u32,
        /// Of a VIP its group, as in [`Service::group`]; else 0.
        24 => pub group: u16,
        26 => pub _pad: [u16; 3],
        /// Services of this VIP with more than one port, narrowest first.
        32 => pub ranges: [PortRange; RANGES],
    }
}

/// Bits of [`Address::flags`].
pub mod address_flags {
    /// A VIP: packets for no service are dropped unless allowed.
    pub const VIP: u32 = 1;
    /// The host's own address.
    pub const HOST: u32 = 1 << 1;
}

map_type! {
    /// A range of ports that belongs to one service.
    pub struct PortRange: 8 {
        /// First port, host byte order.
        0 => pub first: u16,
        /// Last port, host byte order.
        2 => pub last: u16,
        /// Service id.
        4 => pub service: u16,
        /// IP protocol number.
        6 => pub proto: u8,
        7 => pub _pad: u8,
    }
}

#[cfg(test)]
mod tests {
    use super::quota::{is_full, until};

    #[test]
    fn a_service_is_full_for_some_seconds_at_a_time() {
        for now in [0, 1, 4711, u16::MAX - 10, u16::MAX - 9, u16::MAX - 8, u16::MAX] {
            let word = until(now);
            let full = (0..=u16::MAX).filter(|&second| is_full(word, second)).count();
            assert!(word != 0 && is_full(word, now) && is_full(word, now.wrapping_add(9)));
            assert!(!is_full(word, now.wrapping_add(11)) && !is_full(0, now) && full == 11);
        }
    }
}

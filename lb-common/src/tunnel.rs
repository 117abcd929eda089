//! Packets in packets: modes `ipip` and `gue`.

/// IP protocol numbers of packets in IP (RFC 2003, RFC 4213).
pub const IPV4_IN_IP: u8 = 4;
/// See [`IPV4_IN_IP`].
pub const IPV6_IN_IP: u8 = 41;
/// Port of GUE (IANA: `gue`), host byte order. The packet follows the UDP header at
/// once: variant 1 (draft-ietf-intarea-gue-09, section 4).
pub const GUE_PORT: u16 = 6080;

/// Bytes of an outer header: IPv4 or IPv6, and UDP in front of the packet or not.
#[inline(always)]
#[must_use]
pub const fn overhead(v4: bool, gue: bool) -> u32 {
    (if v4 { 20 } else { 40 }) + if gue { 8 } else { 0 }
}

/// What tells the packets of a flow from others', for all that spreads load by outer
/// headers. `addr` as two words loaded from a frame.
#[inline(always)]
#[must_use]
pub const fn lot(addr: [u64; 2], ports: u32) -> u64 {
    let mixed = addr[0] ^ addr[1].rotate_left(29) ^ (ports as u64).rotate_left(32);
    let high = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    high ^ high >> 32
}

//! Addresses and ports as maps hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address in 16 bytes, network byte order; IPv4 as `::ffff:a.b.c.d`
/// (RFC 4291, section 2.5.5.2).
pub type AddrBytes = [u8; 16];

/// Puts `addr` into its map form.
#[must_use]
pub const fn to_bytes(addr: IpAddr) -> AddrBytes {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Reads an address back from its map form.
#[must_use]
pub const fn from_bytes(bytes: AddrBytes) -> IpAddr {
    Ipv6Addr::from_octets(bytes).to_canonical()
}

/// The word that loading an IPv4 address from a frame gives.
#[must_use]
pub const fn v4_word(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

/// The two words that loading an IPv6 address from a frame gives.
#[must_use]
pub const fn words(bytes: AddrBytes) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// The IPv4 word inside the map form of an IPv4 address.
#[must_use]
pub const fn v4_of(bytes: AddrBytes) -> u32 {
    u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_map_form() {
        for text in ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::1"] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(from_bytes(to_bytes(addr)), addr);
        }
    }

    #[test]
    fn words_are_what_a_load_from_the_frame_gives() {
        let v4 = Ipv4Addr::new(192, 0, 2, 7);
        assert_eq!(v4_word(v4).to_ne_bytes(), [192, 0, 2, 7]);
        assert_eq!(v4_of(to_bytes(v4.into())), v4_word(v4));
        let bytes = to_bytes("2001:db8::42".parse().unwrap());
        assert_eq!(words(bytes)[1].to_ne_bytes(), [0, 0, 0, 0, 0, 0, 0, 0x42]);
    }
}

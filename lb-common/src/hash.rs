//! Hashes of a flow. Words are passed as loaded from the frame (network byte
//! order in memory), so both sides compute the same on the same machine type.
//!
//! Two independent uses, two seeds: *placing* a flow in the affinity table is
//! keyed by a secret, so nobody outside can aim at a bucket; *picking a slot*
//! of the Maglev table is keyed by the seed that all balancers of a VIP share.
//! The nodes of a pair share the secret, too, and name services in keys by
//! *salts*, so that a key means the same on both: what makes keys, salts and
//! places is part of what they tell each other, and must not change unnoticed.
//! Multiplications and shifts only: the BPF machine has no 128-bit product.

use crate::addr::AddrBytes;

/// Odd constants with well spread bits (from the golden ratio, and from
/// J.-S. Wang's and P. Evensen's published mixers).
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0x9fb2_1c65_1e98_df25;
const K3: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Finishes a hash: every input bit reaches every output bit used.
#[inline(always)]
const fn finish(h: u64) -> u64 {
    let h = (h ^ (h >> 32)).wrapping_mul(K2);
    h ^ (h >> 29)
}

/// Ports as one word: source in the low half, destination in the high half,
/// both as loaded from the frame.
#[inline(always)]
#[must_use]
pub const fn ports(source: u16, destination: u16) -> u32 {
    source as u32 | (destination as u32) << 16
}

/// Affinity key of an IPv4 flow of a service with one port: exact.
#[inline(always)]
#[must_use]
pub const fn flow_key_v4(source: u32, source_port: u16, service: u16) -> u64 {
    source as u64 | (source_port as u64) << 32 | (service as u64) << 48
}

/// What an exact key says of the flow but for its service, of which nodes have
/// numbers of their own.
#[must_use]
pub const fn without_service(key: u64) -> u64 {
    key & 0xffff_ffff_ffff
}

/// The exact key of a flow of another service's number.
#[must_use]
pub const fn with_service(key: u64, service: u16) -> u64 {
    without_service(key) | (service as u64) << 48
}

/// Affinity key where the exact one does not fit 64 bits (IPv6, services with
/// more than one port): a hash keyed by `seed`, never 0. `salt` is the
/// [`service_salt`]. For IPv4, `source` is the address and 0.
#[inline(always)]
#[must_use]
pub const fn flow_key_hashed(source: [u64; 2], ports: u32, salt: u64, seed: [u64; 2]) -> u64 {
    // Each word goes through a bijection that depends on the secret before
    // they are added, so no difference of addresses cancels out by design.
    let a = (source[0] ^ seed[0]).wrapping_mul(K0);
    let b = (source[1] ^ seed[1]).wrapping_mul(K1);
    let sum = (a ^ (a >> 32)).wrapping_add(b ^ (b >> 29));
    finish((sum ^ ports as u64 ^ salt).wrapping_mul(K3)) | 1
}

/// Affinity key of a reply entry: of a hashed `key` whose salt is a
/// [`shared_salt`]. Never 0, and told from flows by [`is_reply_key`].
#[inline(always)]
#[must_use]
pub const fn reply_key(key: u64) -> u64 {
    key & !1 | 2
}

/// Whether a hashed key is a reply entry's, and not a flow's.
#[inline(always)]
#[must_use]
pub const fn is_reply_key(key: u64) -> bool {
    key & 1 == 0
}

/// Names a service in hashed keys: a hash of its VIP, protocol and ports (host
/// byte order), the same on every machine and in every version. Never 0.
#[must_use]
pub const fn service_salt(vip: AddrBytes, proto: u8, first: u16, last: u16) -> u64 {
    salt(vip, (first as u64) << 32 | (last as u64) << 16 | (proto as u64) << 8 | OF_SERVICE)
}

/// Names an address at which services share backends in hashed keys of replies,
/// likewise: the port is in the key beside it. Never 0.
#[must_use]
pub const fn shared_salt(addr: AddrBytes, proto: u8) -> u64 {
    salt(addr, (proto as u64) << 8 | OF_SHARED)
}

/// What a salt is of: no service's salt is that of a shared address by design.
const OF_SERVICE: u64 = 1;
/// See [`OF_SERVICE`].
const OF_SHARED: u64 = 2;

/// Salts are no secret, so they need none.
const fn salt(addr: AddrBytes, rest: u64) -> u64 {
    let addr = u128::from_be_bytes(addr);
    let a = ((addr >> 64) as u64 ^ rest).wrapping_mul(K0);
    let b = (addr as u64 ^ (a ^ (a >> 32))).wrapping_mul(K1);
    finish((b ^ (b >> 29)).wrapping_add(rest).wrapping_mul(K3)) | 1
}

/// Where a key lives in the affinity table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bucket to look at first.
    pub primary: u32,
    /// Bucket to look at next; always another one.
    pub alternate: u32,
    /// 24 bits of the hash that the bucket numbers do not contain.
    pub tag: u32,
}

/// Places `key` in a table of `mask + 1` buckets (a power of two, at least 2).
#[inline(always)]
#[must_use]
pub const fn place(key: u64, seed: [u64; 2], mask: u32) -> Place {
    let h = finish((key ^ seed[0]).wrapping_mul(K0) ^ seed[1]);
    let tag = (h >> 40) as u32;
    let primary = h as u32 & mask;
    Place { primary, alternate: alternate(primary, tag, mask), tag }
}

/// The other bucket of a key with `tag`, from either of the two. It is in the
/// same page of memory (64 buckets of 64 bytes), so that looking there costs no
/// second address translation.
#[inline(always)]
#[must_use]
pub const fn alternate(bucket: u32, tag: u32, mask: u32) -> u32 {
    bucket ^ ((tag & 63 | 1) & mask)
}

/// Slot hash of an IPv4 flow: 32 bits, the same on all balancers of a VIP.
#[inline(always)]
#[must_use]
pub const fn slot_v4(source: u32, destination: u32, ports: u32, proto: u8, seed: [u64; 2]) -> u32 {
    let a = ((source as u64 | (destination as u64) << 32) ^ seed[0]).wrapping_mul(K0);
    let h = (a ^ (a >> 32) ^ (ports as u64 | (proto as u64) << 32) ^ seed[1]).wrapping_mul(K1);
    (finish(h) >> 32) as u32
}

/// Slot hash of an IPv6 flow: 32 bits, the same on all balancers of a VIP.
#[inline(always)]
#[must_use]
pub const fn slot_v6(
    source: [u64; 2],
    destination: [u64; 2],
    ports: u32,
    proto: u8,
    seed: [u64; 2],
) -> u32 {
    let a = (source[0] ^ seed[0]).wrapping_mul(K0);
    let b = (source[1] ^ seed[1]).wrapping_mul(K1);
    let c = (destination[0] ^ seed[1]).wrapping_mul(K2);
    let d = (destination[1] ^ seed[0]).wrapping_mul(K3);
    let sum = (a ^ (a >> 32))
        .wrapping_add(b ^ (b >> 29))
        .wrapping_add(c ^ (c >> 31))
        .wrapping_add(d ^ (d >> 27));
    (finish((sum ^ (ports as u64 | (proto as u64) << 32)).wrapping_mul(K1)) >> 32) as u32
}

/// Hash of a client's address, the same on all balancers and for all services.
/// Its halves are independent: the high one is the slot hash where all flows
/// of a client stay together, the low one picks the block of a table. For
/// IPv4, `source` is the address and 0.
#[inline(always)]
#[must_use]
pub const fn client(source: [u64; 2], seed: [u64; 2]) -> u64 {
    let a = (source[0] ^ seed[0]).wrapping_mul(K2);
    let b = (source[1] ^ seed[1]).wrapping_mul(K3);
    let sum = (a ^ (a >> 32)).wrapping_add(b ^ (b >> 29));
    finish(sum.wrapping_mul(K0))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::to_bytes;

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_face_cafe_beef];

    proptest! {
        #[test]
        fn reply_keys_are_told_from_flows(
            source: [u64; 2], ports: u32, salt: u64, seed: [u64; 2],
        ) {
            let flow = flow_key_hashed(source, ports, salt, seed);
            let reply = reply_key(flow);
            prop_assert!(flow != 0 && !is_reply_key(flow));
            prop_assert!(reply != 0 && is_reply_key(reply));
        }

        #[test]
        fn alternate_leads_back_and_differs(key: u64, bits in 1u32..24) {
            let mask = (1 << bits) - 1;
            let p = place(key, SEED, mask);
            prop_assert_ne!(p.primary, p.alternate);
            prop_assert!(p.primary <= mask && p.alternate <= mask && p.tag < 1 << 24);
            prop_assert_eq!(alternate(p.alternate, p.tag, mask), p.primary);
        }

        #[test]
        fn exact_keys_are_exact(a: (u32, u16, u16), b: (u32, u16, u16)) {
            prop_assume!(a != b);
            prop_assert_ne!(flow_key_v4(a.0, a.1, a.2), flow_key_v4(b.0, b.1, b.2));
        }

        #[test]
        fn flipping_any_bit_changes_a_hashed_key(s: [u64; 2], ports: u32, salt: u64, bit in 0u32..224) {
            let key = flow_key_hashed(s, ports, salt, SEED);
            let (mut s2, mut p2, mut salt2) = (s, ports, salt);
            match bit {
                0..64 => s2[0] ^= 1 << bit,
                64..128 => s2[1] ^= 1 << (bit - 64),
                128..160 => p2 ^= 1 << (bit - 128),
                _ => salt2 ^= 1 << (bit - 160),
            }
            prop_assert_ne!(key, 0);
            prop_assert_ne!(key, flow_key_hashed(s2, p2, salt2, SEED));
        }

        #[test]
        fn flipping_any_bit_of_an_identity_changes_its_salt(
            addr: AddrBytes, proto: u8, first: u16, last: u16, bit in 0u32..168,
        ) {
            let (mut addr2, mut proto2, mut first2, mut last2) = (addr, proto, first, last);
            match bit {
                0..128 => addr2[bit as usize / 8] ^= 1 << (bit % 8),
                128..136 => proto2 ^= 1 << (bit - 128),
                136..152 => first2 ^= 1 << (bit - 136),
                _ => last2 ^= 1 << (bit - 152),
            }
            let salts = [service_salt(addr, proto, first, last), shared_salt(addr, proto)];
            let others = [service_salt(addr2, proto2, first2, last2), shared_salt(addr2, proto2)];
            prop_assert_ne!(salts[0], others[0]);
            prop_assert_eq!(salts[1] == others[1], bit >= 136);
            prop_assert_ne!(salts[0], salts[1]);
            prop_assert!(!salts.contains(&0));
        }
    }

    /// Chi-squared of `n` sequential inputs over 1024 cells stays within six
    /// deviations of its mean: 1023 +- 6 x sqrt(2 x 1023).
    fn spreads(hash: impl Fn(u32) -> u32) {
        let mut cells = [0u32; 1024];
        let n = 1 << 18;
        for i in 0..n {
            cells[(hash(i) & 1023) as usize] += 1;
        }
        let mean = f64::from(n) / 1024.0;
        let chi: f64 = cells.iter().map(|&c| (f64::from(c) - mean).powi(2) / mean).sum();
        assert!((752.0..1295.0).contains(&chi), "chi-squared {chi}");
    }

    #[test]
    fn neighbouring_flows_spread_over_buckets_slots_and_tags() {
        // The low bits of an address in network order are the high bits of the word.
        let addr = |i: u32| (0x0a00_0000 | i).swap_bytes();
        spreads(|i| place(flow_key_v4(addr(i), 80, 1), SEED, u32::MAX).primary);
        spreads(|i| {
            place(flow_key_v4(1, i as u16, (i >> 16) as u16), SEED, u32::MAX).primary >> 12
        });
        spreads(|i| place(flow_key_v4(addr(i), 80, 1), SEED, u32::MAX).tag >> 7);
        spreads(|i| slot_v4(addr(i), 9, ports(1024, 80), 6, SEED) >> 22);
        spreads(|i| slot_v4(7, 9, ports(i as u16, 80), (i >> 16) as u8, SEED) >> 22);
        spreads(|i| slot_v6([1, u64::from(addr(i)) << 32], [3, 4], 5, 6, SEED) >> 22);
        let client = |i: u32| client([u64::from(addr(i)), 0], SEED);
        spreads(|i| (client(i) >> 54) as u32);
        spreads(|i| (client(i) >> 22) as u32);
        // Slot and block of a client say nothing of each other.
        spreads(|i| ((client(i) >> 59) as u32) << 5 | (client(i) >> 27) as u32 & 31);
        spreads(|i| {
            place(flow_key_hashed([1, u64::from(i) << 40], 5, 6, SEED), SEED, u32::MAX).primary
        });
    }

    /// Two nodes of other versions must not disagree.
    #[test]
    fn salts_are_what_they_always_were() {
        let bytes = |text: &str| to_bytes(text.parse().unwrap());
        let web = service_salt(bytes("192.0.2.1"), 6, 80, 80);
        let range = service_salt(bytes("2001:db8::1"), 17, 8000, 8100);
        assert_eq!([web, range], [0x2fff_a127_0a4b_d2ed, 0x5347_898e_5982_a9f3]);
        assert_eq!(shared_salt(bytes("10.0.0.7"), 6), 0x3d37_ca4e_6716_7e1f);
    }

    #[test]
    fn hashed_keys_of_structured_flows_do_not_collide() {
        // Differences that cancel in plain multilinear hashing: equal high bits.
        let mut seen = HashSet::new();
        for i in 0..1u64 << 9 {
            for j in 0..1u64 << 9 {
                let key = flow_key_hashed([i << 55, j << 55], 0x5000, 1, SEED);
                assert!(seen.insert(key), "collision at {i} {j}");
            }
        }
    }
}

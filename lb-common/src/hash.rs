//! Hashes of a flow. Words are passed as loaded from the frame (network byte
//! order in memory), so both sides compute the same on the same machine type.
//!
//! Two independent uses, two seeds: *placing* a flow in the affinity table is
//! keyed by a secret, so nobody outside can aim at a bucket; *picking a slot*
//! of the Maglev table is keyed by the seed that all balancers of a VIP share.
//! Multiplications and shifts only: the BPF machine has no 128-bit product.

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
/// more than one port): a hash keyed by `seed`, never 0. For IPv4, `source` is
/// the address and 0.
#[inline(always)]
#[must_use]
pub const fn flow_key_hashed(source: [u64; 2], ports: u32, service: u16, seed: [u64; 2]) -> u64 {
    // Each word goes through a bijection that depends on the secret before
    // they are added, so no difference of addresses cancels out by design.
    let a = (source[0] ^ seed[0]).wrapping_mul(K0);
    let b = (source[1] ^ seed[1]).wrapping_mul(K1);
    let sum = (a ^ (a >> 32)).wrapping_add(b ^ (b >> 29));
    finish((sum ^ (ports as u64 | (service as u64) << 32)).wrapping_mul(K3)) | 1
}

/// Affinity key of a reply entry: of a hashed `key` whose "service" is an
/// endpoint that services share. Never 0, and told from flows by [`is_reply_key`].
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

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_face_cafe_beef];

    proptest! {
        #[test]
        fn reply_keys_are_told_from_flows(
            source: [u64; 2], ports: u32, service: u16, seed: [u64; 2],
        ) {
            let flow = flow_key_hashed(source, ports, service, seed);
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
        fn flipping_any_bit_changes_a_hashed_key(s: [u64; 2], ports: u32, svc: u16, bit in 0u32..176) {
            let key = flow_key_hashed(s, ports, svc, SEED);
            let (mut s2, mut p2, mut v2) = (s, ports, svc);
            match bit {
                0..64 => s2[0] ^= 1 << bit,
                64..128 => s2[1] ^= 1 << (bit - 64),
                128..160 => p2 ^= 1 << (bit - 128),
                _ => v2 ^= 1 << (bit - 160),
            }
            prop_assert_ne!(key, 0);
            prop_assert_ne!(key, flow_key_hashed(s2, p2, v2, SEED));
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

//! The Internet checksum in plain arithmetic, updated incrementally
//! (RFC 1071; RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! A *delta* is the ones' complement sum `~m + m'` over all words that change.
//! Words are taken as they lie in memory: the sum does not depend on byte
//! order (RFC 1071, section 2 B). Undoing a change is `!delta`.

use crate::addr::AddrBytes;

/// Folds a sum of 16-bit words to 16 bits with end-around carry.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Delta of one 16-bit word.
#[inline(always)]
#[must_use]
pub const fn delta16(old: u16, new: u16) -> u32 {
    (!old) as u32 + new as u32
}

/// Delta of one 32-bit word, not folded (at most `4 * 0xffff`).
#[inline(always)]
#[must_use]
pub const fn delta32(old: u32, new: u32) -> u32 {
    delta16(old as u16, new as u16) + delta16((old >> 16) as u16, (new >> 16) as u16)
}

/// Sum of the two 16-bit words of a 32-bit one.
#[inline(always)]
#[must_use]
pub const fn sum32(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Sum of the four 16-bit words of a 64-bit one.
#[inline(always)]
#[must_use]
pub const fn sum64(word: u64) -> u32 {
    sum32(word as u32) + sum32((word >> 32) as u32)
}

/// Delta of an address, folded; IPv4 addresses in mapped form have equal
/// prefixes, which add nothing.
#[must_use]
pub fn delta_addr(old: AddrBytes, new: AddrBytes) -> u16 {
    let mut sum = 0;
    let mut i = 0;
    while i < 16 {
        let old = u16::from_ne_bytes([old[i], old[i + 1]]);
        let new = u16::from_ne_bytes([new[i], new[i + 1]]);
        if old != new {
            sum += delta16(old, new);
        }
        i += 2;
    }
    fold(sum)
}

/// Applies a delta (folded or a sum of few) to a checksum field.
#[inline(always)]
#[must_use]
pub const fn update(field: u16, delta: u32) -> u16 {
    !fold((!field) as u32 + delta)
}

/// Applies a folded delta to a checksum field. Two words need be folded only
/// once.
#[inline(always)]
#[must_use]
pub const fn apply(field: u16, delta: u16) -> u16 {
    let sum = (field ^ 0xffff) as u32 + delta as u32;
    !((sum + (sum >> 16)) as u16)
}

/// Delta of a word whose first byte in memory becomes less by 1, whatever it
/// is: on a little-endian machine this is the low one, and `~m + (m - 1)` is
/// always the same.
pub const AGED: u16 = 0xfffe;

/// A delta and [`AGED`].
#[inline(always)]
#[must_use]
pub const fn aged(delta: u16) -> u16 {
    fold(delta as u32 + AGED as u32)
}

/// Applies a delta to a UDP checksum: 0 means "none" (RFC 768) and stays, a
/// result of 0 is sent as all ones.
#[inline(always)]
#[must_use]
pub const fn update_udp(field: u16, delta: u16) -> u16 {
    if field == 0 {
        return 0;
    }
    match apply(field, delta) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The sum of `bytes` as 16-bit words in memory order, folded; an odd byte is
/// padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = if let [a, b] = *pair { [a, b] } else { [pair[0], 0] };
        sum = u32::from(fold(sum + u32::from(u16::from_ne_bytes(word))));
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    /// Fills in the checksum at `at` from scratch.
    fn recompute(bytes: &[u8], at: usize) -> u16 {
        let mut copy = bytes.to_vec();
        copy[at..at + 2].fill(0);
        !sum(&copy)
    }

    proptest! {
        #[test]
        fn incremental_update_equals_recomputation(
            mut data in proptest::collection::vec(any::<u8>(), 20..60),
            words in proptest::collection::vec((0usize..28, any::<u16>()), 1..8),
        ) {
            let at = 10;
            let field = recompute(&data, at);
            data[at..at + 2].copy_from_slice(&field.to_ne_bytes());
            let mut delta = 0;
            for (word, new) in words {
                let i = word * 2;
                if i == at || i + 2 > data.len() { continue; }
                let old = u16::from_ne_bytes([data[i], data[i + 1]]);
                delta = u32::from(fold(delta + delta16(old, new)));
                data[i..i + 2].copy_from_slice(&new.to_ne_bytes());
            }
            let updated = update(field, delta);
            let full = recompute(&data, at);
            // 0x0000 and 0xffff are the same number; only an all-zero message
            // sums to the former.
            prop_assert!(updated == full || (updated, full) == (0, 0xffff) || (updated, full) == (0xffff, 0));
        }

        #[test]
        fn a_folded_delta_is_applied_as_any_other(field: u16, delta: u16) {
            prop_assert_eq!(apply(field, delta), update(field, u32::from(delta)));
        }

        #[test]
        fn a_byte_that_becomes_less_by_1_adds_what_is_said(
            mut data in proptest::collection::vec(any::<u8>(), 20), delta: u16,
        ) {
            let field = recompute(&data, 10);
            data[8] = data[8].max(1) - 1;
            let before = u16::from_ne_bytes([data[8] + 1, data[9]]);
            let word = delta16(before, u16::from_ne_bytes([data[8], data[9]]));
            prop_assert_eq!(fold(word), AGED);
            prop_assert_eq!(apply(field, aged(delta)), update(field, word + u32::from(delta)));
        }

        #[test]
        fn an_update_is_undone_by_the_complement(field: u16, old: u32, new: u32) {
            prop_assume!(field != 0 && field != 0xffff);
            let delta = fold(delta32(old, new));
            let there = update(field, u32::from(delta));
            let back = update(there, u32::from(!delta));
            prop_assert_eq!(back, field);
        }

        #[test]
        fn address_delta_equals_its_words(old: [u8; 16], new: [u8; 16], field: u16) {
            let mut message = [0u8; 18];
            message[..16].copy_from_slice(&old);
            message[16..].copy_from_slice(&field.to_ne_bytes());
            let before = !sum(&message);
            message[..16].copy_from_slice(&new);
            let after = !sum(&message);
            let updated = update(before, u32::from(delta_addr(old, new)));
            prop_assert!(updated == after || updated ^ after == 0xffff);
        }
    }

    #[test]
    fn udp_keeps_absence_and_never_makes_it() {
        assert_eq!(update_udp(0, 0x1234), 0);
        // ~0x0001 + delta = 0xffff would be a checksum of 0.
        assert_eq!(update_udp(0x0001, 1), 0xffff);
    }

    #[test]
    fn the_example_of_rfc_1624_holds() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285 gives 0x0000.
        assert_eq!(update(0xdd2f, delta16(0x5555, 0x3285)), 0x0000);
    }
}

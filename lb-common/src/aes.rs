//! AES-128 (FIPS 197), one block at a time: what connection IDs are encrypted by.
//!
//! The packet path has it by itself: there is no helper for ciphers, and the kernel's
//! functions (`bpf_crypto_encrypt`) are there from Linux 6.10 on only, take what a program
//! of another kind must have made, and cannot be called by way of aya.
//!
//! It looks into tables, so how long it takes depends on the key by way of the caches.
//! What an observer of that could learn is which connections have the same server, which
//! is all that the key hides; he would have to measure this host's caches from within
//! it, and there he sees where packets go. A cipher without tables takes several times
//! as long, for every packet.
//!
//! Columns are words, their first byte the most significant.

/// The keys of all rounds, a word for each column.
pub type RoundKeys = [[u32; 4]; ROUNDS + 1];

/// Rounds for a key of 128 bits (FIPS 197, section 5).
const ROUNDS: usize = 10;

/// Substitution of bytes (section 5.1.1), its inverse, and both with the mixing of
/// columns behind them (section 5.1.3 and 5.3.3), as the first byte of a column takes
/// part in it.
static TABLES: Tables = Tables::new();

struct Tables {
    mixed: [u32; 256],
    unmixed: [u32; 256],
    inverse: [u8; 256],
}

impl Tables {
    const fn new() -> Self {
        let mut tables = Self { mixed: [0; 256], unmixed: [0; 256], inverse: [0; 256] };
        let mut byte = 0;
        while byte < 256 {
            let substitute = substitute(byte as u8);
            tables.inverse[substitute as usize] = byte as u8;
            tables.mixed[byte] = column(substitute, [2, 1, 1, 3]);
            tables.unmixed[substitute as usize] = column(byte as u8, [14, 9, 13, 11]);
            byte += 1;
        }
        tables
    }
}

/// What a byte adds to each byte of its column.
const fn column(byte: u8, factors: [u8; 4]) -> u32 {
    let [a, b, c, d] = factors;
    u32::from_be_bytes([times(byte, a), times(byte, b), times(byte, c), times(byte, d)])
}

/// Product in the field of section 4.2.
const fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// Section 5.1.1: the inverse in the field, and an affine map.
const fn substitute(byte: u8) -> u8 {
    // The field has 255 units, so the 254th power is the inverse.
    let (mut inverse, mut power) = (1, 0);
    while power < 254 {
        inverse = times(inverse, byte);
        power += 1;
    }
    let mut sum = inverse ^ 0x63;
    let mut turn = 1;
    while turn < 5 {
        sum ^= inverse.rotate_left(turn);
        turn += 1;
    }
    sum
}

/// The keys of [`encrypt`] (section 5.2).
#[must_use]
pub const fn expand(key: [u8; 16]) -> RoundKeys {
    let number = u128::from_be_bytes(key);
    let mut keys = [[0; 4]; ROUNDS + 1];
    keys[0] = words([(number >> 64) as u64, number as u64]);
    let (mut round, mut constant) = (1, 1u8);
    while round <= ROUNDS {
        let [a, b, c, d] = keys[round - 1];
        let [w, x, y, z] = d.rotate_left(8).to_be_bytes();
        let mixed = [substitute(w) ^ constant, substitute(x), substitute(y), substitute(z)];
        let a = a ^ u32::from_be_bytes(mixed);
        keys[round] = [a, a ^ b, a ^ b ^ c, a ^ b ^ c ^ d];
        constant = times(constant, 2);
        round += 1;
    }
    keys
}

/// The keys of [`decrypt`]: in reverse, and mixed but for the first and the last
/// (section 5.3.5).
#[must_use]
pub const fn expand_inverse(key: [u8; 16]) -> RoundKeys {
    let keys = expand(key);
    let mut inverse = keys;
    let mut round = 0;
    while round <= ROUNDS {
        inverse[round] = keys[ROUNDS - round];
        if round != 0 && round != ROUNDS {
            let mut at = 0;
            while at < 4 {
                inverse[round][at] = unmix(inverse[round][at]);
                at += 1;
            }
        }
        round += 1;
    }
    inverse
}

/// Section 5.3.3, of one column.
const fn unmix(word: u32) -> u32 {
    let [a, b, c, d] = word.to_be_bytes();
    column(a, [14, 9, 13, 11])
        ^ column(b, [14, 9, 13, 11]).rotate_right(8)
        ^ column(c, [14, 9, 13, 11]).rotate_right(16)
        ^ column(d, [14, 9, 13, 11]).rotate_right(24)
}

/// Encrypts a block, its first byte the most significant.
#[inline(always)]
#[must_use]
pub fn encrypt(keys: &RoundKeys, block: [u64; 2]) -> [u64; 2] {
    let mixed = &TABLES.mixed;
    let look = |a: u32, b: u32, c: u32, d: u32| {
        mixed[byte(a, 24)]
            ^ mixed[byte(b, 16)].rotate_right(8)
            ^ mixed[byte(c, 8)].rotate_right(16)
            ^ mixed[byte(d, 0)].rotate_right(24)
    };
    // The last two bytes that a substitution adds to its column are itself and thrice it.
    let substitute = |byte: usize| mixed[byte] >> 8 & 0xff;
    let last = |a: u32, b: u32, c: u32, d: u32| {
        substitute(byte(a, 24)) << 24
            | substitute(byte(b, 16)) << 16
            | substitute(byte(c, 8)) << 8
            | substitute(byte(d, 0))
    };
    let mut state = add(words(block), &keys[0]);
    let mut round = 1;
    while round < ROUNDS {
        let [a, b, c, d] = state;
        let next = [look(a, b, c, d), look(b, c, d, a), look(c, d, a, b), look(d, a, b, c)];
        state = add(next, &keys[round]);
        round += 1;
    }
    let [a, b, c, d] = state;
    let next = [last(a, b, c, d), last(b, c, d, a), last(c, d, a, b), last(d, a, b, c)];
    block_of(add(next, &keys[ROUNDS]))
}

/// Decrypts a block with keys of [`expand_inverse`].
#[inline(always)]
#[must_use]
pub fn decrypt(keys: &RoundKeys, block: [u64; 2]) -> [u64; 2] {
    let Tables { unmixed, inverse, .. } = &TABLES;
    let look = |a: u32, b: u32, c: u32, d: u32| {
        unmixed[byte(a, 24)]
            ^ unmixed[byte(b, 16)].rotate_right(8)
            ^ unmixed[byte(c, 8)].rotate_right(16)
            ^ unmixed[byte(d, 0)].rotate_right(24)
    };
    let last = |a: u32, b: u32, c: u32, d: u32| {
        u32::from(inverse[byte(a, 24)]) << 24
            | u32::from(inverse[byte(b, 16)]) << 16
            | u32::from(inverse[byte(c, 8)]) << 8
            | u32::from(inverse[byte(d, 0)])
    };
    let mut state = add(words(block), &keys[0]);
    let mut round = 1;
    while round < ROUNDS {
        let [a, b, c, d] = state;
        let next = [look(a, d, c, b), look(b, a, d, c), look(c, b, a, d), look(d, c, b, a)];
        state = add(next, &keys[round]);
        round += 1;
    }
    let [a, b, c, d] = state;
    let next = [last(a, d, c, b), last(b, a, d, c), last(c, b, a, d), last(d, c, b, a)];
    block_of(add(next, &keys[ROUNDS]))
}

/// The byte of a word that `shift` bits are behind.
#[inline(always)]
const fn byte(word: u32, shift: u32) -> usize {
    (word >> shift & 0xff) as usize
}

#[inline(always)]
const fn words([high, low]: [u64; 2]) -> [u32; 4] {
    [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32]
}

#[inline(always)]
const fn block_of([a, b, c, d]: [u32; 4]) -> [u64; 2] {
    [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64]
}

#[inline(always)]
const fn add([a, b, c, d]: [u32; 4], key: &[u32; 4]) -> [u32; 4] {
    [a ^ key[0], b ^ key[1], c ^ key[2], d ^ key[3]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u128) -> [u64; 2] {
        [(number >> 64) as u64, number as u64]
    }

    /// FIPS 197, appendix C.1.
    #[test]
    fn the_vector_of_the_standard() {
        let key = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f_u128.to_be_bytes();
        let plain = block(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let cipher = block(0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a);
        assert_eq!(encrypt(&expand(key), plain), cipher);
        assert_eq!(decrypt(&expand_inverse(key), cipher), plain);
    }

    /// FIPS 197, appendix A.1.
    #[test]
    fn the_expanded_key_of_the_standard() {
        let keys = expand(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes());
        assert_eq!(keys[1], [0xa0fa_fe17, 0x8854_2cb1, 0x23a3_3939, 0x2a6c_7605]);
        assert_eq!(keys[10], [0xd014_f9a8, 0xc9ee_2589, 0xe13f_0cc8, 0xb663_0ca6]);
    }

    /// FIPS 197, figures 7 and 14.
    #[test]
    fn substitutions_of_the_standard() {
        for (byte, other) in [(0, 0x63), (0x53, 0xed), (0xff, 0x16), (0x10, 0xca)] {
            assert_eq!(substitute(byte), other);
            assert_eq!(TABLES.inverse[usize::from(other)], byte);
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(key: [u8; 16], plain: [u64; 2]) {
            let cipher = encrypt(&expand(key), plain);
            prop_assert_eq!(decrypt(&expand_inverse(key), cipher), plain);
        }
    }
}

//! By the test vectors of the draft (QUIC-LB, appendix B).

extern crate std;
use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;

/// Octets of hexadecimal digits.
fn octets(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(digit).collect()
}

/// The first octet of a connection ID and its body, as the packet path loads them;
/// behind it is what else the packet has.
fn load(cid: &[u8]) -> (u8, [u64; 3]) {
    let mut at = [0xa5; LONGEST as usize];
    at[..cid.len()].copy_from_slice(cid);
    let words = (&at[1..9], &at[9..17], &at[16..20]);
    let word = |octets: &[u8]| u64::from_ne_bytes(octets.try_into().unwrap());
    let back = u32::from_ne_bytes(words.2.try_into().unwrap());
    (at[0], body(word(words.0), word(words.1), back))
}

/// Octets of a block, zeros behind them.
fn block(octets: &[u8]) -> Block {
    let mut bytes = [0; 16];
    bytes[..octets.len()].copy_from_slice(octets);
    let number = u128::from_be_bytes(bytes);
    [(number >> 64) as u64, number as u64]
}

fn read(config: &CidConfig, body: [u64; 3]) -> Block {
    config.server_id(body, |block| config.cipher(block))
}

fn plain(server_id_length: u8, nonce_length: u8) -> CidConfig {
    CidConfig { server_id_length, nonce_length, ..CidConfig::ZERO }
}

/// Appendix B.1. The second one is misprinted there: "20a" is the first octet, 1 and a
/// length of 10 octets, and the nonce of five octets lacks its first digit.
#[test]
fn plaintext_vectors_of_the_draft() {
    for (rotation, sid, nonce, cid) in [
        (0, "c4605e", "4504cc4f", "07c4605e4504cc4f"),
        (1, "350d28b420", "03487d970b", "2a350d28b42003487d970b"),
    ] {
        let (sid, nonce, cid) = (octets(sid), octets(nonce), octets(cid));
        let config = plain(sid.len() as u8, nonce.len() as u8);
        let (first, body) = load(&cid);
        assert_eq!(index(5, first), 5 * ROTATIONS + rotation);
        assert_eq!(config.shortest(), cid.len() as u64);
        assert_eq!(read(&config, body), block(&sid));
    }
}

/// Appendix B.2, all under one key. The first octet of the last one is misprinted there,
/// as that of rotation 0.
#[test]
fn encrypted_vectors_of_the_draft() {
    let key = octets("8f95f09245765f80256934e50c66207f").try_into().unwrap();
    for (rotation, sid, nonce, cid) in [
        (0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
        (1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
        (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
        (3, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    ] {
        let (sid, nonce, cid) = (octets(sid), octets(nonce), octets(cid));
        let config = plain(sid.len() as u8, nonce.len() as u8).with_key(key);
        let (first, body) = load(&cid);
        assert_eq!(index(0, first), rotation);
        assert_eq!(config.shortest(), cid.len() as u64);
        assert_eq!(read(&config, body), block(&sid), "{rotation}");
    }
}

/// Section 5.4.2.4, which shows every step.
#[test]
fn the_example_of_the_draft() {
    let key = octets("fdf726a9893ec05c0632d3956680baf0").try_into().unwrap();
    let (_, body) = load(&octets("0767947d29be054a"));
    assert_eq!(read(&plain(3, 4).with_key(key), body), block(&octets("31441a")));
}

/// What a server does (section 5.4.2.3), octet by octet as the draft has it.
fn encrypted(key: [u8; 16], first: u8, plain: &[u8]) -> Vec<u8> {
    let keys = aes::expand(key);
    let cipher = |input: [u8; 16]| {
        let [high, low] = aes::encrypt(&keys, block(&input));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    };
    let length = plain.len();
    if length == 16 {
        return [&[first], &cipher(plain.try_into().unwrap())[..]].concat();
    }
    let half = length.div_ceil(2);
    let clear = |side: usize, octets: &mut [u8]| match (length % 2, side) {
        (0, _) => {}
        (_, 0) => octets[half - 1] &= 0xf0,
        (_, _) => octets[0] &= 0x0f,
    };
    let mut sides = [plain[..half].to_vec(), plain[length - half..].to_vec()];
    (0..2).for_each(|side| clear(side, &mut sides[side]));
    for pass in 1..=4 {
        let (from, to) = if pass % 2 == 1 { (0, 1) } else { (1, 0) };
        let mut input = [0; 16];
        input[..half].copy_from_slice(&sides[from]);
        (input[14], input[15]) = (length as u8, pass);
        let result = cipher(input);
        sides[to].iter_mut().zip(result).for_each(|(octet, by)| *octet ^= by);
        clear(to, &mut sides[to]);
    }
    let [left, right] = sides;
    let mut cid = vec![first; 1 + length];
    cid[1..=half].copy_from_slice(&left);
    for (at, octet) in (1 + length - half..).zip(right) {
        cid[at] = if at <= half { cid[at] | octet } else { octet };
    }
    cid
}

proptest! {
    #[test]
    fn what_a_server_encrypts_is_read(
        key: [u8; 16],
        plain_octets: [u8; 19],
        (sid, nonce) in (1..=LONGEST_SERVER_ID)
            .prop_flat_map(|sid| (Just(sid), SHORTEST_NONCE..=LONGEST - 1 - sid)),
    ) {
        let text = &plain_octets[..usize::from(sid + nonce)];
        let (_, body) = load(&encrypted(key, 0x40, text));
        let config = plain(sid, nonce).with_key(key);
        prop_assert_eq!(read(&config, body), block(&text[..usize::from(sid)]));
    }

    #[test]
    fn a_plain_server_id_is_what_stands_behind_the_first_octet(
        cid: [u8; LONGEST as usize], length in 1..=LONGEST_SERVER_ID,
    ) {
        let (first, body) = load(&cid);
        prop_assert_eq!(index(0, first), u32::from(cid[0] >> 5));
        let id = read(&plain(length, SHORTEST_NONCE), body);
        prop_assert_eq!(id, block(&cid[1..=usize::from(length)]));
    }

    #[test]
    fn a_key_gives_back_its_parts(set: u16, length: u8, id: Block) {
        prop_assert_eq!(parts(key(set, length, id)), (set, length, id));
    }

    #[test]
    fn shifts_are_those_of_long_numbers(a: u64, b: u64, c: u64, bits in 0_u32..128) {
        let long = |[high, low]: Block| u128::from(high) << 64 | u128::from(low);
        prop_assert_eq!(long(right([a, b], bits)), long([a, b]) >> bits);
        let rest = if bits == 0 { 0 } else { long([c, 0]) >> (128 - bits) };
        prop_assert_eq!(long(left([a, b, c], bits)), long([a, b]) << bits | rest);
    }

    #[test]
    fn a_mask_is_of_the_first_bits(bits in 0_u32..=128) {
        let [high, low] = mask(bits);
        let whole = u128::from(high) << 64 | u128::from(low);
        prop_assert_eq!((whole.leading_ones(), whole.count_ones()), (bits, bits));
    }
}

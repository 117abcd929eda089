//! By the test vectors of the draft (QUIC-LB, appendix B).

extern crate std;
use std::vec::Vec;

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
        assert_eq!(config.server_id(body), block(&sid));
    }
}

proptest! {
    #[test]
    fn a_plain_server_id_is_what_stands_behind_the_first_octet(
        cid: [u8; LONGEST as usize], length in 1..=LONGEST_SERVER_ID,
    ) {
        let (first, body) = load(&cid);
        prop_assert_eq!(index(0, first), u32::from(cid[0] >> 5));
        let id = plain(length, SHORTEST_NONCE).server_id(body);
        prop_assert_eq!(id, block(&cid[1..=usize::from(length)]));
    }

    #[test]
    fn a_key_gives_back_its_parts(set: u16, length: u8, id: Block) {
        prop_assert_eq!(parts(key(set, length, id)), (set, length, id));
    }

    #[test]
    fn a_mask_is_of_the_first_bits(bits in 0_u32..=128) {
        let [high, low] = mask(bits);
        let whole = u128::from(high) << 64 | u128::from(low);
        prop_assert_eq!((whole.leading_ones(), whole.count_ones()), (bits, bits));
    }
}

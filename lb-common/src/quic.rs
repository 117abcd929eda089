//! Connection IDs of QUIC that say which server they belong to:
//! draft-ietf-quic-load-balancers-21, cited as *QUIC-LB*.
//!
//! The configurations of a service and the IDs of its servers are a *set*, named by
//! a number that the service's entry carries. A set is written before a service
//! refers to it and never changed: another one takes its place.

use crate::{
    aes::{self, RoundKeys},
    pod::map_type,
};

/// Octets of a connection ID at most (RFC 9000, section 17.2).
pub const LONGEST: u8 = 20;
/// Values of the rotation bits, by which a connection ID names its configuration
/// (QUIC-LB, section 3.1).
pub const ROTATIONS: u32 = 8;
/// Configurations of a service at most: the last rotation stands for none
/// (section 3.2).
pub const CONFIGS: u32 = ROTATIONS - 1;
/// Octets of a nonce at least (section 5.3).
pub const SHORTEST_NONCE: u8 = 4;
/// Octets of a server ID at most: beside the first octet and the nonce.
pub const LONGEST_SERVER_ID: u8 = LONGEST - 1 - SHORTEST_NONCE;

/// 128 bits, the most significant first.
pub type Block = [u64; 2];

map_type! {
    /// One configuration of a set: an entry of `QUIC_CONFIGS`, by [`index`].
    pub struct CidConfig: 184 {
        /// Octets of a server ID; 0: there is no such configuration.
        0 => pub server_id_length: u8,
        /// Octets of the nonce behind it.
        1 => pub nonce_length: u8,
        /// Whether both are encrypted: 1 or 0.
        2 => pub keyed: u8,
        3 => pub _pad: [u8; 5],
        /// If so: those of [`aes::decrypt`] where [`Self::is_one_block`], else those of
        /// [`aes::encrypt`].
        8 => pub keys: RoundKeys,
    }
}

impl CidConfig {
    /// Octets that a connection ID of this configuration has at least.
    #[inline(always)]
    #[must_use]
    pub const fn shortest(&self) -> u64 {
        1 + self.server_id_length as u64 + self.nonce_length as u64
    }

    /// Whether what is encrypted is just one block (QUIC-LB, section 5.4.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_one_block(&self) -> bool {
        self.server_id_length + self.nonce_length == 16
    }

    /// This configuration with a key.
    #[must_use]
    pub const fn with_key(self, key: [u8; 16]) -> Self {
        let keys = if self.is_one_block() { aes::expand_inverse(key) } else { aes::expand(key) };
        Self { keyed: 1, keys, ..self }
    }

    /// A block as its cipher makes it: decrypted where all is in one, else encrypted.
    #[inline(always)]
    #[must_use]
    pub fn cipher(&self, block: Block) -> Block {
        if self.is_one_block() {
            aes::decrypt(&self.keys, block)
        } else {
            aes::encrypt(&self.keys, block)
        }
    }

    /// The server ID in the [`body`] of a connection ID, zeros behind it. `cipher` is
    /// [`Self::cipher`], by itself or by way of a call: the packet path has no room for
    /// more than one of it.
    #[inline(always)]
    #[must_use]
    pub fn server_id(&self, body: [u64; 3], cipher: impl Fn(Block) -> Block) -> Block {
        let first = [body[0], body[1]];
        let plain = if self.keyed == 0 {
            first
        } else if self.is_one_block() {
            cipher(first)
        } else {
            self.unfold(body, cipher)
        };
        and(plain, mask(8 * u32::from(self.server_id_length)))
    }

    /// Undoes the four passes of a Feistel network (section 5.5.2), or the last three
    /// where they give the server ID. The halves are as in the draft, at the front of a
    /// block: `length` octets are twice as many digits, so each half has `length` of
    /// them, and if that is odd the right one begins with a zero.
    #[inline(always)]
    fn unfold(&self, body: [u64; 3], cipher: impl Fn(Block) -> Block) -> Block {
        let length = u32::from(self.server_id_length) + u32::from(self.nonce_length);
        let (half, odd) = (4 * length, 4 * (length & 1));
        let left_mask = mask(half);
        let right_mask = right(left_mask, odd);
        let (mut mixed, mut mask) = (and([body[0], body[1]], left_mask), left_mask);
        let (mut by, mut by_mask) = (and(right(left(body, half), odd), right_mask), right_mask);
        let last = if 2 * u32::from(self.server_id_length) > length { 1 } else { 2 };
        let mut pass = 4;
        while pass >= last {
            let expanded = [by[0], by[1] | u64::from(length << 8 | pass)];
            let result = and(cipher(expanded), mask);
            (mixed, by) = (by, [mixed[0] ^ result[0], mixed[1] ^ result[1]]);
            (mask, by_mask) = (by_mask, mask);
            pass -= 1;
        }
        if last == 2 {
            return by;
        }
        let rest = right(left([by[0], by[1], 0], odd), half);
        [mixed[0] | rest[0], mixed[1] | rest[1]]
    }
}

/// Index of the configuration that the first octet of a connection ID names.
#[inline(always)]
#[must_use]
pub const fn index(set: u16, first: u8) -> u32 {
    set as u32 * ROTATIONS + (first >> 5) as u32
}

/// What is behind the first octet of a connection ID, the most significant first and
/// the rest zeros. `front` and `middle` are its octets 1 to 8 and 9 to 16 and `back`
/// 16 to 19, as loaded from a frame.
#[inline(always)]
#[must_use]
pub const fn body(front: u64, middle: u64, back: u32) -> [u64; 3] {
    // The first octet of `back` is shifted out.
    [u64::from_be(front), u64::from_be(middle), (u32::from_be(back) as u64) << 40]
}

/// Key into `QUIC_SERVERS`: a server ID of `length` octets in a set. IDs of different
/// lengths are different ones.
#[inline(always)]
#[must_use]
pub const fn key(set: u16, length: u8, id: Block) -> [u32; 5] {
    let [high, low] = id;
    let first = set as u32 | (length as u32) << 16;
    [first, (high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32]
}

/// What a key was made of.
#[must_use]
pub const fn parts(key: [u32; 5]) -> (u16, u8, Block) {
    let [first, a, b, c, d] = key;
    let id = [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64];
    (first as u16, (first >> 16) as u8, id)
}

#[inline(always)]
const fn and(a: Block, b: Block) -> Block {
    [a[0] & b[0], a[1] & b[1]]
}

/// The block that begins `bits` bits, fewer than 128, behind the first.
#[inline(always)]
const fn left([a, b, c]: [u64; 3], bits: u32) -> Block {
    let (a, b, c, bits) = if bits < 64 { (a, b, c, bits) } else { (b, c, 0, bits - 64) };
    // In two steps: no word is shifted by 64.
    [a << bits | b >> 1 >> (63 - bits), b << bits | c >> 1 >> (63 - bits)]
}

/// A block moved `bits` bits, fewer than 128, to its end.
#[inline(always)]
const fn right([a, b]: Block, bits: u32) -> Block {
    let (a, b, bits) = if bits < 64 { (a, b, bits) } else { (0, a, bits - 64) };
    [a >> bits, b >> bits | a << 1 << (63 - bits)]
}

/// The first `bits` bits of a block, at most 128.
#[inline(always)]
const fn mask(bits: u32) -> Block {
    if bits < 64 { [top(bits), 0] } else { [u64::MAX, top(bits - 64)] }
}

/// The first `bits` bits of a word, at most 64.
#[inline(always)]
const fn top(bits: u32) -> u64 {
    if bits == 0 { 0 } else { u64::MAX << (64 - bits) }
}

#[cfg(test)]
mod tests;

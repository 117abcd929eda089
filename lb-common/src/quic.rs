//! Connection IDs of QUIC that say which server they belong to:
//! draft-ietf-quic-load-balancers-21, cited as *QUIC-LB*.
//!
//! The configurations of a service and the IDs of its servers are a *set*, named by
//! a number that the service's entry carries. A set is written before a service
//! refers to it and never changed: another one takes its place.

use crate::pod::map_type;

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
    pub struct CidConfig: 8 {
        /// Octets of a server ID; 0: there is no such configuration.
        0 => pub server_id_length: u8,
        /// Octets of the nonce behind it.
        1 => pub nonce_length: u8,
        2 => pub _pad: [u8; 6],
    }
}

impl CidConfig {
    /// Octets that a connection ID of this configuration has at least.
    #[inline(always)]
    #[must_use]
    pub const fn shortest(&self) -> u64 {
        1 + self.server_id_length as u64 + self.nonce_length as u64
    }

    /// The server ID in the [`body`] of a connection ID, zeros behind it.
    #[inline(always)]
    #[must_use]
    pub const fn server_id(&self, body: [u64; 3]) -> Block {
        let [high, low] = mask(8 * self.server_id_length as u32);
        [body[0] & high, body[1] & low]
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

/// The first `bits` bits of a block; all from 128 on.
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

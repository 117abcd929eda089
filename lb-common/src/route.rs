//! Routes by source: which blocks of its service's table a client is looked up
//! in, by the longest prefix of its address.
//!
//! The routes of a service are a *set*, named by a number that its
//! [`crate::table::TableRef`] carries: so table and routes change together, by
//! one store, and the table before has the routes that belong to it. A set
//! always has the prefix of length 0, the way of clients that no route names.
//!
//! The sources that a service is for (`allow_sources`) are a set likewise, which
//! [`crate::service::Service::sources`] names: who is found in it is served.

/// Bits of a key of `ROUTES` before the address: the set's number, which must
/// match whole.
pub const SET_BITS: u32 = 32;

/// Data of a key of `ROUTES`: the set's number, then the address as loaded from
/// a frame, IPv4 as the first word and 0. Its prefix length is [`SET_BITS`] and
/// that of the address.
#[inline(always)]
#[must_use]
pub fn key(set: u16, addr: [u64; 2]) -> [u32; 5] {
    let [a, b, c, d] = bytemuck::cast(addr);
    [set.into(), a, b, c, d]
}

/// A run of blocks of a table: value of `ROUTES`. Clients are shared out to
/// them by their lot.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Blocks(u32);

impl Blocks {
    /// What a set of sources has for each of its prefixes: they lead nowhere.
    pub const NONE: Self = Self(0);

    /// `count` blocks from number `first` on.
    #[inline(always)]
    #[must_use]
    pub const fn new(first: u16, count: u16) -> Self {
        Self(first as u32 | (count as u32) << 16)
    }

    /// Number of the first.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u32 {
        self.0 & 0xffff
    }

    /// How many.
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0 >> 16
    }
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(transparent)]` over a word.
unsafe impl aya::Pod for Blocks {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_address_as_it_is_in_the_frame() {
        let addr = crate::addr::to_bytes("2001:db8::42".parse().unwrap());
        let [set, rest @ ..] = key(7, crate::addr::words(addr));
        assert_eq!(set, 7);
        assert_eq!(bytemuck::cast::<_, [u8; 16]>(rest), addr);
        let v4 = crate::addr::v4_word("192.0.2.1".parse().unwrap());
        let [_, first, rest @ ..] = key(7, [v4.into(), 0]);
        assert_eq!((first.to_ne_bytes(), rest), ([192, 0, 2, 1], [0; 3]));
    }

    #[test]
    fn blocks_are_what_they_were_made_of() {
        for (first, count) in [(0, 1), (128, 1), (0, 128), (4094, 1)] {
            let blocks = Blocks::new(first, count);
            assert_eq!((blocks.first(), blocks.count()), (first.into(), count.into()));
        }
    }
}

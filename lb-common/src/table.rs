//! Maglev lookup tables as `TABLES` holds them: runs of cache lines of 32
//! backend ids, since an entry of a BPF array is never smaller than 8 bytes.

use crate::{limits::TABLE_LINES, pod::map_type};

/// Slots in one line.
pub const LINE_SLOTS: u32 = 32;

map_type! {
    /// One line of a table: 32 slots, each a backend id.
    pub struct Line: 64 {
        /// Backend ids; past the end of a table 0.
        0 => pub slots: [u16; 32],
    }
}

/// Where a table lies: first line (20 bits), set of routes (12), slots of a
/// block (20), blocks (12) in one word, which is read and written whole.
///
/// A table has one block as a rule. One of several is as many tables of equal
/// size, one behind the other without a gap: which of them a flow is looked up
/// in is the client's lot, not the flow's. With a set of routes (see
/// [`crate::route`]) the client's address decides first, among how many.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TableRef(pub u64);

impl TableRef {
    /// No table.
    pub const NONE: Self = Self(0);
    /// Most slots of a block.
    pub const MAX_SLOTS: u32 = (1 << 20) - 1;
    /// Most blocks.
    pub const MAX_BLOCKS: u32 = (1 << 12) - 1;
    /// Highest number of a set of routes.
    pub const MAX_ROUTES: u16 = (1 << 12) - 1;

    /// A table of `blocks` blocks of `slots` slots each, from line `first` on,
    /// without routes.
    ///
    /// # Panics
    /// There is no such line, or more than [`Self::MAX_SLOTS`] or
    /// [`Self::MAX_BLOCKS`].
    #[must_use]
    pub const fn new(first: u32, slots: u32, blocks: u32) -> Self {
        assert!(first < TABLE_LINES && slots <= Self::MAX_SLOTS && blocks <= Self::MAX_BLOCKS);
        Self(first as u64 | (slots as u64) << 32 | (blocks as u64) << 52)
    }

    /// The same table with another set of routes; 0: none. No table can have
    /// routes, too.
    ///
    /// # Panics
    /// More than [`Self::MAX_ROUTES`].
    #[must_use]
    pub const fn with_routes(self, set: u16) -> Self {
        assert!(set <= Self::MAX_ROUTES);
        let others = !((Self::MAX_ROUTES as u64) << FIRST_BITS);
        Self(self.0 & others | (set as u64) << FIRST_BITS)
    }

    /// First line in `TABLES`.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u32 {
        self.0 as u32 & ((1 << FIRST_BITS) - 1)
    }

    /// Number of its set of routes; 0: none.
    #[inline(always)]
    #[must_use]
    pub const fn routes(self) -> u16 {
        (self.0 >> FIRST_BITS) as u16 & Self::MAX_ROUTES
    }

    /// Slots of a block; 0: no table.
    #[inline(always)]
    #[must_use]
    pub const fn slots(self) -> u32 {
        (self.0 >> 32) as u32 & Self::MAX_SLOTS
    }

    /// Blocks.
    #[inline(always)]
    #[must_use]
    pub const fn blocks(self) -> u32 {
        (self.0 >> 52) as u32
    }

    /// Whether there is no table.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.slots() == 0
    }

    /// Slots of all blocks.
    #[inline(always)]
    #[must_use]
    pub const fn size(self) -> u32 {
        self.slots() * self.blocks()
    }
}

/// Bits of [`TableRef`] that hold the first line.
const FIRST_BITS: u32 = 20;
const _: () = assert!(TABLE_LINES <= 1 << FIRST_BITS);

/// Lines that a table of `slots` slots takes.
#[must_use]
pub const fn lines(slots: u32) -> u32 {
    slots.div_ceil(LINE_SLOTS)
}

/// Slot of a flow: maps a 32-bit hash to `0..slots` by multiplication (a
/// remainder costs a division). The number of slots is prime for the sake of
/// the permutations, not of this step.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_reference_gives_back_what_was_put_in(
            first in 0..TABLE_LINES, slots in 1..=TableRef::MAX_SLOTS,
            blocks in 1..=TableRef::MAX_BLOCKS, routes in 0..=TableRef::MAX_ROUTES, other: u64
        ) {
            let other = (other & u64::from(TableRef::MAX_ROUTES)) as u16;
            let table = TableRef::new(first, slots, blocks).with_routes(other).with_routes(routes);
            prop_assert_eq!((table.first(), table.slots(), table.blocks()), (first, slots, blocks));
            prop_assert_eq!(table.routes(), routes);
            prop_assert!(!table.is_none());
            prop_assert!(TableRef::NONE.with_routes(routes).is_none());
        }
    }
}

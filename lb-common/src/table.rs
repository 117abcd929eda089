//! Maglev lookup tables as `TABLES` holds them: runs of cache lines of 32
//! backend ids, since an entry of a BPF array is never smaller than 8 bytes.

use crate::pod::map_type;

/// Slots in one line.
pub const LINE_SLOTS: u32 = 32;

map_type! {
    /// One line of a table: 32 slots, each a backend id.
    pub struct Line: 64 {
        /// Backend ids; past the end of a table 0.
        0 => pub slots: [u16; 32],
    }
}

/// Where a table lies: first line (32 bits), slots of a block (20), blocks (12)
/// in one word, which is read and written whole.
///
/// A table has one block as a rule. One of several is as many tables of equal
/// size, one behind the other without a gap: which of them a flow is looked up
/// in is the client's lot, not the flow's.
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

    /// A table of `blocks` blocks of `slots` slots each, from line `first` on.
    ///
    /// # Panics
    /// More than [`Self::MAX_SLOTS`] or [`Self::MAX_BLOCKS`].
    #[must_use]
    pub const fn new(first: u32, slots: u32, blocks: u32) -> Self {
        assert!(slots <= Self::MAX_SLOTS && blocks <= Self::MAX_BLOCKS);
        Self(first as u64 | (slots as u64) << 32 | (blocks as u64) << 52)
    }

    /// First line in `TABLES`.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u32 {
        self.0 as u32
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
            first: u32, slots in 1..=TableRef::MAX_SLOTS, blocks in 1..=TableRef::MAX_BLOCKS
        ) {
            let table = TableRef::new(first, slots, blocks);
            prop_assert_eq!((table.first(), table.slots(), table.blocks()), (first, slots, blocks));
            prop_assert!(!table.is_none());
        }
    }
}

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

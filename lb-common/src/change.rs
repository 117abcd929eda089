//! Which buckets of the affinity table have what the peer of a pair should
//! know: packets mark them in `CHANGES`, the agent takes the marks and reads the
//! buckets.
//!
//! A flow is marked when its state changes, and when it is recorded as an
//! exception ([`crate::flow::FlowState::Exception`]): the lookup tables disagree
//! about it, it takes an entry over from another backend, which the peer may have
//! yet, or it is a reply's binding. Any other new flow is not: the peer would
//! choose the same, and a flood of new flows costs nothing. Nor does a flood of
//! SYNs to a shared endpoint: who lost the binding of a SYN makes it again by the
//! next packet.
//!
//! # Order
//! A packet stores the entry, then its mark, and never reads marks: so there is
//! one byte for each kind of mark, and none can undo another. The agent swaps a
//! mark for 0, then reads the bucket. On machines that keep stores in order (x86)
//! it sees every entry whose mark it took; a mark that comes later it takes the
//! next time. Elsewhere the mark would have to be a store with release, which
//! the BPF machine only has since Linux 6.15: a change may go unseen there,
//! until the agent looks at all buckets, as it does from time to time.

use crate::pod::map_type;

/// Buckets of the affinity table that one line is about.
pub const BUCKETS: u32 = 32;

map_type! {
    /// Marks of [`BUCKETS`] buckets in a row, a byte each; 0 is none.
    pub struct ChangeLine: 64 {
        /// Buckets with [`Mark::Changed`].
        0 => pub changed: [u8; BUCKETS as usize],
        /// Buckets with [`Mark::Exception`].
        32 => pub exceptions: [u8; BUCKETS as usize],
    }
}

/// What a bucket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A flow whose state changed.
    Changed,
    /// A flow that the peer would send elsewhere by its own tables, or a reply's
    /// binding, which no table has.
    Exception,
}

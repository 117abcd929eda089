//! What the packet path finds on the way of a packet, for `lb explain`.

use crate::{pod::map_type, table::TableRef};

map_type! {
    /// The entry of `TRACE`, written by the program that explains. The agent
    /// clears it before a run.
    pub struct Record: 64 {
        /// What became of the packet: number of the action (0 pass, 1 drop, 2
        /// back out, 3 out of another interface) in the high half, of its
        /// [`crate::stats::Counter`] or its interface in the low half.
        0 => pub verdict: u64,
        /// Bits of [`steps`].
        8 => pub steps: u32,
        /// Service the packet is for; 0: none.
        12 => pub service: u16,
        /// Backend it goes to or comes from; 0: none.
        14 => pub backend: u16,
        /// [`crate::flow::FlowValue`] of the entry that was found.
        16 => pub entry: u64,
        /// Current Maglev table, where tables were looked into.
        24 => pub table: TableRef,
        /// The table before it.
        32 => pub previous: TableRef,
        /// Slot in the current table, counted through all blocks.
        40 => pub slot: u32,
        /// Backend in the current table's slot; 0: none.
        44 => pub current_backend: u16,
        /// Backend in the previous table's slot; 0: none.
        46 => pub previous_backend: u16,
        /// The data plane's second.
        48 => pub now: u16,
        50 => pub _pad: [u16; 3],
        56 => pub _pad2: u64,
    }
}

/// Bits of [`Record::steps`].
pub mod steps {
    /// The affinity table knows the flow.
    pub const KNOWN: u32 = 1;
    /// It knew it, but its time is up.
    pub const STALE: u32 = 1 << 1;
    /// The lookup tables were asked.
    pub const LOOKED_UP: u32 = 1 << 2;
    /// The previous table's backend was taken.
    pub const FROM_PREVIOUS: u32 = 1 << 3;
    /// The packet would enter the flow into the affinity table.
    pub const RECORDS: u32 = 1 << 4;
    /// A reply of the backend.
    pub const REPLY: u32 = 1 << 5;
    /// The flow has, or would take, a source address and port (mode `fullnat`).
    pub const BINDS: u32 = 1 << 6;
}

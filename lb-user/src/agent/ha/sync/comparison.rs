//! What this node has of flows that the peer does not have any more.
//!
//! Between two ends of passes the peer tells all that it has of the groups that it
//! serves. So an entry of theirs that was not told meanwhile is over. The table is
//! looked through in small parts, so that neither messages nor hand-overs wait.

use std::sync::Arc;

use lb_common::{
    flow::{FlowValue, SLOTS},
    lease,
};

use super::{Common, Groups, channel::Error, groups};
use crate::dataplane::changes::Changes;

/// Buckets that are looked at without a pause: some hundred microseconds.
const BUCKETS: u32 = 4096;

/// See the module.
pub(super) struct Comparison {
    /// What was told since the latest pass ended; `None`: a pass has not begun yet.
    told: Option<Told>,
    /// The pass before, while the table is looked through.
    ended: Option<Ended>,
}

/// A pass that is over.
struct Ended {
    told: Told,
    /// Groups of the peer's, by our positions.
    groups: Groups,
    /// The bucket to go on with; entries of `BINDINGS` come after all buckets, and buckets
    /// of `PROXIED` after them.
    next: u32,
}

/// What was told.
struct Told {
    /// Slots of the affinity table.
    flows: Touched,
    /// Entries of `BINDINGS`.
    bindings: Touched,
    /// Entries of `PROXIED`.
    connections: Touched,
}

impl Told {
    fn nothing(changes: &Changes) -> Self {
        Self {
            flows: Touched::new(changes.flows.entries() as usize * SLOTS),
            bindings: Touched::new(changes.bindings.entries.entries() as usize),
            connections: Touched::new(changes.proxied.table.entries() as usize * SLOTS),
        }
    }
}

/// Slots or entries, a bit each.
struct Touched(Vec<u64>);

impl Touched {
    fn new(bits: usize) -> Self {
        Self(vec![0; bits.div_ceil(64)])
    }

    fn add(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn has(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] & 1 << (slot % 64) != 0
    }
}

impl Comparison {
    /// Of a connection on which nothing was told yet.
    pub(super) fn new() -> Self {
        Self { told: None, ended: None }
    }

    /// A first pass begins.
    pub(super) fn begin(&mut self, changes: &Changes) {
        (self.told, self.ended) = (Some(Told::nothing(changes)), None);
    }

    /// A flow is told, and has an entry, unless there was no room.
    pub(super) fn note(&mut self, changes: &Changes, key: u64) {
        if let (Some(told), Some(slot)) = (&mut self.told, changes.find(key)) {
            told.flows.add(slot);
        }
    }

    /// The same of an entry of `BINDINGS`.
    pub(super) fn note_binding(&mut self, index: u32) {
        if let Some(told) = &mut self.told {
            told.bindings.add(index);
        }
    }

    /// The same of an entry of `PROXIED`, if there was room.
    pub(super) fn note_connection(&mut self, number: Option<u32>) {
        if let (Some(told), Some(number)) = (&mut self.told, number) {
            told.connections.add(number);
        }
    }

    /// A pass ends: all of these groups was told.
    pub(super) fn end(&mut self, common: &Common, groups: &[u64]) {
        let theirs = self::groups(common.groups.iter().map(|id| groups.contains(id)));
        // One that is not looked through yet would not be done before the next, either.
        let told = self.told.replace(Told::nothing(&common.changes));
        let ended = |told| Ended { told, groups: theirs, next: 0 };
        self.ended = told.filter(|_| theirs != 0).map(ended);
    }

    /// Whether the table is being looked through.
    pub(super) fn goes_on(&self) -> bool {
        self.ended.is_some()
    }

    /// Looks at some more of the table, and removes what is over: how much that was.
    ///
    /// # Errors
    /// The kernel does not tell the data plane's time.
    pub(super) fn go_on(&mut self, common: &Common) -> Result<u64, Error> {
        let (Some(ended), Some(told)) = (&mut self.ended, &self.told) else { return Ok(0) };
        let (changes, names) = (&common.changes, Arc::clone(&common.names.borrow()));
        let now = changes.second()?;
        // What this node serves, or has recorded alone, it knows better.
        let serving = groups(common.serving.borrow().iter().map(|group| group.active));
        let theirs = ended.groups & !serving & !common.owes();
        let is_over = |value: FlowValue| {
            let named = names.get(value.backend());
            let is_theirs = named.is_some_and(|named| theirs >> lease::index(named.group) & 1 != 0);
            is_theirs && value.left(now) >= 0
        };
        let buckets = changes.flows.entries();
        let bindings =
            if names.sources().entries() == 0 { 0 } else { changes.bindings.entries.entries() };
        let proxied = if names.has_cookies() { changes.proxied.table.entries() } else { 0 };
        let (start, all) = (ended.next, buckets + bindings + proxied);
        let end = all.min(start.saturating_add(BUCKETS));
        let removed = if start < buckets {
            ended.next = end.min(buckets);
            changes.flows.clear_slots(start..ended.next, |slot, _, value| {
                is_over(value) && !ended.told.flows.has(slot) && !told.flows.has(slot)
            })
        } else if start < buckets + bindings {
            ended.next = end.min(buckets + bindings);
            changes.bindings.entries.release(
                start - buckets..ended.next - buckets,
                |index, value| {
                    is_over(value) && !ended.told.bindings.has(index) && !told.bindings.has(index)
                },
            )
        } else {
            ended.next = end;
            let first = buckets + bindings;
            changes.proxied.table.release(start - first..end - first, |number, value| {
                let group = value.group();
                let is_theirs = group != 0 && theirs >> lease::index(group) & 1 != 0;
                let has = |told: &Told| told.connections.has(number);
                is_theirs && value.left(now) >= 0 && !has(&ended.told) && !has(told)
            })
        };
        if ended.next == all {
            self.ended = None;
        }
        Ok(removed.into())
    }
}

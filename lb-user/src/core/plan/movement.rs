//! What a plan would move, before it is carried out.

use std::collections::BTreeMap;

use lb_common::{service::Service, table::TableRef};

use super::{BackendId, Operation, Plan, ServiceId, Snapshot};

/// What a plan moves of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Movement {
    /// The service.
    pub service: ServiceId,
    /// Share of all clients' hashes whose slot names another backend, 0 to 1.
    pub slots: f64,
}

/// The services in force of which a plan of [`super::plan`] moves slots.
#[must_use]
pub fn movements(plan: &Plan, snapshot: &Snapshot) -> Vec<Movement> {
    let written: BTreeMap<u32, &[BackendId]> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::WriteTable(first, slots) => Some((*first, slots.as_slice())),
            _ => None,
        })
        .collect();
    let bank = plan.operations.iter().find_map(|operation| match operation {
        Operation::WriteBank(bank) => Some(bank),
        _ => None,
    });
    let old = |table: TableRef| {
        let slots = snapshot.tables.get(&table.first()).filter(|_| !table.is_none());
        Table { blocks: table.blocks(), slots: slots.map_or(&[], Vec::as_slice) }
    };
    let new = |table: TableRef| match written.get(&table.first()) {
        Some(&slots) if !table.is_none() => Table { blocks: table.blocks(), slots },
        _ => old(table),
    };
    let movement = |(&service, entry): (&ServiceId, &Service)| {
        let after = bank.and_then(|bank| bank.services.get(&service));
        let after = after.map_or(TableRef::NONE, |entry| entry.table);
        Movement { service, slots: old(entry.table).moved(new(after)) }
    };
    let all = snapshot.services.iter().map(movement);
    all.filter(|movement| movement.slots > 0.0).collect()
}

/// A table and what it holds.
#[derive(Clone, Copy)]
struct Table<'a> {
    blocks: u32,
    slots: &'a [BackendId],
}

impl Table<'_> {
    /// Share of clients' hashes for which two tables name different backends.
    fn moved(self, other: Self) -> f64 {
        let blocks = self.blocks.max(other.blocks).max(1) as usize;
        let parts = (0..blocks).map(|b| moved(self.block(b, blocks), other.block(b, blocks)));
        parts.sum::<f64>() / blocks as f64
    }

    /// What serves the clients of the `number`th of `blocks` parts.
    fn block(&self, number: usize, blocks: usize) -> &[BackendId] {
        let own = self.blocks.max(1) as usize;
        let (length, at) = (self.slots.len() / own, number * own / blocks);
        &self.slots[at * length..(at + 1) * length]
    }
}

/// Share of the hash space in which two blocks, perhaps of different sizes,
/// name different backends. A block divides it into equal parts.
fn moved(old: &[BackendId], new: &[BackendId]) -> f64 {
    match (old.is_empty(), new.is_empty()) {
        (true, true) => return 0.0,
        (true, false) | (false, true) => return 1.0,
        (false, false) => {}
    }
    // In units of 1 / (old.len() * new.len()), so that all borders are whole.
    let (mut at, mut different) = (0u64, 0u64);
    let (of_old, of_new) = (new.len() as u64, old.len() as u64);
    let end = of_old * of_new;
    while at < end {
        let (i, j) = (at / of_old, at / of_new);
        let next = ((i + 1) * of_old).min((j + 1) * of_new);
        if old[i as usize] != new[j as usize] {
            different += next - at;
        }
        at = next;
    }
    different as f64 / end as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_different_sizes_are_compared_by_the_hashes_they_serve() {
        assert_eq!(moved(&[], &[]), 0.0);
        assert_eq!(moved(&[1], &[]), 1.0);
        assert_eq!(moved(&[1, 2], &[1, 1, 2, 2]), 0.0);
        assert_eq!(moved(&[1, 2], &[1, 2, 2, 2]), 0.25);
        assert_eq!(moved(&[1, 2, 3], &[1, 3]), 2.0 / 6.0);
        let table = |blocks, slots| Table { blocks, slots };
        let (plain, split) = (table(1, &[1, 2]), table(2, &[1, 2, 2, 2]));
        assert_eq!(plain.moved(split), 0.25);
        assert_eq!(split.moved(table(2, &[1, 1, 2, 2])), 0.25);
        assert_eq!(split.moved(table(0, &[])), 1.0);
        assert_eq!(table(0, &[]).moved(table(0, &[])), 0.0);
    }
}

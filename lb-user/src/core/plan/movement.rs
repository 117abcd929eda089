//! What a plan would move, before it is carried out.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{route::Blocks, service::Service, table::TableRef};

use super::{BackendId, Operation, Plan, RouteSet, ServiceId, Snapshot};
use crate::core::route::{Prefix, Routes};

/// What a plan moves of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Movement {
    /// The service.
    pub service: ServiceId,
    /// Share of all clients' hashes whose slot names another backend, 0 to 1.
    /// With routes, every way that clients go (by which groups they are served
    /// before and after) counts alike: how many go it, nobody knows.
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
    let routed: BTreeMap<RouteSet, &Routes> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::WriteRoutes(set, routes) => Some((*set, &**routes)),
            _ => None,
        })
        .collect();
    let bank = plan.operations.iter().find_map(|operation| match operation {
        Operation::WriteBank(bank) => Some(bank),
        _ => None,
    });
    let before = |set: RouteSet| snapshot.routes.get(&set).map(|routes| &**routes);
    let after = |set: RouteSet| routed.get(&set).copied().or_else(|| before(set));
    let old = |table: TableRef| {
        let slots = snapshot.tables.get(&table.first()).filter(|_| !table.is_none());
        let slots = slots.map_or(&[][..], Vec::as_slice);
        Table { blocks: table.blocks(), slots, routes: before(table.routes()) }
    };
    let new = |table: TableRef| match written.get(&table.first()) {
        Some(&slots) if !table.is_none() => {
            Table { blocks: table.blocks(), slots, routes: after(table.routes()) }
        }
        _ => Table { routes: after(table.routes()), ..old(table) },
    };
    let movement = |(&service, entry): (&ServiceId, &Service)| {
        let after = bank.and_then(|bank| bank.services.get(&service));
        let after = after.map_or(TableRef::NONE, |entry| entry.table);
        Movement { service, slots: old(entry.table).moved(new(after)) }
    };
    let all = snapshot.services.iter().map(movement);
    all.filter(|movement| movement.slots > 0.0).collect()
}

/// A table, what it holds, and how clients come to its blocks.
#[derive(Clone, Copy)]
struct Table<'a> {
    blocks: u32,
    slots: &'a [BackendId],
    routes: Option<&'a Routes>,
}

impl<'a> Table<'a> {
    /// Share of clients' hashes for which two tables name different backends.
    fn moved(self, other: Self) -> f64 {
        let prefixes = [self, other].into_iter().filter_map(|table| table.routes);
        let prefixes = prefixes.flat_map(|routes| routes.0.keys().copied());
        let pair = |prefix| (self.way(prefix), other.way(prefix));
        let ways: BTreeSet<_> = prefixes.chain([Prefix::ALL]).map(pair).collect();
        let moved = |(before, after): &_| self.part(*before).moved_of(other.part(*after));
        ways.iter().map(moved).sum::<f64>() / ways.len() as f64
    }

    /// The blocks for clients of a prefix.
    fn way(self, prefix: Prefix) -> Blocks {
        let all = Blocks::new(0, self.blocks as u16);
        self.routes.and_then(|routes| routes.longest(prefix)).unwrap_or(all)
    }

    /// These blocks, as a table of their own; empty where there are no slots.
    fn part(self, blocks: Blocks) -> Part<'a> {
        let length = self.slots.len() / self.blocks.max(1) as usize;
        let (first, count) = (blocks.first() as usize, blocks.count() as usize);
        let slots = self.slots.get(first * length..(first + count) * length);
        Part { blocks: count.max(1), slots: slots.unwrap_or_default() }
    }
}

/// Blocks that clients are shared out to.
#[derive(Clone, Copy)]
struct Part<'a> {
    blocks: usize,
    slots: &'a [BackendId],
}

impl Part<'_> {
    fn moved_of(self, other: Self) -> f64 {
        let blocks = self.blocks.max(other.blocks);
        let parts = (0..blocks).map(|b| moved(self.block(b, blocks), other.block(b, blocks)));
        parts.sum::<f64>() / blocks as f64
    }

    /// What serves the clients of the `number`th of `blocks` parts.
    fn block(&self, number: usize, blocks: usize) -> &[BackendId] {
        let (length, at) = (self.slots.len() / self.blocks, number * self.blocks / blocks);
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
        let table = |blocks, slots| Table { blocks, slots, routes: None };
        let (plain, split) = (table(1, &[1, 2]), table(2, &[1, 2, 2, 2]));
        assert_eq!(plain.moved(split), 0.25);
        assert_eq!(split.moved(table(2, &[1, 1, 2, 2])), 0.25);
        assert_eq!(split.moved(table(0, &[])), 1.0);
        assert_eq!(table(0, &[]).moved(table(0, &[])), 0.0);
    }

    #[test]
    fn with_routes_every_way_of_clients_counts_alike() {
        let prefix = |length| Prefix::new([10; 16], length);
        let routes = |ways: &[(u8, Blocks)]| {
            Routes(ways.iter().map(|&(length, blocks)| (prefix(length), blocks)).collect())
        };
        let (ordinary, first, second) = (Blocks::new(0, 1), Blocks::new(1, 1), Blocks::new(2, 1));
        let slots = [1, 2, 1, 1, 2, 2];
        let table = |blocks: u32, routes| {
            let slots = &slots[..2 * blocks as usize];
            Table { blocks, slots, routes }
        };
        let (one, two) = (
            routes(&[(0, ordinary), (8, first)]),
            routes(&[(0, ordinary), (8, first), (16, second)]),
        );
        // Half of those who get a route move, and all who change groups.
        assert_eq!(table(1, None).moved(table(2, Some(&one))), 0.5 / 2.0);
        assert_eq!(table(2, Some(&one)).moved(table(3, Some(&two))), 1.0 / 3.0);
        assert_eq!(table(3, Some(&two)).moved(table(3, Some(&two))), 0.0);
        assert_eq!(table(2, Some(&one)).moved(table(0, None)), 1.0);
    }
}

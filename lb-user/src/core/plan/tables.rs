//! Maglev tables of the planned generation: built, compared, placed.

use std::collections::BTreeMap;

use lb_common::{service::Service, table::TableRef};

use super::{
    BackendId, CapacityError, Operation, RouteSet, ServiceId, Snapshot,
    arena::Arena,
    identity::{BackendIdentity, ServiceIdentity},
    ids::Ids,
};
use crate::core::{
    maglev::{self, Candidate},
    model::{self, Model},
    route, split,
    weight::Standings,
};

/// A service's current table and an earlier one.
///
/// *Just enough tracking* stands on this rule: however often the current table
/// changes, the previous one stays until it is retired, once nothing changed
/// for longer than a handshake takes. A SYN is recorded where the two differ;
/// where they agree, both gave the backend that its connection goes to, and the
/// previous table still does when the next packet comes, whatever is current
/// by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In force.
    pub current: TableRef,
    /// In force when the previous one was retired last.
    pub previous: TableRef,
}

impl Places {
    /// These tables once `current` takes over.
    pub(super) fn followed_by(self, current: TableRef) -> Self {
        let previous = if self.previous.is_none() { current } else { self.previous };
        Self { current, previous }
    }

    pub(super) fn read(entry: &Service) -> Self {
        Self { current: entry.table, previous: entry.previous }
    }
}

/// Tables of all services.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// Where each service finds its tables.
    pub places: BTreeMap<ServiceId, Places>,
    /// The tables that are new.
    pub writes: Vec<Operation>,
}

/// Every table of the active bank; the same one may come more than once.
pub fn in_use(snapshot: &Snapshot) -> impl Iterator<Item = TableRef> {
    all(snapshot).filter(|table| !table.is_none())
}

/// Every table of the active bank, those without slots included.
pub(super) fn all(snapshot: &Snapshot) -> impl Iterator<Item = TableRef> {
    snapshot.services.values().flat_map(|entry| [entry.table, entry.previous])
}

/// The lines that new tables may take.
pub(super) fn arena(snapshot: &Snapshot) -> Arena {
    Arena::new(in_use(snapshot).chain(snapshot.resting.iter().copied()))
}

/// Builds every service's table and takes lines for those whose content
/// changed; `routes` are the sets of services. Where nothing changed, they stay
/// as they are.
///
/// # Errors
/// The new tables do not fit beside the old ones.
pub fn build(
    model: &Model,
    standings: &Standings,
    ids: &Ids,
    routes: &BTreeMap<ServiceId, RouteSet>,
    snapshot: &Snapshot,
    arena: &mut Arena,
) -> Result<Built, CapacityError> {
    let mut built = Built::default();
    for service in &model.services {
        let id = ids.services[&ServiceIdentity::of(service)];
        let content = Content::of(service, standings, &ids.backends, snapshot.config.slot_seed);
        let old = snapshot.services.get(&id).map(Places::read).unwrap_or_default();
        let mut current = old.current;
        if !content.is_at(current, &snapshot.tables) {
            current = content.place(service, arena)?;
            if !current.is_none() {
                built.writes.push(Operation::WriteTable(current.first(), content.slots));
            }
        }
        let current = current.with_routes(routes.get(&id).copied().unwrap_or(0));
        let places = if current == old.current { old } else { old.followed_by(current) };
        built.places.insert(id, places);
    }
    Ok(built)
}

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Blocks of equal size.
    blocks: u32,
    /// Their slots, block by block; none where nobody takes new flows.
    pub(super) slots: Vec<BackendId>,
}

/// Blocks of a table whose service shares its clients out to groups: a group
/// has its part of them to the nearest, so with two groups each has its share
/// to 0.4 %, with more to 0.8 %.
const BLOCKS: u32 = 128;

/// Groups that a service can route to: what is left of a table's blocks.
pub const MOST_GROUPS: u32 = TableRef::MAX_BLOCKS - BLOCKS;

/// Blocks of a service's table that clients without a route are shared out to.
#[must_use]
pub fn ordinary_blocks(service: &model::Service) -> u16 {
    if service.split.values().any(|&share| share > 0) { BLOCKS as u16 } else { 1 }
}

/// Slots of such a block by the number of backends; all prime. 509 slots give
/// each of 16 backends its share of the block to 0.2 % of it. All blocks
/// together take 127 KiB, 510 KiB, 2 MiB or 8 MiB of the 32 MiB of `TABLES`.
const BLOCK_SIZES: [(usize, u32); 4] = [(16, 509), (64, 2039), (1024, 8191), (usize::MAX, 32_749)];

impl Content {
    /// The table of a service whose backends have these ids.
    pub(super) fn of(
        service: &model::Service,
        standings: &Standings,
        ids: &BTreeMap<BackendIdentity, BackendId>,
        seed: [u64; 2],
    ) -> Self {
        let candidate = |(backend, weight): (&model::Backend, u16)| {
            let identity = BackendIdentity::of(service, backend);
            Candidate { identity: identity.bytes(), id: ids[&identity], weight }
        };
        let table = |members: Vec<(&model::Backend, u16)>, size| {
            maglev::table(&members.into_iter().map(candidate).collect::<Vec<_>>(), size, seed)
        };
        let shares = split::blocks(&service.split, BLOCKS);
        let size = size(service.backends.len(), shares.len());
        let of_group = |group: &str| table(split::members(service, standings, group), size);
        let mut slots = if shares.is_empty() {
            table(split::weighed(service, standings).collect(), size)
        } else {
            let tables: Vec<_> = service.split.keys().map(|group| of_group(group)).collect();
            shares.into_iter().flat_map(|group| &tables[group]).copied().collect()
        };
        let routed = route::groups(service);
        slots.extend(routed.iter().flat_map(|group| of_group(group)));
        Self { blocks: u32::from(ordinary_blocks(service)) + routed.len() as u32, slots }
    }

    /// Whether this is what a table, one of `tables`, holds already.
    fn is_at(&self, table: TableRef, tables: &BTreeMap<u32, Vec<BackendId>>) -> bool {
        if table.is_none() {
            return self.slots.is_empty();
        }
        table.blocks() == self.blocks && tables.get(&table.first()) == Some(&self.slots)
    }

    /// Whether it can be written over a table.
    pub(super) fn is_as_large_as(&self, table: TableRef) -> bool {
        !table.is_none() && (table.blocks(), table.size()) == (self.blocks, self.slots.len() as u32)
    }

    /// Takes lines for it.
    pub(super) fn place(
        &self,
        service: &model::Service,
        arena: &mut Arena,
    ) -> Result<TableRef, CapacityError> {
        if self.slots.is_empty() {
            return Ok(TableRef::NONE);
        }
        let count = self.slots.len() as u32;
        let first = arena.take(count).ok_or_else(|| CapacityError::Tables(service.name.clone()))?;
        Ok(TableRef::new(first, count / self.blocks, self.blocks))
    }
}

/// Slots of a block of a table for `backends` backends whose clients are shared
/// out to `shares` blocks; 0: to none.
fn size(backends: usize, shares: usize) -> u32 {
    if shares == 0 {
        return maglev::size(backends);
    }
    let size = BLOCK_SIZES.iter().find(|(most, _)| backends <= *most);
    size.map_or(BLOCK_SIZES[3].1, |(_, slots)| *slots)
}

#[cfg(test)]
mod tests {
    use lb_common::limits;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Tables of one slot: a table's place is the backend in it.
        #[test]
        fn a_handshake_ends_where_it_began_however_often_tables_change(
            backends in vec(1_u32..5, 2..8),
            begins in any::<prop::sample::Index>(),
        ) {
            let table = |&backend: &u32| TableRef::new(backend, 1, 1);
            let changes = backends.iter().map(table).scan(Places::default(), |places, table| {
                *places = places.followed_by(table);
                Some(*places)
            });
            let changes: Vec<_> = changes.collect();
            let begins = begins.index(changes.len());
            let Places { current: answered, previous } = changes[begins];
            // Where they differ, the SYN is recorded.
            if answered == previous {
                for later in &changes[begins..] {
                    prop_assert_eq!(later.previous, answered);
                }
            }
        }
    }

    #[test]
    fn sizes_of_blocks_are_prime_and_fit() {
        for (_, slots) in BLOCK_SIZES {
            assert!((2..slots).take_while(|d| d * d <= slots).all(|d| !slots.is_multiple_of(d)));
            assert!(slots <= TableRef::MAX_SLOTS);
        }
        assert!(BLOCKS <= TableRef::MAX_BLOCKS && limits::BACKENDS <= BLOCK_SIZES[3].1);
    }
}

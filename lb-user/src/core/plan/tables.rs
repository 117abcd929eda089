//! Maglev tables of the planned generation: built, compared, placed.

use std::collections::BTreeMap;

use lb_common::{service::Service, table::TableRef};

use super::{
    BackendId, CapacityError, Operation, ServiceId, Snapshot,
    arena::Arena,
    identity::{BackendIdentity, ServiceIdentity},
    ids::Ids,
};
use crate::core::{
    maglev::{self, Candidate},
    model::{self, Model},
    weight::Standings,
};

/// A service's current table and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In force.
    pub current: TableRef,
    /// Before it.
    pub previous: TableRef,
}

impl Places {
    /// These tables once `current` takes over.
    pub(super) fn followed_by(self, current: TableRef) -> Self {
        let previous = if self.current.is_none() { current } else { self.current };
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
    let tables = snapshot.services.values().flat_map(|entry| [entry.table, entry.previous]);
    tables.filter(|table| !table.is_none())
}

/// Builds every service's table and takes lines for those whose content
/// changed; the table that was current becomes the previous one then. Where
/// nothing changed, both stay as they are.
///
/// # Errors
/// The new tables do not fit beside the old ones.
pub fn build(
    model: &Model,
    standings: &Standings,
    ids: &Ids,
    snapshot: &Snapshot,
    arena: &mut Arena,
) -> Result<Built, CapacityError> {
    let mut built = Built::default();
    for service in &model.services {
        let id = ids.services[&ServiceIdentity::of(service)];
        let slots = slots(service, standings, &ids.backends, snapshot.config.slot_seed);
        let old = snapshot.services.get(&id).map(Places::read).unwrap_or_default();
        let old_slots =
            snapshot.tables.get(&old.current.first()).filter(|_| !old.current.is_none());
        let places = if old_slots.map_or(&[][..], Vec::as_slice) == slots {
            old
        } else {
            old.followed_by(place(service, &slots, arena)?)
        };
        if places != old && !places.current.is_none() {
            built.writes.push(Operation::WriteTable(places.current.first(), slots));
        }
        built.places.insert(id, places);
    }
    Ok(built)
}

pub(super) fn place(
    service: &model::Service,
    slots: &[u16],
    arena: &mut Arena,
) -> Result<TableRef, CapacityError> {
    if slots.is_empty() {
        return Ok(TableRef::NONE);
    }
    let count = slots.len() as u32;
    let first = arena.take(count).ok_or_else(|| CapacityError::Tables(service.name.clone()))?;
    Ok(TableRef::new(first, count, 1))
}

/// The table of a service whose backends have these ids.
pub(super) fn slots(
    service: &model::Service,
    standings: &Standings,
    ids: &BTreeMap<BackendIdentity, BackendId>,
    seed: [u64; 2],
) -> Vec<BackendId> {
    let candidate = |backend: &model::Backend| {
        let identity = BackendIdentity::of(service, backend);
        let weight = standings.of(&identity, backend.weight).weight;
        Candidate { identity: identity.bytes(), id: ids[&identity], weight }
    };
    let candidates: Vec<_> = service.backends.iter().map(candidate).collect();
    maglev::table(&candidates, maglev::size(candidates.len()), seed)
}

//! Maglev tables of the planned generation: built, compared, placed.

use std::collections::BTreeMap;

use lb_common::service::Service;

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

/// Where a table lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// First line in `TABLES`.
    pub first: u32,
    /// Slots; 0: no table.
    pub slots: u32,
}

/// A service's current table and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In force.
    pub current: Place,
    /// Before it.
    pub previous: Place,
}

impl Places {
    /// These tables once `current` takes over.
    pub(super) fn followed_by(self, current: Place) -> Self {
        let previous = if self.current.slots == 0 { current } else { self.current };
        Self { current, previous }
    }

    pub(super) fn read(entry: &Service) -> Self {
        let current = Place { first: entry.table, slots: entry.table_slots };
        // A retired table leaves its size behind.
        let previous = if entry.previous == entry.table {
            current
        } else {
            Place { first: entry.previous, slots: entry.previous_slots }
        };
        Self { current, previous }
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

/// First line and slots of every table of the active bank.
pub fn in_use(snapshot: &Snapshot) -> impl Iterator<Item = (u32, u32)> {
    snapshot.services.values().flat_map(|entry| {
        let places = Places::read(entry);
        [places.current, places.previous].map(|place| (place.first, place.slots))
    })
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
        let old_slots = snapshot.tables.get(&old.current.first).filter(|_| old.current.slots > 0);
        let places = if old_slots.map_or(&[][..], Vec::as_slice) == slots {
            old
        } else {
            old.followed_by(place(service, &slots, arena)?)
        };
        if places != old && places.current.slots > 0 {
            built.writes.push(Operation::WriteTable(places.current.first, slots));
        }
        built.places.insert(id, places);
    }
    Ok(built)
}

pub(super) fn place(
    service: &model::Service,
    slots: &[u16],
    arena: &mut Arena,
) -> Result<Place, CapacityError> {
    if slots.is_empty() {
        return Ok(Place::default());
    }
    let count = slots.len() as u32;
    let first = arena.take(count).ok_or_else(|| CapacityError::Tables(service.name.clone()))?;
    Ok(Place { first, slots: count })
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

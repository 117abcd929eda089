//! Sets of routes and of sources of the planned generation: numbered, compared, counted.
//!
//! A set is written under a number that no service in force names, and stays
//! as it is from then on: another set takes another number. Services with the
//! same routes, or the same sources, share one. The first plan that finds a set without a service
//! removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use lb_common::{limits, table::TableRef};

use super::{
    CapacityError, Operation, RouteSet, ServiceId, Snapshot,
    identity::ServiceIdentity,
    ids::Ids,
    tables::{self, MOST_GROUPS},
};
use crate::core::{
    model::Model,
    route::{Routes, groups},
};

/// Sets of all services.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// Which set a service has, of those that have routes.
    pub sets: BTreeMap<ServiceId, RouteSet>,
    /// Which set of sources a service has, of those that are not for everybody.
    pub sources: BTreeMap<ServiceId, RouteSet>,
    /// Removal of the sets that nobody has had since before the generation in
    /// force.
    pub removals: Vec<Operation>,
    /// The sets that are new.
    pub writes: Vec<Operation>,
}

/// Numbers of sets of routes, and of sources.
const ROUTES: RangeInclusive<RouteSet> = 1..=TableRef::MAX_ROUTES;
const SOURCES: RangeInclusive<RouteSet> = TableRef::MAX_ROUTES + 1..=RouteSet::MAX;

/// Sets that are there, and those that are to be.
struct Sets {
    /// In use.
    numbers: BTreeSet<RouteSet>,
    known: BTreeMap<Arc<Routes>, RouteSet>,
    writes: Vec<Operation>,
}

impl Sets {
    /// Number of the set with this content: one in force, else a new one of `range`.
    fn number(&mut self, routes: Routes, mut range: RangeInclusive<RouteSet>) -> Option<RouteSet> {
        let routes = Arc::new(routes);
        if let Some(&set) = self.known.get(&routes) {
            return Some(set);
        }
        let set = range.find(|set| !self.numbers.contains(set))?;
        self.numbers.insert(set);
        self.known.insert(routes.clone(), set);
        self.writes.push(Operation::WriteRoutes(set, routes));
        Some(set)
    }
}

/// Gives every service with routes or sources its sets: one in force with the same
/// content, else a new one.
///
/// # Errors
/// The new sets do not fit beside those in force.
pub fn assign(model: &Model, ids: &Ids, snapshot: &Snapshot) -> Result<Assigned, CapacityError> {
    let numbers = in_force(snapshot);
    let (kept, unneeded): (Vec<_>, Vec<_>) =
        snapshot.routes.iter().partition(|(set, _)| numbers.contains(*set));
    let known = kept.into_iter().map(|(&set, r)| (r.clone(), set)).collect();
    let removals = unneeded.into_iter().map(|(&set, _)| Operation::RemoveRoutes(set));
    let mut assigned = Assigned { removals: removals.collect(), ..Assigned::default() };
    let mut all = Sets { numbers, known, writes: Vec::new() };
    for service in &model.services {
        let id = ids.services[&ServiceIdentity::of(service)];
        let no_number = || CapacityError::RouteSets(service.name.clone());
        if let Some(routes) = Routes::of(service) {
            let groups = groups(service).len();
            if groups > MOST_GROUPS as usize {
                return Err(CapacityError::Groups(service.name.clone(), groups));
            }
            assigned.sets.insert(id, all.number(routes, ROUTES).ok_or_else(no_number)?);
        }
        if let Some(sources) = Routes::allowing(service) {
            assigned.sources.insert(id, all.number(sources, SOURCES).ok_or_else(no_number)?);
        }
    }
    let prefixes = all.known.keys().map(|routes| routes.0.len()).sum();
    if prefixes > limits::ROUTE_PREFIXES as usize {
        return Err(CapacityError::Routes(prefixes));
    }
    assigned.writes = all.writes;
    Ok(assigned)
}

/// Sets that a service of the active bank names, or a table of it, even one without
/// slots.
fn in_force(snapshot: &Snapshot) -> BTreeSet<RouteSet> {
    let sets = tables::all(snapshot).map(TableRef::routes);
    let sources = snapshot.services.values().map(|entry| entry.sources);
    sets.chain(sources).filter(|&set| set != 0).collect()
}

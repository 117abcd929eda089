//! Sets of routes of the planned generation: numbered, compared, counted.
//!
//! A set is written under a number that no service in force names, and stays
//! as it is from then on: another set takes another number. Services with the
//! same routes share one. The first plan that finds a set without a service
//! removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// Removal of the sets that nobody has had since before the generation in
    /// force.
    pub removals: Vec<Operation>,
    /// The sets that are new.
    pub writes: Vec<Operation>,
}

/// Gives every service with routes its set: one in force with the same
/// content, else a new one.
///
/// # Errors
/// The new sets do not fit beside those in force.
pub fn assign(model: &Model, ids: &Ids, snapshot: &Snapshot) -> Result<Assigned, CapacityError> {
    let mut numbers = in_force(snapshot);
    let (kept, unneeded): (Vec<_>, Vec<_>) =
        snapshot.routes.iter().partition(|(set, _)| numbers.contains(*set));
    let mut known: BTreeMap<_, _> = kept.into_iter().map(|(&set, r)| (r.clone(), set)).collect();
    let removals = unneeded.into_iter().map(|(&set, _)| Operation::RemoveRoutes(set));
    let mut assigned = Assigned { removals: removals.collect(), ..Assigned::default() };
    for service in &model.services {
        let Some(routes) = Routes::of(service).map(Arc::new) else { continue };
        let groups = groups(service).len();
        if groups > MOST_GROUPS as usize {
            return Err(CapacityError::Groups(service.name.clone(), groups));
        }
        let set = match known.get(&routes) {
            Some(&set) => set,
            None => {
                let free = (1..=TableRef::MAX_ROUTES).find(|set| !numbers.contains(set));
                let set = free.ok_or_else(|| CapacityError::RouteSets(service.name.clone()))?;
                numbers.insert(set);
                known.insert(routes.clone(), set);
                assigned.writes.push(Operation::WriteRoutes(set, routes));
                set
            }
        };
        assigned.sets.insert(ids.services[&ServiceIdentity::of(service)], set);
    }
    let prefixes = known.keys().map(|routes| routes.0.len()).sum();
    if prefixes > limits::ROUTE_PREFIXES as usize {
        return Err(CapacityError::Routes(prefixes));
    }
    Ok(assigned)
}

/// Sets that a table of the active bank leads to, even if it has no slots.
fn in_force(snapshot: &Snapshot) -> BTreeSet<RouteSet> {
    let sets = tables::all(snapshot).map(TableRef::routes);
    sets.filter(|&set| set != 0).collect()
}

//! Sets of QUIC configurations of the planned generation: numbered, compared, counted.
//!
//! A set is written under a number that no service in force names, and stays as it is
//! from then on, as sets of routes do. The first plan that finds it without a service
//! removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::limits;

use super::{
    CapacityError, Operation, QuicSetId, ServiceId, Snapshot,
    identity::{BackendIdentity, ServiceIdentity},
    ids::Ids,
};
use crate::core::{
    model::{Model, quic::Keys},
    quic::QuicSet,
};

/// Sets of all services.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// Which set a service has, of those that have one.
    pub sets: BTreeMap<ServiceId, QuicSetId>,
    /// Removal of the sets that nobody has had since before the generation in force.
    pub removals: Vec<Operation>,
    /// The sets that are new.
    pub writes: Vec<Operation>,
}

/// Gives every QUIC service its set: the one it has, if that has the same content, else
/// a new one.
///
/// # Errors
/// The new sets do not fit beside those in force, or a key is not among `keys`.
pub fn assign(
    model: &Model,
    ids: &Ids,
    keys: &Keys,
    snapshot: &Snapshot,
) -> Result<Assigned, CapacityError> {
    let in_force = |id: ServiceId| snapshot.services.get(&id).map_or(0, |entry| entry.quic);
    let mut numbers: BTreeSet<_> = snapshot.services.values().map(|entry| entry.quic).collect();
    let (kept, unneeded): (Vec<_>, Vec<_>) =
        snapshot.quic.iter().partition(|(set, _)| numbers.contains(*set));
    let mut servers: usize = kept.iter().map(|(_, set)| set.servers.len()).sum();
    let removals = unneeded.into_iter().map(|(&set, _)| Operation::RemoveQuic(set));
    let mut assigned = Assigned { removals: removals.collect(), ..Assigned::default() };
    for service in &model.services {
        let id = |backend: &_| ids.backends[&BackendIdentity::of(service, backend)];
        let set = QuicSet::of(service, id, keys).map_err(CapacityError::QuicKey)?;
        let Some(set) = set else { continue };
        let id = ids.services[&ServiceIdentity::of(service)];
        let old = in_force(id);
        if snapshot.quic.get(&old).is_some_and(|known| **known == set) {
            assigned.sets.insert(id, old);
            continue;
        }
        let free = (1..limits::QUIC_SETS as QuicSetId).find(|set| !numbers.contains(set));
        let number = free.ok_or_else(|| CapacityError::QuicSets(service.name.clone()))?;
        numbers.insert(number);
        servers += set.servers.len();
        assigned.sets.insert(id, number);
        assigned.writes.push(Operation::WriteQuic(number, Arc::new(set)));
    }
    if servers > limits::SERVER_IDS as usize {
        return Err(CapacityError::ServerIds(servers));
    }
    Ok(assigned)
}

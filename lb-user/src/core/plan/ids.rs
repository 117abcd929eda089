//! Ids of services and backends: kept while their owner lives.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{addr, backend::flags, limits};

use super::{
    BackendId, CapacityError, ServiceId, Snapshot, backend_identities,
    backends::Deltas,
    identity::{BackendIdentity, ServiceIdentity},
    service_identities,
};
use crate::core::model::Model;

/// Who has which id in the generation that is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Services.
    pub services: BTreeMap<ServiceIdentity, ServiceId>,
    /// Backends.
    pub backends: BTreeMap<BackendIdentity, BackendId>,
    /// Backend ids that had another owner once: flows may still name them.
    pub reused: BTreeSet<BackendId>,
    /// Backend ids with an owner they did not have before.
    new: BTreeSet<BackendId>,
}

impl Ids {
    /// Keeps the ids of all that live on and finds ids for the new: the lowest
    /// that was never used, else the lowest retired one that no reachable
    /// table names.
    ///
    /// # Errors
    /// No id is left.
    pub fn assign(model: &Model, snapshot: &Snapshot) -> Result<Self, CapacityError> {
        let mut ids = Self::default();
        ids.assign_services(model, snapshot)?;
        ids.assign_backends(model, snapshot)?;
        Ok(ids)
    }

    /// Whether the entry of this backend is still to be written.
    #[must_use]
    pub fn is_new(&self, id: BackendId) -> bool {
        self.new.contains(&id)
    }

    fn assign_services(&mut self, model: &Model, snapshot: &Snapshot) -> Result<(), CapacityError> {
        let wanted: Vec<_> = model.services.iter().map(ServiceIdentity::of).collect();
        if wanted.len() >= limits::SERVICES as usize {
            return Err(CapacityError::Services(wanted.len()));
        }
        let present = present_services(snapshot);
        let kept = wanted.iter().filter_map(|who| Some((*who, *present.get(who)?)));
        self.services = kept.collect();
        let kept: BTreeSet<_> = self.services.values().copied().collect();
        let all = 1..limits::SERVICES as u16;
        // Ids of services that go are the last to be given away: what is written
        // for the new one would look like the old one's while that is in force.
        let fresh = all.clone().filter(|id| !snapshot.services.contains_key(id));
        let going = all.filter(|id| snapshot.services.contains_key(id) && !kept.contains(id));
        let mut free = fresh.chain(going);
        for who in wanted {
            if !self.services.contains_key(&who)
                && let Some(id) = free.next()
            {
                self.services.insert(who, id);
            }
        }
        Ok(())
    }

    fn assign_backends(&mut self, model: &Model, snapshot: &Snapshot) -> Result<(), CapacityError> {
        let present = present_backends(snapshot);
        let mut fresh =
            (1..limits::BACKENDS as BackendId).filter(|id| !snapshot.backends.contains_key(id));
        let mut retired = reusable(snapshot).into_iter();
        for who in backend_identities(model) {
            if let Some(&id) = present.get(&who) {
                self.backends.insert(who, id);
                continue;
            }
            let id = fresh.next().or_else(|| {
                let id = retired.next()?;
                self.reused.insert(id);
                Some(id)
            });
            let id = id.ok_or_else(|| CapacityError::Backends(addr::from_bytes(who.addr)))?;
            self.new.insert(id);
            self.backends.insert(who, id);
        }
        Ok(())
    }
}

/// Services in force, by identity.
#[must_use]
pub fn present_services(snapshot: &Snapshot) -> BTreeMap<ServiceIdentity, ServiceId> {
    service_identities(snapshot).into_iter().map(|(id, who)| (who, id)).collect()
}

/// Backends in use whose service is in force, by identity. Entries that were
/// written for another service of the same id, by a plan that stopped half-way,
/// are nobody's: packets would be rewritten with the wrong sums.
#[must_use]
pub fn present_backends(snapshot: &Snapshot) -> BTreeMap<BackendIdentity, BackendId> {
    let services = service_identities(snapshot);
    let present = snapshot.in_use().filter_map(|(id, entry)| {
        let who = BackendIdentity::read(entry, *services.get(&entry.service)?);
        (Deltas::read(entry) == Deltas::of(&who)).then_some((who, id))
    });
    present.collect()
}

/// Retired ids that no table in reach names: not even a previous table, whose
/// slots must go on pointing at nobody.
fn reusable(snapshot: &Snapshot) -> Vec<BackendId> {
    let named: BTreeSet<_> = snapshot.tables.values().flatten().collect();
    let retired = snapshot.backends.iter().filter(|(_, entry)| entry.flags & flags::IN_USE == 0);
    retired.map(|(&id, _)| id).filter(|id| !named.contains(id)).collect()
}

//! From changed weights to map operations, in the generation in force.
//!
//! Nothing but tables and the standing of backends changes, so no bank is
//! built: the new table is written where nothing refers to, and one store
//! puts it in force. After any prefix of the operations every slot of a current
//! table names a backend that serves.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::table::TableRef;

use super::{
    CapacityError, Operation, Plan, Snapshot,
    identity::{BackendIdentity, ServiceIdentity},
    ids::present_backends,
    service_identities,
    tables::{self, Content, Places},
};
use crate::core::{model::Model, weight::Standings};

/// A plan, and the services that it leaves as they are because their new
/// tables do not fit beside the old ones.
pub type Reweighed = (Plan, BTreeMap<ServiceIdentity, CapacityError>);

/// Where a new table may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Where nothing refers to.
    Beside,
    /// Over the old one as well, if there is no other room. Slots are single
    /// words, so packets find one backend or the other; but handshakes under way
    /// in slots that change are lost.
    InPlace,
}

/// Plans what the standings of the services `changed` ask for. Of the
/// snapshot, the content of tables, the denied prefixes and the routes are not
/// looked at.
#[must_use]
pub fn reweigh(
    model: &Model,
    standings: &Standings,
    changed: &BTreeSet<ServiceIdentity>,
    snapshot: &Snapshot,
    room: Room,
) -> Reweighed {
    let mut arena = tables::arena(snapshot);
    let ids = present_backends(snapshot);
    let services = service_identities(snapshot);
    let mut left = BTreeMap::new();
    let (mut rising, mut switches, mut falling) = (Vec::new(), Vec::new(), Vec::new());
    for (&id, who) in services.iter().filter(|(_, who)| changed.contains(who)) {
        let Some(service) = model.services.iter().find(|s| ServiceIdentity::of(s) == *who) else {
            continue;
        };
        let content = Content::of(service, standings, &ids, snapshot.config.slot_seed);
        let old = Places::read(&snapshot.services[&id]);
        let current = match content.place(service, &mut arena) {
            Ok(current) => current.with_routes(old.current.routes()),
            Err(_) if room == Room::InPlace && content.is_as_large_as(old.current) => old.current,
            Err(error) => {
                left.insert(*who, error);
                continue;
            }
        };
        for backend in &service.backends {
            let identity = BackendIdentity::of(service, backend);
            let serving = standings.of(&identity, backend.weight).serving;
            let id = ids[&identity];
            if snapshot.is_serving(id) != serving {
                let changes = if serving { &mut rising } else { &mut falling };
                changes.push(Operation::SetServing(id, serving));
            }
        }
        if !current.is_none() {
            switches.push(Operation::WriteTable(current.first(), content.slots));
        }
        switches.push(Operation::SwitchTables(id, old.followed_by(current)));
    }
    let operations = rising.into_iter().chain(switches).chain(falling).collect();
    (Plan { operations, ..Plan::default() }, left)
}

/// Tables that a plan of [`reweigh`] takes out of use.
pub fn freed<'a>(plan: &'a Plan, snapshot: &'a Snapshot) -> impl Iterator<Item = TableRef> + 'a {
    plan.operations.iter().flat_map(|operation| {
        let Operation::SwitchTables(id, new) = operation else { return Vec::new() };
        let old = Places::read(&snapshot.services[id]);
        let mut places = vec![old.current, old.previous];
        places.retain(|place| ![new.current, new.previous].contains(place));
        places
    })
}

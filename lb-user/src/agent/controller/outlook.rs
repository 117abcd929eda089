//! What a change would do, in words and numbers: `lb plan`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Error,
    state::{Origin, State},
};
use crate::{
    api::{self, Table},
    config::render,
    core::{
        model::{Model, Service},
        plan::{self, BackendId, Operation, ServiceId, identity::ServiceIdentity},
    },
};

/// The outlook but for the flows, which are still to be counted.
pub(super) struct Outlook {
    changes: Vec<String>,
    edits: Vec<String>,
    /// By service id: its name, and the share of slots that move.
    services: BTreeMap<ServiceId, (String, f64)>,
    /// Backends in force, by their service.
    members: BTreeMap<ServiceId, Vec<BackendId>>,
    /// Backends whose flows would end.
    leaving: BTreeSet<BackendId>,
}

impl Outlook {
    /// From what is in force to what `origin` makes, whose edits are told of in
    /// `edits`.
    pub(super) fn new(state: &State, origin: &Origin, edits: Vec<String>) -> Result<Self, Error> {
        let model = &origin.model()?;
        let snapshot = state.snapshot()?;
        let fleet = state.fleet_for(model, &origin.edits);
        let plan = state.plan_for(model, fleet.standings(), &snapshot)?;
        let names: BTreeMap<_, _> = state
            .model
            .services
            .iter()
            .map(|service| (ServiceIdentity::of(service), service.name.clone()))
            .collect();
        let name = |id: ServiceId| {
            let who = snapshot.services.get(&id).map(ServiceIdentity::read);
            who.and_then(|who| names.get(&who).cloned()).unwrap_or_default()
        };
        let movements = plan::movement::movements(&plan, &snapshot);
        let leaving = plan.operations.iter().filter_map(|operation| match operation {
            Operation::Retire(id) | Operation::SetServing(id, false) => Some(*id),
            _ => None,
        });
        let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, entry) in snapshot.in_use() {
            members.entry(entry.service).or_default().push(id);
        }
        Ok(Self {
            changes: differences(&state.model, model),
            edits,
            services: movements.iter().map(|m| (m.service, (name(m.service), m.slots))).collect(),
            members,
            leaving: leaving.collect(),
        })
    }

    /// The whole, with live flows by backend id.
    pub(super) fn with_flows(self, counts: &[u32]) -> api::Outlook {
        let flows = |id: &BackendId| u64::from(counts.get(usize::from(*id)).copied().unwrap_or(0));
        let movement = |(service, (name, slots)): (&ServiceId, &(String, f64))| {
            let mine = || self.members.get(service).into_iter().flatten();
            api::Movement {
                service: name.clone(),
                slots: *slots,
                flows_ended: mine().filter(|id| self.leaving.contains(id)).map(flows).sum(),
                flows: mine().map(flows).sum(),
            }
        };
        let services = self.services.iter().map(movement).collect();
        api::Outlook { changes: self.changes, edits: self.edits, services }
    }
}

/// What differs between two configurations, one sentence each.
pub(super) fn differences(old: &Model, new: &Model) -> Vec<String> {
    let mut sentences = Vec::new();
    if old.node != new.node {
        sentences.push("`node` differs".to_owned());
    }
    if old.firewall != new.firewall {
        sentences.push("`firewall` differs".to_owned());
    }
    let (old, new) = (by_name(old), by_name(new));
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        sentences.push(format!("service `{name}` is removed"));
    }
    for (name, service) in &new {
        match old.get(name) {
            None => sentences.push(format!("service `{name}` is added")),
            Some(before) if before == service => {}
            Some(before) => {
                let (before, after) = (render::service(before), render::service(service));
                of_service(name, &before, &after, &mut sentences);
            }
        }
    }
    sentences
}

fn by_name(model: &Model) -> BTreeMap<&str, &Service> {
    model.services.iter().map(|service| (&*service.name, service)).collect()
}

fn of_service(name: &str, old: &Table, new: &Table, sentences: &mut Vec<String>) {
    of_keys(&format!("service `{name}`"), old, new, sentences);
    let backends = |table: &Table| -> BTreeMap<String, Table> {
        let list = table.get("backend").and_then(|list| list.as_array()).cloned();
        let tables = list.into_iter().flatten().filter_map(|backend| match backend {
            serde_json::Value::Object(table) => {
                Some((table.get("name")?.as_str()?.to_owned(), table))
            }
            _ => None,
        });
        tables.collect()
    };
    let (old, new) = (backends(old), backends(new));
    for backend in old.keys().filter(|backend| !new.contains_key(*backend)) {
        sentences.push(format!("service `{name}`: backend `{backend}` is removed"));
    }
    for (backend, table) in &new {
        let what = format!("service `{name}`: backend `{backend}`");
        match old.get(backend) {
            None => sentences.push(format!("{what} is added")),
            Some(before) => of_keys(&what, before, table, sentences),
        }
    }
}

fn of_keys(what: &str, old: &Table, new: &Table, sentences: &mut Vec<String>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).filter(|key| *key != "backend").collect();
    for key in keys {
        let (before, after) = (old.get(key), new.get(key));
        if before != after {
            let word = |value: Option<&serde_json::Value>| {
                value.map_or_else(|| "not set".to_owned(), ToString::to_string)
            };
            sentences.push(format!("{what}: {key}: {} -> {}", word(before), word(after)));
        }
    }
}

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
    let service = format!("service `{name}`");
    of_keys(&service, old, new, sentences);
    of_routes(&service, old, new, sentences);
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
    let told_apart = |key: &&String| matches!(key.as_str(), "backend" | "route");
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).filter(|key| !told_apart(key)).collect();
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

/// Changed routes that are told one by one: there may be a million.
const TOLD_ROUTES: usize = 10;

fn of_routes(what: &str, old: &Table, new: &Table, sentences: &mut Vec<String>) {
    let routes = |table: &Table| -> BTreeMap<String, String> {
        let tables = table.get("route").and_then(|list| list.as_array()).cloned();
        let all = tables.into_iter().flatten().flat_map(|route| {
            let group = route["group"].as_str().unwrap_or_default().to_owned();
            let prefixes = route["from"].as_array().cloned().unwrap_or_default();
            prefixes
                .into_iter()
                .map(move |prefix| (prefix.as_str().unwrap_or_default().to_owned(), group.clone()))
        });
        all.collect()
    };
    let (old, new) = (routes(old), routes(new));
    let prefixes: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed: Vec<_> =
        prefixes.into_iter().filter(|net| old.get(*net) != new.get(*net)).collect();
    for net in changed.iter().take(TOLD_ROUTES) {
        let word = |group: Option<&String>| group.map_or("not set", String::as_str).to_owned();
        let (before, after) = (word(old.get(*net)), word(new.get(*net)));
        sentences.push(format!("{what}: route of {net}: {before} -> {after}"));
    }
    if changed.len() > TOLD_ROUTES {
        sentences.push(format!("{what}: {} more routes differ", changed.len() - TOLD_ROUTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_routes_are_told_one_by_one_up_to_a_number() {
        let table = |routes: serde_json::Value| -> Table {
            [("route".to_owned(), routes)].into_iter().collect()
        };
        let told = |old: &Table, new: &Table| {
            let mut sentences = Vec::new();
            of_service("web", old, new, &mut sentences);
            sentences
        };
        let old =
            table(serde_json::json!([{ "from": ["10.0.0.0/8", "11.0.0.0/8"], "group": "eu" }]));
        let new = table(serde_json::json!([
            { "from": ["10.0.0.0/8"], "group": "eu" }, { "from": ["11.0.0.0/8"], "group": "us" }
        ]));
        assert_eq!(told(&old, &new), ["service `web`: route of 11.0.0.0/8: eu -> us"]);
        assert_eq!(told(&new, &Table::new()).len(), 2);
        let many: Vec<_> = (0..50).map(|number| format!("10.0.{number}.0/24")).collect();
        let many = table(serde_json::json!([{ "from": many, "group": "eu" }]));
        let told = told(&Table::new(), &many);
        assert_eq!(told[0], "service `web`: route of 10.0.0.0/24: not set -> eu");
        assert_eq!(told[TOLD_ROUTES..], ["service `web`: 40 more routes differ"]);
    }
}

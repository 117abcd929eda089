//! What a change would do, in words and numbers: `lb plan`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Error, source::Source, state::State};
use crate::{
    agent::{admin::Refused, quic},
    api::{self, Table},
    config::render,
    core::{
        edit::Edits,
        fleet::Fleet,
        model::{Model, Service},
        nexthop::Network,
        plan::{
            self, BackendId, Host, Operation, Plan, ServiceId, Snapshot, identity::ServiceIdentity,
            movement,
        },
    },
};

/// What an outlook is made from, beside the controller: it may take a while.
pub(super) struct Prospect {
    file: api::FileText,
    source: Source,
    edits: Edits,
    model: Model,
    fleet: Fleet,
    now: Duration,
    network: Arc<Network>,
    host: Host,
    snapshot: Snapshot,
}

impl Prospect {
    /// Of putting `file` in force.
    pub(super) fn new(state: &State, file: api::FileText) -> Result<Self, Error> {
        Ok(Self {
            file,
            source: state.source.clone(),
            edits: state.origin.edits.clone(),
            model: state.model.clone(),
            fleet: state.fleet.clone(),
            now: state.now(),
            network: Arc::clone(&state.network),
            host: state.host()?,
            snapshot: state.snapshot()?,
        })
    }

    /// The outlook, with live flows by backend id.
    pub(super) fn outlook(mut self, flows: &[u32]) -> Result<api::Outlook, Refused> {
        let (origin, _, edits) = self.source.origin(Some(&self.file), self.edits)?;
        let model = origin.model()?;
        let admin = |service: &str, backend: &str| origin.edits.admin(service, backend);
        self.fleet.configure(&model, &admin, self.now);
        self.host.quic_keys = quic::read(&model, &self.host.quic_keys).map_err(Error::from)?;
        let plan = |snapshot: &Snapshot| {
            plan::plan(&model, self.fleet.standings(), &self.network, snapshot, &self.host)
        };
        let plan = match plan(&self.snapshot) {
            Err(error) if error.passes() => {
                // A reload would retire the tables before these.
                self.snapshot.forget_previous();
                plan(&self.snapshot)
            }
            plan => plan,
        };
        let plan = plan.map_err(Error::from)?;
        let services = movements(&plan, &self.model, &self.snapshot, flows);
        Ok(api::Outlook { changes: differences(&self.model, &model), edits, services })
    }
}

/// What moves in each service of `model`, the one in force.
fn movements(plan: &Plan, model: &Model, snapshot: &Snapshot, flows: &[u32]) -> Vec<api::Movement> {
    let names: BTreeMap<_, _> = model
        .services
        .iter()
        .map(|service| (ServiceIdentity::of(service), &service.name))
        .collect();
    let name = |id: ServiceId| {
        let who = snapshot.services.get(&id).map(ServiceIdentity::read);
        who.and_then(|who| names.get(&who).map(|name| (*name).clone())).unwrap_or_default()
    };
    let leaving: BTreeSet<_> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::Retire(id) | Operation::SetServing(id, false) => Some(*id),
            _ => None,
        })
        .collect();
    let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, entry) in snapshot.in_use() {
        members.entry(entry.service).or_default().push(id);
    }
    let flows = |id: &BackendId| u64::from(flows.get(usize::from(*id)).copied().unwrap_or(0));
    let movement = |moved: movement::Movement| {
        let mine = || members.get(&moved.service).into_iter().flatten();
        api::Movement {
            service: name(moved.service),
            slots: moved.slots,
            flows_ended: mine().filter(|id| leaving.contains(id)).map(flows).sum(),
            flows: mine().map(flows).sum(),
        }
    };
    movement::movements(plan, snapshot).into_iter().map(movement).collect()
}

/// What differs between two configurations, one sentence each.
pub(super) fn differences(old: &Model, new: &Model) -> Vec<String> {
    let mut sentences = Vec::new();
    if old.node != new.node {
        sentences.push("`node` differs".to_owned());
    }
    if old.ha != new.ha {
        sentences.push("`ha` differs".to_owned());
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

//! The model that edits make of the file's; see [`crate::core::edit`] for
//! which of them wins.

mod describe;
mod error;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, ops::RangeInclusive};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Mistake,
    check::is_measurable,
    check_together,
    file::{NEW_FLOWS_BURST, NEW_FLOWS_RATE},
    read::Wrong,
    render, service_from, value,
};
use crate::core::{
    edit::{BackendEdits, Edit, Edits, FirewallEdits, Keys, ServiceEdits, Whole, merge},
    model::{Firewall, Model, NewFlows, Service},
};
pub use describe::moment;
pub use error::EditError;

/// The edit that opens a port to the host, or closes it.
///
/// # Errors
/// This is no rule of `firewall.allow`.
pub fn allow(rule: &str, allow: bool) -> Result<Edit, EditError> {
    let parsed = value::port_rule_of(rule).map_err(|wrong| {
        EditError::Invalid(vec![error::mistake("firewall.allow", Some(rule), wrong)])
    })?;
    Ok(Edit::Allow { rule: render::port_rule(&parsed), allow })
}

/// The edit that denies a source, until a UNIX second or for good, or no longer.
///
/// # Errors
/// This is no prefix of `firewall.deny_sources`.
pub fn deny(prefix: &str, deny: bool, until: Option<u64>) -> Result<Edit, EditError> {
    let prefix = value::prefix_of(prefix).map_err(|wrong| {
        EditError::Invalid(vec![error::mistake("firewall.deny_sources", Some(prefix), wrong)])
    })?;
    Ok(Edit::Deny { prefix, deny, until: until.filter(|_| deny) })
}

/// What becomes of the edits and of the model in force with one more edit.
/// Reads only the service that it names, and checks it beside the others.
///
/// # Errors
/// Why the edit cannot be; nothing is to change then.
pub fn edited(
    edits: &Edits,
    file: &Model,
    effective: &Model,
    edit: Edit,
) -> Result<(Edits, Model), EditError> {
    error::refuse(effective, &edit)?;
    let (mut edits, mut model) = (edits.clone(), effective.clone());
    let name = match &edit {
        Edit::Allow { .. } | Edit::Deny { .. } => None,
        Edit::AddService { keys } => Some(service_from(keys).map_err(EditError::Invalid)?.name),
        Edit::SetService { service, .. }
        | Edit::RemoveService { service }
        | Edit::AddBackend { service, .. }
        | Edit::SetBackend { service, .. }
        | Edit::Order { service, .. }
        | Edit::RemoveBackend { service, .. } => Some(service.clone()),
    };
    let changes_model = !matches!(edit, Edit::Order { .. });
    if let Edit::AddBackend { keys, .. } = &edit {
        // A backend without a name would be recorded as none.
        error::named(keys, name.as_deref().unwrap_or_default())?;
    }
    edits.record(edit, file);
    if !changes_model {
        return Ok((edits, model));
    }
    match name {
        Some(name) => {
            let known = find(file, &name);
            let service = match edits.services.get(&name) {
                Some(edits) => service(edits, known),
                None => Ok(known.cloned()),
            };
            put(&mut model.services, file, &name, service.map_err(EditError::Invalid)?);
        }
        None => {
            prune_firewall(&mut edits.firewall, &file.firewall);
            model.firewall =
                firewall(&edits.firewall, &file.firewall).map_err(EditError::Invalid)?;
        }
    }
    check_together(&model.services, &model.firewall, &model.node, model.ha.as_ref())
        .map_err(EditError::Invalid)?;
    Ok((edits, model))
}

impl Edits {
    /// The model in force: the file's with all edits.
    ///
    /// # Errors
    /// Mistakes that the file and the edits make together.
    pub fn apply(&self, file: &Model) -> Result<Model, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut services = Vec::with_capacity(file.services.len());
        let mut add = |service: Result<Option<Service>, Vec<Mistake>>| match service {
            Ok(service) => services.extend(service),
            Err(wrong) => mistakes.extend(wrong),
        };
        for known in &file.services {
            add(match self.services.get(&known.name) {
                Some(edits) => service(edits, Some(known)),
                None => Ok(Some(known.clone())),
            });
        }
        let names: HashSet<_> = file.services.iter().map(|service| &service.name).collect();
        for (_, edits) in self.services.iter().filter(|(name, _)| !names.contains(name)) {
            add(service(edits, None));
        }
        let firewall = firewall(&self.firewall, &file.firewall);
        match firewall {
            Ok(firewall) if mistakes.is_empty() => {
                check_together(&services, &firewall, &file.node, file.ha.as_ref())?;
                Ok(Model { services, firewall, ..file.clone() })
            }
            firewall => {
                mistakes.extend(firewall.err().unwrap_or_default());
                Err(mistakes)
            }
        }
    }

    /// Drops what the file says as well, and what was set of something that it
    /// does not have: says what that is, one line each. What a backend was
    /// ordered to stays, lest it serve when it comes back.
    pub fn prune(&mut self, file: &Model) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, edits) in &mut self.services {
            match find(file, name) {
                Some(known) => {
                    let backends = prune(edits, known).into_iter();
                    lost.extend(backends.map(|backend| format!("service `{name}`: {backend}")));
                }
                None if edits.whole == Whole::Added => {}
                None => {
                    let backends = edits.backends.values_mut();
                    let forgotten = backends.map(forget).filter(|forgets| *forgets).count() > 0;
                    if forgotten || !edits.keys.is_empty() {
                        lost.push(format!("service `{name}`: {LOST}"));
                    }
                    (edits.whole, edits.keys) = (Whole::Kept, Keys::new());
                }
            }
        }
        prune_firewall(&mut self.firewall, &file.firewall);
        self.tidy();
        lost
    }

    /// Adds an edit that was checked against another file.
    pub fn take_over(&mut self, edit: Edit, file: &Model) {
        self.record(edit, file);
        prune_firewall(&mut self.firewall, &file.firewall);
    }
}

/// What becomes of edits without an object.
const LOST: &str = "the file does not have it any more, what was set of it is forgotten";

/// Leaves nothing of a backend's edits but its order: whether that forgets
/// what was set.
fn forget(edits: &mut BackendEdits) -> bool {
    let forgets = edits.whole == Whole::Added || !edits.keys.is_empty();
    *edits = BackendEdits { order: edits.order, ..BackendEdits::default() };
    forgets
}

/// Drops the rules that the file has as well, or has not either.
fn prune_firewall(edits: &mut FirewallEdits, known: &Firewall) {
    let opened: HashSet<_> = known.allow.iter().map(render::port_rule).collect();
    edits.allow.retain(|rule, allow| opened.contains(rule) != *allow);
    let denied: HashSet<_> = known.deny_sources.iter().collect();
    edits.deny.retain(|prefix, denial| {
        let in_file = denied.contains(prefix);
        // The file's denial was to hold for a time: now it is an edit's.
        denial.deny |= !in_file && denial.until.is_some();
        in_file != denial.deny
    });
}

/// Drops the edits of a service that the file has with nothing to change, and
/// says what was set of backends that it does not have.
fn prune(edits: &mut ServiceEdits, known: &Service) -> Vec<String> {
    let Ok(Some(effective)) = service(edits, Some(known)) else { return Vec::new() };
    if edits.whole == Whole::Added {
        if sorted(&effective) == sorted(known) {
            *edits = ServiceEdits {
                backends: std::mem::take(&mut edits.backends),
                ..Default::default()
            };
            for backend in edits.backends.values_mut() {
                forget(backend);
            }
        }
        return Vec::new();
    }
    let mut lost = Vec::new();
    let differ = |old: &Keys, new: &Keys, key: &str| old.get(key) != new.get(key);
    let (old, new) = (render::service(known), render::service(&effective));
    edits.keys.retain(|key, _| differ(&old, &new, key));
    for (name, edits) in &mut edits.backends {
        let backend = |service: &Service| {
            let backend = service.backends.iter().find(|backend| backend.name == *name);
            backend.map(render::backend)
        };
        let (old, new) = (backend(known), backend(&effective));
        if old == new {
            if forget(edits) && new.is_none() {
                lost.push(format!("backend `{name}`: {LOST}"));
            }
        } else if let (Whole::Kept, Some(old), Some(new)) = (edits.whole, &old, &new) {
            edits.keys.retain(|key, _| differ(old, new, key));
        }
    }
    lost
}

/// A service as it is whatever the order of its backends.
fn sorted(service: &Service) -> Service {
    let mut service = service.clone();
    service.backends.sort_by(|a, b| a.name.cmp(&b.name));
    service
}

fn find<'m>(model: &'m Model, name: &str) -> Option<&'m Service> {
    model.services.iter().find(|service| service.name == name)
}

/// What edits make of a service; `known`: the file's.
fn service(edits: &ServiceEdits, known: Option<&Service>) -> Result<Option<Service>, Vec<Mistake>> {
    let (mut keys, backends) = match (edits.whole, known) {
        (Whole::Removed, _) | (Whole::Kept, None) => return Ok(None),
        (Whole::Added, _) => (edits.keys.clone(), backends(edits, None)),
        (Whole::Kept, Some(known)) => {
            let mut keys = render::service(known);
            merge(&mut keys, edits.keys.clone());
            (keys, backends(edits, Some(known)))
        }
    };
    keys.insert("backend".to_owned(), backends);
    service_from(&keys).map(Some)
}

/// Those of the file first, in its order.
fn backends(edits: &ServiceEdits, known: Option<&Service>) -> Value {
    let mut backends = Vec::new();
    let mut names = HashSet::new();
    for known in known.iter().flat_map(|known| &known.backends) {
        names.insert(&known.name);
        let edits = edits.backends.get(&known.name);
        match edits.map_or(Whole::Kept, |edits| edits.whole) {
            Whole::Removed => {}
            Whole::Added => backends.extend(edits.map(|edits| edits.keys.clone())),
            Whole::Kept => {
                let mut keys = render::backend(known);
                merge(&mut keys, edits.map_or_else(Keys::new, |edits| edits.keys.clone()));
                backends.push(keys);
            }
        }
    }
    let added = edits
        .backends
        .iter()
        .filter(|(name, edits)| edits.whole == Whole::Added && !names.contains(name));
    backends.extend(added.map(|(_, edits)| edits.keys.clone()));
    backends.into_iter().map(Value::Object).collect()
}

/// Puts a service where [`Edits::apply`] has it: those of the file in its
/// order, then the others by name.
fn put(services: &mut Vec<Service>, file: &Model, name: &str, service: Option<Service>) {
    let at = services.iter().position(|service| service.name == name);
    match (at, service) {
        (Some(at), Some(service)) => services[at] = service,
        (Some(at), None) => {
            services.remove(at);
        }
        (None, Some(service)) => {
            let rank = |name: &str| {
                let known = file.services.iter().position(|known| known.name == name);
                (known.unwrap_or(usize::MAX), name.to_owned())
            };
            let new = rank(name);
            let at = services.partition_point(|other| rank(&other.name) < new);
            services.insert(at, service);
        }
        (None, None) => {}
    }
}

/// Reads the firewall from its keys, which must be as [`render::firewall`] writes
/// them: what is not understood would let something in.
pub(super) fn firewall_from(keys: &Keys) -> Result<Firewall, Vec<Mistake>> {
    let wrong = |key: &str, text: Option<&str>, wrong| {
        vec![error::mistake(&format!("firewall.{key}"), text, wrong)]
    };
    let known = ["host", "allow", "deny_sources", "new_flows_per_source"];
    if let Some(key) = keys.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(wrong(key, None, Wrong::new("unknown key")));
    }
    let texts = |key: &str| {
        let list = keys.get(key).and_then(Value::as_array);
        let texts =
            list.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        texts.ok_or_else(|| wrong(key, None, Wrong::new("must be a list of texts")))
    };
    let guard_host = [false, true]
        .into_iter()
        .find(|guarded| keys.get("host").is_some_and(|host| host == render::host(*guarded)));
    let rule = |text| value::port_rule_of(text).map_err(|rule| wrong("allow", Some(text), rule));
    let prefix =
        |text| value::prefix_of(text).map_err(|rule| wrong("deny_sources", Some(text), rule));
    let new_flows_per_source = match keys.get("new_flows_per_source") {
        Some(value) => {
            Some(new_flows(value).map_err(|rule| wrong("new_flows_per_source", None, rule))?)
        }
        None => None,
    };
    Ok(Firewall {
        new_flows_per_source,
        guard_host: guard_host
            .ok_or_else(|| wrong("host", None, Wrong::new("must be \"pass\" or \"drop\"")))?,
        allow: texts("allow")?.into_iter().map(rule).collect::<Result<_, _>>()?,
        deny_sources: texts("deny_sources")?.into_iter().map(prefix).collect::<Result<_, _>>()?,
    })
}

fn new_flows(value: &Value) -> Result<NewFlows, Wrong> {
    let number = |key: &str, range: RangeInclusive<u32>| {
        let number = value.get(key).and_then(Value::as_u64);
        let number = number.and_then(|number| u32::try_from(number).ok());
        let rule = || format!("`{key}` must be {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).ok_or_else(|| Wrong::new(rule()))
    };
    if value.as_object().is_none_or(|keys| keys.len() != 2) {
        return Err(Wrong::new("must be a table of `rate` and `burst`"));
    }
    let rate = number("rate", NEW_FLOWS_RATE)?;
    let limit = NewFlows { rate, burst: number("burst", NEW_FLOWS_BURST)? };
    is_measurable(limit).map(|()| limit)
}

fn firewall(edits: &FirewallEdits, known: &Firewall) -> Result<Firewall, Vec<Mistake>> {
    let Firewall { allow, deny_sources, .. } = known;
    let rules: HashSet<_> = allow.iter().map(render::port_rule).collect();
    let mut allow = allow.clone();
    allow.retain(|rule| edits.allow.get(&render::port_rule(rule)) != Some(&false));
    for (rule, _) in edits.allow.iter().filter(|(rule, allow)| **allow && !rules.contains(*rule)) {
        let parsed = value::port_rule_of(rule);
        let mistake = |wrong| vec![error::mistake("firewall.allow", Some(rule), wrong)];
        allow.push(parsed.map_err(mistake)?);
    }
    let prefixes: HashSet<_> = deny_sources.iter().collect();
    let denied = |prefix: &IpNet| {
        edits.deny.get(prefix).is_none_or(|denial| denial.deny || denial.until.is_some())
    };
    let mut deny_sources: Vec<_> =
        deny_sources.iter().copied().filter(|prefix| denied(prefix)).collect();
    let added =
        edits.deny.iter().filter(|(prefix, denial)| denial.deny && !prefixes.contains(prefix));
    deny_sources.extend(added.map(|(prefix, _)| *prefix));
    Ok(Firewall { allow, deny_sources, ..*known })
}

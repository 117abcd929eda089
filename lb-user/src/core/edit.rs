//! Edits made through the admin socket, over the configuration file.
//!
//! An edit wins over the file, key by key, until it is discarded
//! (`lb reload --discard-edits`) or the file says the same: then it is
//! redundant, and dropped at the next reload. In particular:
//!
//! - A key that was set wins over the file's value of this key; all others
//!   are the file's, whatever the file says later. `null` is the default.
//! - `health` is set key by key as well, unless its `kind` is set: then it is
//!   replaced, since the keys of another kind mean nothing. `split` and
//!   `route` are replaced as a whole.
//! - A service or backend that was added is as it was added, also if the file
//!   gets one of its name with other keys.
//! - One that was removed stays away while the file has it.
//! - What was set of a service or backend that the file no longer has is
//!   without effect, and dropped at the next reload, which says so. What a
//!   backend was ordered to stays, and holds when it comes back.
//! - A denial for a time over one that was lifted leaves it lifted afterwards.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{model::Model, weight::AdminState};

/// Keys and values as in the configuration file.
pub type Keys = Map<String, Value>;

/// One edit: what one command asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Adds a service with its backends: the keys of `[[service]]`.
    AddService {
        /// Its keys, the name among them.
        keys: Keys,
    },
    /// Sets keys of a service.
    SetService {
        /// Its name.
        service: String,
        /// The keys to set.
        keys: Keys,
    },
    /// Removes a service.
    RemoveService {
        /// Its name.
        service: String,
    },
    /// Adds a backend: the keys of `[[service.backend]]`.
    AddBackend {
        /// Name of its service.
        service: String,
        /// Its keys, the name among them.
        keys: Keys,
    },
    /// Sets keys of a backend.
    SetBackend {
        /// Name of its service.
        service: String,
        /// Its name.
        backend: String,
        /// The keys to set.
        keys: Keys,
    },
    /// Orders a backend's admin state.
    Order {
        /// Name of its service.
        service: String,
        /// Its name.
        backend: String,
        /// The order.
        order: Order,
    },
    /// Removes a backend.
    RemoveBackend {
        /// Name of its service.
        service: String,
        /// Its name.
        backend: String,
    },
    /// Opens a port to the host, or closes it.
    Allow {
        /// As the configuration writes it: "tcp/443".
        rule: String,
        /// Whether it is to be open.
        allow: bool,
    },
    /// Denies a source, or no longer.
    Deny {
        /// Without host bits.
        prefix: IpNet,
        /// Whether it is to be denied.
        deny: bool,
        /// Until this UNIX second; `None`: for good.
        until: Option<u64>,
    },
}

/// An admin state that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The state.
    pub state: AdminState,
    /// UNIX second at which a drain ends what flows are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
}

/// All edits in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Edits {
    /// By name of the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceEdits>,
    /// Port and source policy.
    pub firewall: FirewallEdits,
}

/// What was made of a service or backend as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whole {
    /// Nothing: it is the file's.
    #[default]
    Kept,
    /// It was added: its keys are all there is.
    Added,
    /// It was removed.
    Removed,
}

/// Edits of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceEdits {
    /// As a whole.
    pub whole: Whole,
    /// Keys that were set, without `backend`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub keys: Keys,
    /// By name of the backend.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, BackendEdits>,
}

/// Edits of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendEdits {
    /// As a whole.
    pub whole: Whole,
    /// Keys that were set.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub keys: Keys,
    /// Its admin state; `None`: ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// Edits of the port and source policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirewallEdits {
    /// By rule, such as "tcp/443": whether it was opened or closed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allow: BTreeMap<String, bool>,
    /// By prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub deny: BTreeMap<IpNet, Denial>,
}

/// What was ordered about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// Whether it is denied, if not by the file.
    pub deny: bool,
    /// A denial ends at this UNIX second; the file's, where `deny` is false,
    /// holds until then. `None`: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Edits {
    /// Number of edits: keys, admin states and rules count each, and so does
    /// what was added or removed as a whole, with all its keys.
    #[must_use]
    pub fn len(&self) -> usize {
        let services = self.services.values().map(|service| {
            let backends = service.backends.values().map(|backend| {
                let keys = if service.whole == Whole::Added && backend.whole == Whole::Added {
                    0
                } else {
                    count(backend.whole, &backend.keys)
                };
                keys + usize::from(backend.order.is_some())
            });
            count(service.whole, &service.keys) + backends.sum::<usize>()
        });
        services.sum::<usize>() + self.firewall.allow.len() + self.firewall.deny.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The admin state that was ordered for a backend, and the UNIX second of
    /// its deadline; `None`: ready.
    #[must_use]
    pub fn admin(&self, service: &str, backend: &str) -> Option<(AdminState, Option<u64>)> {
        let order = self.services.get(service)?.backends.get(backend)?.order?;
        Some((order.state, order.deadline))
    }

    /// Ends what was denied until now, a UNIX second; whether there was any.
    pub fn expire(&mut self, now: u64) -> bool {
        let mut any = false;
        self.firewall.deny.retain(|_, denial| {
            if denial.until.is_some_and(|until| until <= now) {
                denial.until = None;
                any = true;
                // What the file denies has an edit that says otherwise.
                return !denial.deny;
            }
            true
        });
        any
    }

    /// The UNIX second at which the next timed denial ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.firewall.deny.values().filter_map(|denial| denial.until).min()
    }

    /// Adds an edit that is known to be right: names exist, values are valid,
    /// rules are written as the file's are.
    pub fn record(&mut self, edit: Edit, file: &Model) {
        match edit {
            Edit::AddService { keys } => self.add_service(keys),
            Edit::SetService { service, keys } => {
                merge(&mut self.services.entry(service).or_default().keys, keys);
            }
            Edit::RemoveService { service } => {
                let whole = removed(file.services.iter().any(|known| known.name == service));
                self.services.insert(service, ServiceEdits { whole, ..ServiceEdits::default() });
            }
            Edit::AddBackend { service, keys } => {
                self.services.entry(service).or_default().add_backend(keys);
            }
            Edit::SetBackend { service, backend, keys } => {
                merge(&mut self.backend(service, backend).keys, keys);
            }
            Edit::Order { service, backend, order } => {
                let ready = order.state == AdminState::Ready;
                self.backend(service, backend).order = (!ready).then_some(order);
            }
            Edit::RemoveBackend { service, backend } => {
                let in_file = file.services.iter().any(|known| {
                    known.name == service && known.backends.iter().any(|b| b.name == backend)
                });
                let edits = self.services.entry(service).or_default();
                // A service that was added has nothing of the file's.
                let whole = removed(in_file && edits.whole == Whole::Kept);
                edits.backends.insert(backend, BackendEdits { whole, ..BackendEdits::default() });
            }
            Edit::Allow { rule, allow } => {
                self.firewall.allow.insert(rule, allow);
            }
            Edit::Deny { prefix, deny, until } => {
                // What the file denies and an edit does not is denied for a
                // time, and then no more.
                let lifted = self.firewall.deny.get(&prefix).is_some_and(|denial| !denial.deny);
                let deny = deny && !(lifted && until.is_some());
                self.firewall.deny.insert(prefix, Denial { deny, until });
            }
        }
        self.tidy();
    }

    fn backend(&mut self, service: String, backend: String) -> &mut BackendEdits {
        self.services.entry(service).or_default().backends.entry(backend).or_default()
    }

    fn add_service(&mut self, mut keys: Keys) {
        let Some(name) = keys.get("name").and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        let backends = keys.remove("backend");
        let mut service = ServiceEdits { whole: Whole::Added, keys, ..ServiceEdits::default() };
        if let Some(Value::Array(backends)) = backends {
            for backend in backends {
                if let Value::Object(keys) = backend {
                    service.add_backend(keys);
                }
            }
        }
        self.services.insert(name, service);
    }

    /// Forgets entries that say nothing.
    pub fn tidy(&mut self) {
        for service in self.services.values_mut() {
            service.backends.retain(|_, backend| *backend != BackendEdits::default());
        }
        self.services.retain(|_, service| *service != ServiceEdits::default());
    }
}

impl ServiceEdits {
    fn add_backend(&mut self, keys: Keys) {
        if let Some(name) = keys.get("name").and_then(Value::as_str).map(str::to_owned) {
            self.backends.insert(name, BackendEdits { whole: Whole::Added, keys, order: None });
        }
    }
}

fn count(whole: Whole, keys: &Keys) -> usize {
    if whole == Whole::Kept { keys.len() } else { 1 }
}

/// What is left of something that was removed: a mark, if the file has it.
fn removed(in_file: bool) -> Whole {
    if in_file { Whole::Removed } else { Whole::Kept }
}

/// Sets keys, by the rules above.
pub fn merge(into: &mut Keys, keys: Keys) {
    for (key, value) in keys {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new))
                if key == "health" && !new.contains_key("kind") =>
            {
                old.extend(new);
            }
            // The default probe, whatever later edits set beside it.
            (_, Value::Null) if key == "health" => {
                into.insert(key, json!({ "kind": null }));
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;

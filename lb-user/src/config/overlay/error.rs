//! Why an edit cannot be.

use ipnet::IpNet;

use crate::{
    config::{
        Mistake,
        mistake::Listed,
        read::Wrong,
        render,
        value::{is_name, port_rule_of, similar},
    },
    core::{
        edit::{Edit, Keys},
        model::{Model, Service},
    },
};

/// Why an edit is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No service of this name.
    #[error("no service `{service}`")]
    UnknownService {
        /// The name.
        service: String,
        /// A name that may be meant.
        similar: Option<String>,
    },
    /// No backend of this name.
    #[error("service `{service}` has no backend `{backend}`")]
    UnknownBackend {
        /// The service.
        service: String,
        /// The name.
        backend: String,
        /// A name that may be meant.
        similar: Option<String>,
    },
    /// There is a service of this name.
    #[error("service `{service}` exists already")]
    ServiceExists {
        /// The name.
        service: String,
    },
    /// There is a backend of this name.
    #[error("service `{service}` has a backend `{backend}` already")]
    BackendExists {
        /// The service.
        service: String,
        /// The name.
        backend: String,
    },
    /// A port that is to be closed is not open.
    #[error("`{rule}` is not allowed")]
    NotAllowed {
        /// The rule.
        rule: String,
        /// A rule that has these ports among others.
        within: Option<String>,
    },
    /// A source that is to be no longer denied is not.
    #[error("`{prefix}` is not denied")]
    NotDenied {
        /// The prefix.
        prefix: IpNet,
        /// A denied prefix around it.
        within: Option<IpNet>,
    },
    /// The configuration would be wrong.
    #[error("{}", Listed(.0))]
    Invalid(Vec<Mistake>),
}

impl EditError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownService { similar, .. } => {
                Some(meant(similar.as_deref(), "lb service list"))
            }
            Self::UnknownBackend { service, similar, .. } => {
                Some(meant(similar.as_deref(), &format!("lb backend list {service}")))
            }
            Self::ServiceExists { service } => {
                Some(format!("`lb service set {service}` changes its keys"))
            }
            Self::BackendExists { service, backend } => {
                Some(format!("`lb backend set {service} {backend}` changes its keys"))
            }
            Self::NotAllowed { within, .. } => Some(around(within.as_deref())),
            Self::NotDenied { within, .. } => {
                Some(around(within.map(|prefix| prefix.to_string()).as_deref()))
            }
            Self::Invalid(_) => None,
        }
    }
}

/// Points at the name that may be meant, or at the command that lists all.
fn meant(similar: Option<&str>, list: &str) -> String {
    match similar {
        Some(likely) => format!("did you mean `{likely}`?"),
        None => format!("`{list}` shows all"),
    }
}

/// Points at the entry that has what is missing among others, or at all entries.
fn around(within: Option<&str>) -> String {
    match within {
        Some(entry) => format!("`{entry}` has it among others"),
        None => "`lb firewall list` shows all".to_owned(),
    }
}

/// A mistake about a value that was not in a file.
pub(super) fn mistake(path: &str, value: Option<&str>, wrong: Wrong) -> Mistake {
    let value = value.map(|value| format!("{value:?}"));
    Mistake { line: None, path: path.to_owned(), value, rule: wrong.rule, hint: wrong.hint }
}

/// Refuses edits of what is not there, or is there already, and of keys that
/// cannot be set.
pub(super) fn refuse(model: &Model, edit: &Edit) -> Result<(), EditError> {
    match edit {
        Edit::AddService { keys } => {
            let name = keys.get("name").and_then(|name| name.as_str()).unwrap_or_default();
            match find(model, name) {
                Ok(_) => Err(EditError::ServiceExists { service: name.to_owned() }),
                Err(_) => Ok(()),
            }
        }
        Edit::SetService { service, keys } => {
            find(model, service)?;
            fixed(keys, &format!("service.{service}"))?;
            if !keys.contains_key("backend") {
                return Ok(());
            }
            let hint = "edit its backends one by one, with `lb backend`";
            let wrong = Wrong::new("must not be set here").hint(hint);
            let path = format!("service.{service}.backend");
            Err(EditError::Invalid(vec![mistake(&path, None, wrong)]))
        }
        Edit::RemoveService { service } => find(model, service).map(|_| ()),
        Edit::AddBackend { service, keys } => {
            let found = find(model, service)?;
            let name = keys.get("name").and_then(|name| name.as_str()).unwrap_or_default();
            match has(found, name) {
                Ok(()) => Err(EditError::BackendExists {
                    service: service.clone(),
                    backend: name.to_owned(),
                }),
                Err(_) => Ok(()),
            }
        }
        Edit::SetBackend { service, backend, keys } => {
            has(find(model, service)?, backend)?;
            fixed(keys, &format!("service.{service}.backend.{backend}"))
        }
        Edit::Order { service, backend, .. } | Edit::RemoveBackend { service, backend } => {
            has(find(model, service)?, backend)
        }
        Edit::Allow { rule, allow: false } => allowed(model, rule),
        Edit::Deny { prefix, deny: false, .. } => denied(model, *prefix),
        Edit::Allow { .. } | Edit::Deny { .. } => Ok(()),
    }
}

/// A backend that is added has a name.
pub(super) fn named(keys: &Keys, service: &str) -> Result<(), EditError> {
    if keys.get("name").and_then(|name| name.as_str()).is_some_and(is_name) {
        return Ok(());
    }
    let path = format!("service.{service}.backend.name");
    Err(EditError::Invalid(vec![mistake(&path, None, Wrong::name())]))
}

/// Names are what edits are kept by.
fn fixed(keys: &Keys, path: &str) -> Result<(), EditError> {
    if !keys.contains_key("name") {
        return Ok(());
    }
    let wrong = Wrong::new("must not be set").hint("remove it, and add it by its other name");
    Err(EditError::Invalid(vec![mistake(&format!("{path}.name"), None, wrong)]))
}

fn find<'m>(model: &'m Model, name: &str) -> Result<&'m Service, EditError> {
    model.services.iter().find(|service| service.name == name).ok_or_else(|| {
        let names: Vec<_> = model.services.iter().map(|service| service.name.as_str()).collect();
        let similar = similar(name, &names).map(str::to_owned);
        EditError::UnknownService { service: name.to_owned(), similar }
    })
}

fn has(service: &Service, name: &str) -> Result<(), EditError> {
    if service.backends.iter().any(|backend| backend.name == name) {
        return Ok(());
    }
    let names: Vec<_> = service.backends.iter().map(|backend| backend.name.as_str()).collect();
    Err(EditError::UnknownBackend {
        service: service.name.clone(),
        backend: name.to_owned(),
        similar: similar(name, &names).map(str::to_owned),
    })
}

fn allowed(model: &Model, rule: &str) -> Result<(), EditError> {
    let allow = &model.firewall.allow;
    if allow.iter().any(|known| render::port_rule(known) == rule) {
        return Ok(());
    }
    let within = port_rule_of(rule).ok().and_then(|(protocol, ports)| {
        allow.iter().find(|(known, range)| {
            *known == protocol && range.contains(ports.start()) && range.contains(ports.end())
        })
    });
    let within = within.map(render::port_rule);
    Err(EditError::NotAllowed { rule: rule.to_owned(), within })
}

fn denied(model: &Model, prefix: IpNet) -> Result<(), EditError> {
    let deny = &model.firewall.deny_sources;
    if deny.contains(&prefix) {
        return Ok(());
    }
    let within = deny.iter().copied().find(|net| net.contains(&prefix));
    Err(EditError::NotDenied { prefix, within })
}

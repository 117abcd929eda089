//! Where edits differ from the file, in words.

use std::{
    collections::HashSet,
    time::{Duration, UNIX_EPOCH},
};

use humantime::format_rfc3339_seconds;
use serde_json::Value;

use super::{find, service};
use crate::{
    config::render,
    core::{
        edit::{Denial, Edits, FirewallEdits, Keys, ServiceEdits, Whole},
        model::{Model, Service},
        weight::AdminState,
    },
};

impl Edits {
    /// Says where the edits differ from the file, one line each.
    #[must_use]
    pub fn describe(&self, file: &Model) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, edits) in &self.services {
            let of_service = of_service(edits, find(file, name));
            lines.extend(of_service.into_iter().map(|line| format!("service `{name}`: {line}")));
        }
        lines.extend(of_firewall(&self.firewall));
        lines
    }
}

fn of_service(edits: &ServiceEdits, known: Option<&Service>) -> Vec<String> {
    let mut lines = match (edits.whole, known) {
        (Whole::Removed, Some(_)) => vec!["removed, the file has it".to_owned()],
        (Whole::Added, None) => vec!["added, the file does not have it".to_owned()],
        (Whole::Removed | Whole::Kept, None) => {
            vec!["the file does not have it: its edits are without effect".to_owned()]
        }
        (Whole::Added | Whole::Kept, Some(known)) => match service(edits, Some(known)) {
            Ok(Some(effective)) => of_keys(&effective, known),
            _ => vec!["its edits do not fit the file".to_owned()],
        },
    };
    let effective = service(edits, known).ok().flatten();
    let backends = effective.iter().flat_map(|service| &service.backends);
    let names: HashSet<_> = backends.map(|backend| &backend.name).collect();
    for (name, edits) in &edits.backends {
        if let Some(order) = edits.order {
            let state = match order.state {
                AdminState::Ready => "ready",
                AdminState::Drain => "drain",
                AdminState::Maint => "maint",
            };
            let there = if names.contains(name) { "" } else { ", once there is one" };
            lines.push(format!("backend `{name}`: ordered to {state}{there}"));
        }
    }
    lines
}

fn of_keys(effective: &Service, known: &Service) -> Vec<String> {
    let [mut new, mut old] = [effective, known].map(render::service);
    new.remove("backend");
    old.remove("backend");
    let mut lines = Vec::new();
    differences(&mut lines, "", &new, &old);
    let of = |service: &Service, name: &str| {
        service.backends.iter().find(|backend| backend.name == name).map(render::backend)
    };
    for backend in &effective.backends {
        let (name, new) = (&backend.name, render::backend(backend));
        let prefix = format!("backend `{name}`: ");
        match of(known, name) {
            Some(old) => differences(&mut lines, &prefix, &new, &old),
            None => lines.push(format!("{prefix}added, the file does not have it")),
        }
    }
    for backend in &known.backends {
        if of(effective, &backend.name).is_none() {
            lines.push(format!("backend `{}`: removed, the file has it", backend.name));
        }
    }
    lines
}

/// Goes into `health` and `split` key by key.
fn differences(lines: &mut Vec<String>, prefix: &str, new: &Keys, old: &Keys) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        match (new.get(key), old.get(key)) {
            (new, old) if new == old => {}
            (Some(Value::Object(new)), Some(Value::Object(old))) => {
                differences(lines, &format!("{prefix}{key}."), new, old);
            }
            (Some(new), Some(old)) => {
                lines.push(format!("{prefix}{key} is {new}, the file says {old}"));
            }
            (Some(new), None) => {
                lines.push(format!("{prefix}{key} is {new}, the file does not set it"));
            }
            (None, old) => {
                let old = old.map(ToString::to_string).unwrap_or_default();
                lines.push(format!("{prefix}{key} is not set, the file says {old}"));
            }
        }
    }
}

/// The last second of the year 9999, the last one that can be written.
const LAST: u64 = 253_402_300_799;

/// A UNIX second in words: "2026-11-23T18:00:00Z", whatever a hand has written to
/// the disk.
pub fn moment(unix: u64) -> impl std::fmt::Display {
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix.min(LAST)))
}

fn of_firewall(edits: &FirewallEdits) -> impl Iterator<Item = String> + '_ {
    let allow = edits.allow.iter().map(|(rule, allow)| {
        let verb = if *allow { "allowed" } else { "no longer allowed" };
        format!("firewall: `{rule}` is {verb}")
    });
    let deny = edits.deny.iter().map(|(prefix, denial)| match denial {
        Denial { deny: true, until: Some(until) } => {
            format!("firewall: `{prefix}` is denied until {}", moment(*until))
        }
        Denial { deny: true, until: None } => format!("firewall: `{prefix}` is denied"),
        Denial { deny: false, until: Some(until) } => {
            format!("firewall: `{prefix}` is no longer denied from {} on", moment(*until))
        }
        Denial { deny: false, until: None } => format!("firewall: `{prefix}` is no longer denied"),
    });
    allow.chain(deny)
}

//! Two contents that were one become one again.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::content::{Base, Conflict, Content};
use crate::core::edit::{Edits, Keys, Whole};

/// Most conflicts that are kept: the oldest go first.
const MOST_CONFLICTS: usize = 1000;

/// `stays` with the changes of `gives_way` since `common`, key by key. What both
/// changed is as `stays` has it, and the other a conflict. Without anything in
/// common there are no changes: whatever differs is a conflict. So it is if what
/// both make together is not `valid`. `at`: this UNIX second; `nodes`: where `stays`
/// comes from, and `gives_way`.
#[must_use]
pub fn merge(
    common: Option<&Content>,
    stays: &Content,
    gives_way: &Content,
    (at, nodes): (u64, [&str; 2]),
    valid: impl Fn(&Content) -> bool,
) -> Content {
    let [ours, theirs] = [stays, gives_way].map(tree);
    let before = common.map(tree);
    let changed = |path: String, kept: Option<&Value>, dropped: Option<&Value>| Conflict {
        at,
        path,
        kept: kept.cloned(),
        dropped: dropped.cloned(),
        node: nodes[1].to_owned(),
    };
    let settle = |taking: bool| {
        let mut found = Vec::new();
        let mut merging = Merging {
            taking,
            conflict: |path: &[&str], kept: Option<&Value>, dropped: Option<&Value>| {
                found.push(changed(path.join("."), kept, dropped));
            },
        };
        let before = before.as_ref();
        let merged = merging.merge(&mut Vec::new(), before, Some(&ours), Some(&theirs));
        let mut content = content(merged.unwrap_or_default(), stays);
        if let Some(content) = &mut content {
            for (path, dropped) in without_object(content, common, gives_way) {
                found.push(changed(path, None, Some(&dropped)));
            }
            for (path, dropped) in without_object(content, common, stays) {
                let conflict = changed(path, None, Some(&dropped));
                found.push(Conflict { node: nodes[0].to_owned(), ..conflict });
            }
            content.conflicts = all_conflicts(common, stays, gives_way, found);
        }
        content
    };
    let merged = if common.is_some() { settle(true).filter(valid) } else { None };
    merged.or_else(|| settle(false)).unwrap_or_else(|| stays.clone())
}

/// A walk through three trees.
struct Merging<F> {
    /// Whether what only the other changed is taken.
    taking: bool,
    conflict: F,
}

impl<F: FnMut(&[&str], Option<&Value>, Option<&Value>)> Merging<F> {
    fn merge<'t>(
        &mut self,
        path: &mut Vec<&'t str>,
        before: Option<&'t Value>,
        ours: Option<&'t Value>,
        theirs: Option<&'t Value>,
    ) -> Option<Value> {
        if ours == theirs || before == theirs {
            return ours.cloned();
        }
        if self.taking && before == ours {
            return theirs.cloned();
        }
        let (Some(Value::Object(one)), Some(Value::Object(other))) = (ours, theirs) else {
            (self.conflict)(path, ours, theirs);
            return ours.cloned();
        };
        if is_one(path, before, one, other) {
            (self.conflict)(path, ours, theirs);
            return ours.cloned();
        }
        let mut merged = Map::new();
        let added = other.keys().filter(|key| !one.contains_key(*key));
        for key in one.keys().chain(added) {
            let before = before.and_then(|before| before.get(key));
            path.push(key);
            if let Some(value) = self.merge(path, before, one.get(key), other.get(key)) {
                merged.insert(key.clone(), value);
            }
            path.pop();
        }
        Some(Value::Object(merged))
    }
}

/// Whether tables of which both nodes made something else stay apart: parts of both
/// would make something that nobody ordered.
fn is_one(path: &[&str], before: Option<&Value>, one: &Keys, other: &Keys) -> bool {
    match path {
        // A service or backend that both added.
        ["file", "service", _] | ["file", "service", _, "backend", _] => before.is_none(),
        ["edits", "services", _] | ["edits", "services", _, "backends", _] => {
            let whole = |keys: &Keys| keys.get("whole").cloned();
            whole(one) != whole(other) || before.is_none() && whole(one) == Some(json!("added"))
        }
        ["edits", "firewall", "deny", _] | ["file", "firewall", "new_flows_per_source"] => true,
        [.., "order" | "split"] => true,
        [.., "health"] => one.get("kind") != other.get("kind"),
        _ => false,
    }
}

/// With names for positions, so that keys are what is compared.
fn tree(content: &Content) -> Value {
    let Content { base, edits, .. } = content;
    let services = base.services().iter().map(|service| {
        let mut service = service.clone();
        let backends = service.shift_remove("backend").unwrap_or_default();
        let backends = backends.as_array().into_iter().flatten();
        let backends = backends.map(|backend| (name(backend), backend.clone()));
        service.insert("backend".to_owned(), Value::Object(backends.collect()));
        let service = Value::Object(service);
        (name(&service), service)
    });
    let firewall = base.firewall().iter().map(|(key, value)| match value {
        Value::Array(rules) => {
            let rules = rules.iter().map(|rule| (text(rule), Value::Bool(true)));
            (key.clone(), Value::Object(rules.collect()))
        }
        plain => (key.clone(), plain.clone()),
    });
    json!({
        "file": {
            "service": services.collect::<Map<_, _>>(),
            "firewall": firewall.collect::<Map<_, _>>(),
        },
        "edits": edits,
    })
}

fn name(table: &Value) -> String {
    text(&table["name"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The way back; `None`: the edits make no sense.
fn content(mut tree: Value, stays: &Content) -> Option<Content> {
    let edits: Edits = serde_json::from_value(tree["edits"].take()).ok()?;
    let services = object(tree["file"]["service"].take()).into_iter().map(|(_, service)| {
        let mut service = object(service);
        let backends = object(service.shift_remove("backend").unwrap_or_default());
        service
            .insert("backend".to_owned(), backends.into_iter().map(|(_, table)| table).collect());
        service
    });
    let firewall =
        object(tree["file"]["firewall"].take()).into_iter().map(|(key, value)| match value {
            Value::Object(rules) if rules.values().all(Value::is_boolean) => {
                (key, rules.into_iter().map(|(rule, _)| rule).collect())
            }
            plain => (key, plain),
        });
    let base = Base::new(services.collect(), firewall.collect());
    let same = base.digest() == stays.base.digest();
    let base = if same { Arc::clone(&stays.base) } else { Arc::new(base) };
    Some(Content { base, edits, conflicts: Vec::new() })
}

fn object(value: Value) -> Keys {
    match value {
        Value::Object(keys) => keys,
        _ => Keys::new(),
    }
}

/// Edits of one side since `common` that are in `merged` and have nothing to be
/// about there: the other side removed it.
fn without_object(
    merged: &Content,
    common: Option<&Content>,
    side: &Content,
) -> Vec<(String, Value)> {
    let mut lost = Vec::new();
    for (name, edits) in &side.edits.services {
        let Some(kept) = merged.edits.services.get(name).filter(|kept| kept.whole == Whole::Kept)
        else {
            continue;
        };
        let before = common.and_then(|common| common.edits.services.get(name));
        let named = |table: &&Keys| table.get("name").and_then(Value::as_str) == Some(name);
        let path = format!("edits.services.{name}");
        let Some(file) = merged.base.services().iter().find(named) else {
            if before != Some(edits) && kept == edits {
                lost.push((path, json!(edits)));
            }
            continue;
        };
        let backends = file.get("backend").and_then(Value::as_array);
        let has =
            |backend: &str| backends.into_iter().flatten().any(|known| known["name"] == *backend);
        for (backend, edits) in &edits.backends {
            let old = before.and_then(|before| before.backends.get(backend));
            let is_kept = edits.whole == Whole::Kept && kept.backends.get(backend) == Some(edits);
            if is_kept && old != Some(edits) && !has(backend) {
                lost.push((format!("{path}.backends.{backend}"), json!(edits)));
            }
        }
    }
    lost
}

/// Those that both know of and nobody has seen, and the new ones.
fn all_conflicts(
    common: Option<&Content>,
    stays: &Content,
    gives_way: &Content,
    found: Vec<Conflict>,
) -> Vec<Conflict> {
    let before = common.map_or(&[][..], |common| &common.conflicts);
    let (ours, theirs) = (&stays.conflicts, &gives_way.conflicts);
    let is_open = |conflict: &&Conflict| {
        !before.contains(conflict) || ours.contains(conflict) && theirs.contains(conflict)
    };
    let added = theirs.iter().filter(|conflict| !ours.contains(conflict));
    let mut all: Vec<_> = ours.iter().chain(added).filter(is_open).cloned().collect();
    all.extend(found);
    let most = all.len().saturating_sub(MOST_CONFLICTS);
    all.drain(..most);
    all
}

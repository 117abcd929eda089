//! Both nodes' ledgers, with what goes between them held up and lost.

use std::{collections::VecDeque, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::core::edit::{BackendEdits, Edits, Keys, Whole};

const NAMES: [&str; 2] = ["lb-a", "lb-b"];
const NOW: u64 = 1_800_000_000;

fn keys(value: Value) -> Keys {
    value.as_object().unwrap().clone()
}

/// A service `web` of these backends, each with a weight.
fn base(backends: &[&str]) -> Arc<Base> {
    let backends: Vec<_> =
        backends.iter().map(|name| json!({ "name": name, "weight": 1 })).collect();
    let service = json!({ "name": "web", "vip": "203.0.113.10", "backend": backends });
    let firewall = json!({ "host": "pass", "allow": ["tcp/22"], "deny_sources": [] });
    Arc::new(Base::new(vec![keys(service)], keys(firewall)))
}

fn plain(backends: &[&str]) -> Content {
    Content { base: base(backends), edits: Edits::default(), conflicts: Vec::new() }
}

fn edited(content: &Content, change: impl FnOnce(&mut Edits)) -> Content {
    let mut content = content.clone();
    change(&mut content.edits);
    content.edits.tidy();
    content
}

fn backend<'e>(edits: &'e mut Edits, service: &str, backend: &str) -> &'e mut BackendEdits {
    let service = edits.services.entry(service.to_owned()).or_default();
    service.backends.entry(backend.to_owned()).or_default()
}

fn set_weight(edits: &mut Edits, name: &str, weight: u64) {
    backend(edits, "web", name).keys.insert("weight".to_owned(), weight.into());
}

fn weight(content: &Content, name: &str) -> Option<u64> {
    content.edits.services.get("web")?.backends.get(name)?.keys.get("weight")?.as_u64()
}

fn merged(common: &Content, stays: &Content, gives_way: &Content) -> Content {
    merge(Some(common), stays, gives_way, (NOW, NAMES), |_| true)
}

#[test]
fn changes_of_different_things_are_all_kept() {
    let common = plain(&["b1", "b2"]);
    let ours = edited(&common, |edits| set_weight(edits, "b1", 5));
    let mut theirs = edited(&common, |edits| set_weight(edits, "b2", 7));
    theirs.edits.firewall.allow.insert("tcp/25".to_owned(), true);
    let both = merged(&common, &ours, &theirs);
    assert_eq!((weight(&both, "b1"), weight(&both, "b2")), (Some(5), Some(7)));
    assert_eq!(both.edits.firewall, theirs.edits.firewall);
    assert_eq!(both.conflicts, []);
}

#[test]
fn of_two_changes_of_one_thing_one_stays_and_the_other_is_shown() {
    let common = plain(&["b1"]);
    let [ours, theirs] = [5, 7].map(|new| edited(&common, |edits| set_weight(edits, "b1", new)));
    let both = merged(&common, &ours, &theirs);
    assert_eq!(weight(&both, "b1"), Some(5));
    let [conflict] = &both.conflicts[..] else { panic!("{:?}", both.conflicts) };
    assert_eq!(conflict.path, "edits.services.web.backends.b1.keys.weight");
    assert_eq!((&conflict.kept, &conflict.dropped), (&Some(json!(5)), &Some(json!(7))));
    assert_eq!((conflict.at, conflict.node.as_str()), (NOW, "lb-b"));
}

#[test]
fn a_limit_is_not_made_of_parts_of_both() {
    let limited = |rate, burst| {
        let common = base(&["b1"]);
        let mut firewall = common.firewall().clone();
        let limit = json!({ "rate": rate, "burst": burst });
        firewall.insert("new_flows_per_source".to_owned(), limit);
        let base = Arc::new(Base::new(common.services().to_vec(), firewall));
        Content { base, ..plain(&["b1"]) }
    };
    let (common, ours, theirs) = (limited(500, 1000), limited(5, 1000), limited(500, 10));
    let both = merged(&common, &ours, &theirs);
    assert_eq!(both.base.firewall(), ours.base.firewall());
    assert_eq!(both.conflicts[0].path, "file.firewall.new_flows_per_source");
    assert_eq!(merged(&common, &common, &theirs).base, theirs.base);
}

#[test]
fn files_are_merged_by_service_and_backend() {
    let common = plain(&["b1", "b2"]);
    let ours = Content { base: base(&["b1", "b2", "b3"]), ..common.clone() };
    let theirs = Content { base: base(&["b2"]), ..common.clone() };
    let both = merged(&common, &ours, &theirs);
    assert_eq!((&both.base, &both.conflicts[..]), (&base(&["b2", "b3"]), &[][..]));
}

#[test]
fn an_order_about_what_the_other_removed_is_shown() {
    let common = plain(&["b1", "b2"]);
    let order = edited(&common, |edits| set_weight(edits, "b2", 7));
    let by_file = Content { base: base(&["b1"]), ..common.clone() };
    let by_edit = edited(&common, |edits| backend(edits, "web", "b2").whole = Whole::Removed);
    for removed in [by_file, by_edit] {
        let both = merged(&common, &removed, &order);
        let [conflict] = &both.conflicts[..] else { panic!("{:?}", both.conflicts) };
        assert_eq!(conflict.path, "edits.services.web.backends.b2");
        assert!(conflict.dropped.as_ref().unwrap().to_string().contains("7"));
    }
}

#[test]
fn what_both_add_is_not_made_of_parts_of_both() {
    let common = plain(&["b1"]);
    let add = |vip: &str, backend: &str| {
        let service = json!({ "name": "api", "vip": vip, "backend": [{ "name": backend }] });
        let mut services = common.base.services().to_vec();
        services.push(keys(service));
        let base = Arc::new(Base::new(services, common.base.firewall().clone()));
        Content { base, ..common.clone() }
    };
    let (ours, theirs) = (add("192.0.2.1", "x"), add("192.0.2.2", "y"));
    let both = merged(&common, &ours, &theirs);
    assert_eq!(both.base, ours.base);
    let [conflict] = &both.conflicts[..] else { panic!("{:?}", both.conflicts) };
    assert_eq!(conflict.path, "file.service.api");
    let order = |state, deadline| {
        let order = crate::core::edit::Order { state, deadline };
        edited(&common, |edits| backend(edits, "web", "b1").order = Some(order))
    };
    use crate::core::weight::AdminState::{Drain, Maint};
    let (ours, theirs) = (order(Drain, Some(NOW)), order(Maint, None));
    let both = merged(&common, &ours, &theirs);
    assert_eq!(both.edits, ours.edits);
    assert_eq!(both.conflicts.len(), 1);
}

#[test]
fn an_edit_that_stays_about_what_the_other_removed_is_shown_as_well() {
    let common = plain(&["b1", "b2"]);
    let order = edited(&common, |edits| set_weight(edits, "b2", 7));
    let removed = Content { base: base(&["b1"]), ..common.clone() };
    let both = merged(&common, &order, &removed);
    let [conflict] = &both.conflicts[..] else { panic!("{:?}", both.conflicts) };
    assert_eq!(
        (conflict.path.as_str(), &*conflict.node),
        ("edits.services.web.backends.b2", "lb-a")
    );
    // Whatever else was ordered about its service.
    let both_orders = edited(&order, |edits| set_weight(edits, "b1", 5));
    let one =
        Content { base: base(&["b1"]), ..edited(&common, |edits| set_weight(edits, "b1", 6)) };
    let shown = merged(&common, &one, &both_orders).conflicts;
    assert!(shown.iter().any(|one| one.path == "edits.services.web.backends.b2"), "{shown:?}");
}

#[test]
fn a_service_without_a_name_is_no_reason_to_fail() {
    let nameless = Base::new(vec![keys(json!({ "vip": "192.0.2.1" }))], Keys::new());
    let common = plain(&["b1"]);
    let theirs = edited(&common, |edits| set_weight(edits, "b1", 7));
    let ours = Content { base: Arc::new(nameless), ..common.clone() };
    let _ = merged(&common, &ours, &theirs);
    let _ = merged(&common, &theirs, &ours);
}

#[test]
fn what_makes_no_sense_together_is_not_merged() {
    let common = plain(&["b1", "b2"]);
    let ours = edited(&common, |edits| set_weight(edits, "b1", 5));
    let theirs = edited(&common, |edits| set_weight(edits, "b2", 7));
    let valid =
        |content: &Content| weight(content, "b1").is_none() || weight(content, "b2").is_none();
    let both = merge(Some(&common), &ours, &theirs, (NOW, NAMES), valid);
    assert_eq!((weight(&both, "b1"), weight(&both, "b2")), (Some(5), None));
    let [conflict] = &both.conflicts[..] else { panic!("{:?}", both.conflicts) };
    assert_eq!(numbers(conflict.dropped.as_ref()), [7]);
}

#[test]
fn conflicts_that_were_seen_do_not_come_back() {
    let plain = plain(&["b1"]);
    let conflict = |path: &str| Conflict {
        at: NOW,
        path: path.to_owned(),
        kept: None,
        dropped: None,
        node: "lb-b".to_owned(),
    };
    let with = |paths: &[&str]| {
        let conflicts = paths.iter().map(|path| conflict(path)).collect();
        Content { conflicts, ..plain.clone() }
    };
    let both = merged(&with(&["old"]), &with(&["old", "new"]), &with(&[]));
    assert_eq!(both.conflicts, [conflict("new")]);
    let both = merged(&with(&["old"]), &with(&[]), &with(&["old", "new"]));
    assert_eq!(both.conflicts, [conflict("new")]);
}

#[test]
fn a_node_that_has_changed_nothing_takes_what_the_other_has() {
    let mut old = Ledger::new(plain(&["b1"]), base(&[]).digest(), 9);
    let new = Ledger::new(plain(&["b1"]), base(&[]).digest(), 99);
    old.change(edited(&plain(&["b1"]), |edits| set_weight(edits, "b1", 5)), 1, 1);
    assert_eq!(new.judge(&old.offer()), Judgement::Newer);
    assert_eq!(old.judge(&new.offer()), Judgement::Older);
    // What its file says is nothing to give up silently.
    let other = Ledger::new(plain(&["b2"]), base(&[]).digest(), 99);
    assert_eq!(old.judge(&other.offer()), Judgement::Merge);
    assert_eq!(other.judge(&old.offer()), Judgement::Yield);
}

#[test]
fn what_is_served_already_stays_before_the_file_of_one_that_comes() {
    let file = base(&[]).digest();
    let mut served = Ledger::new(plain(&["b1"]), file, 9);
    served.establish(3);
    let mut comes = Ledger::new(plain(&["b2"]), file, 99);
    comes.change(plain(&["b3"]), 0, 98);
    assert_eq!(comes.judge(&served.offer()), Judgement::Yield);
    let theirs = &comes.current.content;
    let merged = served.merged(&comes.offer(), theirs, (7, NOW), NAMES, |_| true);
    assert_eq!(merged.current.content.base, served.current.content.base);
    assert!(!merged.current.content.conflicts.is_empty());
    // Once both have gone by the same, a change is told from what was there.
    comes.adopt(merged.current);
    let known = comes.clone();
    comes.establish(4);
    assert_eq!(comes, known);
}

#[test]
fn what_is_served_already_stays_before_the_orders_of_one_that_comes() {
    let (content, file) = (plain(&["b1"]), base(&[]).digest());
    let mut served = Ledger::new(content.clone(), file, 9);
    served.establish(3);
    let mut comes = Ledger::new(content.clone(), file, 99);
    comes.change(edited(&content, |edits| set_weight(edits, "b1", 5)), 1, 98);
    assert_eq!(comes.judge(&served.offer()), Judgement::Yield);
    let theirs = &comes.current.content;
    let merged = served.merged(&comes.offer(), theirs, (7, NOW), NAMES, |_| true);
    assert_eq!(merged.current.content.edits, content.edits);
    assert_eq!(merged.current.content.conflicts.len(), 1);
}

#[test]
fn a_digest_knows_no_order_of_keys_and_everything_else() {
    let of = |text: &str| Digest::of(&serde_json::from_str(text).unwrap());
    assert_eq!(of(r#"{"a":1,"b":{"c":2,"d":3}}"#), of(r#"{"b":{"d":3,"c":2},"a":1}"#));
    let others = [r#"{"a":12}"#, r#"{"a":1,"b":2}"#, r#"["a",1]"#, r#"[["a"],1]"#, r#"{"a":"1"}"#];
    let all: Vec<_> = others.iter().chain([&r#"{"a":1}"#]).map(|text| of(text)).collect();
    for (index, digest) in all.iter().enumerate() {
        assert!(!all[..index].contains(digest), "{}", others[index]);
        assert_eq!(serde_json::from_value::<Digest>(json!(digest)).unwrap(), *digest);
    }
    assert!(serde_json::from_value::<Digest>(json!("0011")).is_err());
}

/// What happens to the pair.
#[derive(Clone, Debug)]
enum Event {
    /// A weight is set, of one of some backends.
    Order(usize, usize),
    /// A file with other backends is put in force.
    File(usize, usize),
    /// The pair gets another term, which a node may not hear of.
    Term(usize),
    /// A node offers what it has.
    Offer(usize),
    /// What was said to a node first is heard.
    Deliver(usize),
    /// A connection breaks with all that is on its way.
    Break(usize),
    /// A node starts again, from its disk.
    Restart(usize),
    /// A node serves, and knows of no other.
    Establish(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    let node = 0..2_usize;
    prop_oneof![
        3 => (node.clone(), 0..3_usize).prop_map(|(node, which)| Event::Order(node, which)),
        1 => (node.clone(), 0..3_usize).prop_map(|(node, which)| Event::File(node, which)),
        1 => node.clone().prop_map(Event::Term),
        4 => node.clone().prop_map(Event::Offer),
        6 => node.clone().prop_map(Event::Deliver),
        1 => node.clone().prop_map(Event::Break),
        1 => node.clone().prop_map(Event::Restart),
        1 => node.prop_map(Event::Establish),
    ]
}

/// What goes from one node to the other.
#[derive(Clone, Debug)]
enum Said {
    Offer(Offer, Revision),
    Agreed(Revision, Version),
}

const BACKENDS: [&str; 3] = ["b1", "b2", "b3"];

struct World {
    nodes: [Ledger; 2],
    disks: [Ledger; 2],
    terms: [u64; 2],
    /// By who is to hear it.
    said: [VecDeque<Said>; 2],
    /// Numbers that nobody had before.
    counter: u64,
    /// Weights that were ordered and that nobody who saw them changed.
    standing: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let content = plain(&BACKENDS);
        let nodes = [1, 2].map(|tag| Ledger::new(content.clone(), content.base.digest(), tag));
        let said = Default::default();
        let disks = nodes.clone();
        Self { nodes, disks, terms: [1; 2], said, counter: 10, standing: Vec::new() }
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Order(node, which) => {
                let new = self.count();
                let ledger = &mut self.nodes[node];
                let seen = weight(&ledger.current.content, BACKENDS[which]);
                self.standing.retain(|weight| Some(*weight) != seen);
                self.standing.push(new);
                let content = edited(&ledger.current.content, |edits| {
                    set_weight(edits, BACKENDS[which], new);
                });
                ledger.change(content, self.terms[node], new);
            }
            Event::File(node, which) => {
                let tag = self.count();
                let ledger = &mut self.nodes[node];
                // Backends without orders, of which none is about.
                let mut backends = BACKENDS.to_vec();
                backends.extend(["x", "y", "z"].into_iter().take(which));
                let content = Content { base: base(&backends), ..ledger.current.content.clone() };
                ledger.change(content, self.terms[node], tag);
            }
            Event::Term(node) => self.terms[node] = 1 + self.terms[0].max(self.terms[1]),
            Event::Offer(node) => {
                let ledger = &self.nodes[node];
                let said = Said::Offer(ledger.offer(), ledger.current.clone());
                self.said[1 - node].push_back(said);
            }
            Event::Deliver(node) => {
                let Some(said) = self.said[node].pop_front() else { return };
                self.hear(node, said);
            }
            Event::Break(node) => self.said[node].clear(),
            Event::Restart(node) => {
                self.said[node].clear();
                self.nodes[node] = self.disks[node].clone();
            }
            Event::Establish(node) => self.nodes[node].establish(self.terms[node]),
        }
        for (ledger, disk) in self.nodes.iter().zip(&mut self.disks) {
            if ledger.outdates(disk) {
                disk.clone_from(ledger);
            }
        }
    }

    fn hear(&mut self, node: usize, said: Said) {
        let tag = self.count();
        let ledger = &mut self.nodes[node];
        let agreed = match said {
            Said::Agreed(offered, agreed) => return ledger.confirm(offered, agreed),
            Said::Offer(offer, revision) => match ledger.judge(&offer) {
                Judgement::Same => Said::Agreed(revision, ledger.agree(offer.version)),
                Judgement::Newer => {
                    let version = revision.version;
                    ledger.adopt(revision.clone());
                    Said::Agreed(revision, version)
                }
                Judgement::Older | Judgement::Yield => return,
                Judgement::Merge => {
                    let names = [NAMES[node], NAMES[1 - node]];
                    let content = &revision.content;
                    *ledger = ledger.merged(&offer, content, (tag, NOW), names, |_| true);
                    return;
                }
            },
        };
        self.said[1 - node].push_back(agreed);
    }

    /// Lets everything be heard, several times.
    fn settle(&mut self) {
        for _ in 0..8 {
            for node in 0..2 {
                self.happen(&Event::Offer(node));
                while self.said.iter().any(|said| !said.is_empty()) {
                    self.happen(&Event::Deliver(0));
                    self.happen(&Event::Deliver(1));
                }
            }
        }
    }
}

/// The same by an operator who uses one node only.
fn by_one(event: Event) -> Event {
    match event {
        Event::Order(_, which) => Event::Order(0, which),
        Event::File(_, which) => Event::File(0, which),
        other => other,
    }
}

/// All numbers in a value.
fn numbers(value: Option<&Value>) -> Vec<u64> {
    match value {
        Some(Value::Object(table)) => {
            table.values().flat_map(|value| numbers(Some(value))).collect()
        }
        plain => plain.and_then(Value::as_u64).into_iter().collect(),
    }
}

proptest! {
    #![proptest_config(crate::core::schedules(2000))]

    #[test]
    fn both_come_to_one_version_in_which_no_order_is_lost_silently(
        events in prop::collection::vec(any_event(), 0..60)
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.settle();
        let [one, other] = &world.nodes;
        prop_assert_eq!(one.current.version, other.current.version);
        prop_assert_eq!(&one.current.content, &other.current.content);
        let version = Some(one.current.version);
        prop_assert_eq!((one.agreed(), other.agreed()), (version, version));
        prop_assert!(one.offered.is_empty() && other.offered.is_empty());
        let content = &one.current.content;
        let in_force: Vec<_> = BACKENDS.iter().filter_map(|name| weight(content, name)).collect();
        let shown: Vec<_> = content
            .conflicts
            .iter()
            .flat_map(|conflict| numbers(conflict.dropped.as_ref()))
            .collect();
        for weight in &world.standing {
            prop_assert!(in_force.contains(weight) || shown.contains(weight), "{weight} is lost");
        }
    }

    #[test]
    fn where_one_node_takes_all_orders_there_are_no_conflicts(
        served_by in prop::option::of(0..2_usize),
        events in prop::collection::vec(any_event().prop_map(by_one), 0..60)
    ) {
        let mut world = World::new();
        served_by.into_iter().for_each(|node| world.happen(&Event::Establish(node)));
        // Once they have met.
        world.settle();
        for event in &events {
            world.happen(event);
        }
        world.settle();
        let content = &world.nodes[1].current.content;
        prop_assert_eq!(&content.conflicts, &[]);
        let in_force: Vec<_> = BACKENDS.iter().filter_map(|name| weight(content, name)).collect();
        prop_assert_eq!(in_force.len(), world.standing.len());
        prop_assert!(world.standing.iter().all(|weight| in_force.contains(weight)));
    }
}

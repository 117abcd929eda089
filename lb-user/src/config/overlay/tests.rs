use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    config::{Surroundings, parse},
    core::{edit::Order, weight::AdminState},
};

const FILE: &str = r#"
[firewall]
allow = ["tcp/22", "tcp/80-90"]
deny_sources = ["192.0.2.0/24"]
[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
health = { kind = "http", path = "/healthz" }
[[service.backend]]
name = "web-1"
address = "10.0.0.1"
[[service.backend]]
name = "web-2"
address = "10.0.0.2"
[[service]]
name = "dns"
vip = "203.0.113.10"
port = 53
protocol = "udp"
"#;

fn read(text: &str) -> Model {
    let interfaces = ["eth0".to_owned()];
    let surroundings = Surroundings { host_name: "host", interfaces: &interfaces };
    parse(text, surroundings).expect("no mistake")
}

fn file() -> Model {
    read(FILE)
}

fn keys(value: Value) -> Keys {
    value.as_object().expect("an object").clone()
}

fn set_service(service: &str, value: Value) -> Edit {
    Edit::SetService { service: service.to_owned(), keys: keys(value) }
}

fn set_backend(backend: &str, value: Value) -> Edit {
    Edit::SetBackend { service: "web".to_owned(), backend: backend.to_owned(), keys: keys(value) }
}

fn add_backend(value: Value) -> Edit {
    Edit::AddBackend { service: "web".to_owned(), keys: keys(value) }
}

fn remove_backend(backend: &str) -> Edit {
    Edit::RemoveBackend { service: "web".to_owned(), backend: backend.to_owned() }
}

fn remove_service(service: &str) -> Edit {
    Edit::RemoveService { service: service.to_owned() }
}

fn order(backend: &str, state: AdminState) -> Edit {
    let (service, backend) = ("web".to_owned(), backend.to_owned());
    Edit::Order { service, backend, order: Order { state, deadline: None } }
}

/// The edits one after the other over [`FILE`].
fn after(list: impl IntoIterator<Item = Edit>) -> (Edits, Model) {
    let file = file();
    list.into_iter().fold((Edits::default(), file.clone()), |(edits, model), edit| {
        edited(&edits, &file, &model, edit).expect("a valid edit")
    })
}

fn refused(edit: Edit) -> EditError {
    edited(&Edits::default(), &file(), &file(), edit).expect_err("a refusal")
}

#[test]
fn edits_win_over_the_file_key_by_key() {
    let (edits, model) = after([
        set_backend("web-1", json!({ "weight": 50 })),
        set_service("web", json!({ "health": { "interval": "2s" }, "min_up": 2 })),
        add_backend(json!({ "name": "web-3", "address": "10.0.0.3" })),
        order("web-2", AdminState::Drain),
        allow("udp/53", true).expect("a rule"),
        allow("tcp/22-22", false).expect("a rule"),
        deny("198.51.100.7", true, Some(0)).expect("a prefix"),
        deny("192.0.2.0/24", false, None).expect("a prefix"),
    ]);
    assert_eq!(edits.apply(&file()).as_ref(), Ok(&model));
    assert_eq!(edits.len(), 9);
    assert_eq!(
        edits.describe(&file()),
        [
            "service `web`: min_up is 2, the file says 1",
            "service `web`: health.interval is \"2s\", the file says \"1s\"",
            "service `web`: backend `web-1`: weight is 50, the file says 100",
            "service `web`: backend `web-3`: added, the file does not have it",
            "service `web`: backend `web-2`: ordered to drain",
            "firewall: `tcp/22` is no longer allowed",
            "firewall: `udp/53` is allowed",
            "firewall: `192.0.2.0/24` is no longer denied",
            "firewall: `198.51.100.7/32` is denied until 1970-01-01T00:00:00Z",
        ]
    );
    // What the file says of other keys later goes on to count.
    let later = read(&FILE.replace("\"/healthz\"", "\"/later\", rise = 5"));
    let service = &edits.apply(&later).expect("no mistake").services[0];
    assert_eq!((service.health.rise, service.min_up), (5, 2));
}

#[test]
fn what_was_removed_stays_away_and_comes_back_in_its_place() {
    let (edits, model) = after([remove_backend("web-1"), remove_service("dns")]);
    assert_eq!(model.services.len(), 1);
    assert_eq!(
        edits.describe(&file()),
        [
            "service `dns`: removed, the file has it",
            "service `web`: backend `web-1`: removed, the file has it",
        ]
    );
    let web = keys(json!({ "name": "web", "vip": "203.0.113.10", "port": 8080 }));
    let (edits, model) = after([remove_service("web"), Edit::AddService { keys: web }]);
    assert_eq!(model.services[0].name, "web");
    assert!(model.services[0].backends.is_empty());
    assert_eq!(edits.apply(&file()), Ok(model));
}

#[test]
fn edits_that_cannot_be_are_refused_with_a_hint() {
    let web = || keys(json!({ "name": "web" }));
    let cases = [
        (remove_service("wbe"), "no service `wbe`", Some("did you mean `web`?")),
        (
            remove_backend("web-9"),
            "service `web` has no backend `web-9`",
            Some("did you mean `web-1`?"),
        ),
        (remove_service("shop"), "no service `shop`", Some("`lb service list` shows all")),
        (
            remove_backend("other"),
            "service `web` has no backend `other`",
            Some("`lb backend list web` shows all"),
        ),
        (
            Edit::AddService { keys: web() },
            "service `web` exists already",
            Some("`lb service set web` changes its keys"),
        ),
        (
            add_backend(json!({ "name": "web-1" })),
            "service `web` has a backend `web-1` already",
            Some("`lb backend set web web-1` changes its keys"),
        ),
        (
            allow("tcp/85", false).expect("a rule"),
            "`tcp/85` is not allowed",
            Some("`tcp/80-90` has it among others"),
        ),
        (
            deny("192.0.2.7", false, None).expect("a prefix"),
            "`192.0.2.7/32` is not denied",
            Some("`192.0.2.0/24` has it among others"),
        ),
        (
            deny("198.51.100.7", false, None).expect("a prefix"),
            "`198.51.100.7/32` is not denied",
            Some("`lb firewall list` shows all"),
        ),
        (
            set_backend("web-1", json!({ "weight": -1 })),
            "service.web.backend.web-1.weight: -1: must be 0 to 65535",
            None,
        ),
        (
            set_service("web", json!({ "name": "x" })),
            "service.web.name: must not be set\n  hint: remove it, and add it by its other name",
            None,
        ),
        (
            set_service("web", json!({ "backend": [] })),
            "service.web.backend: must not be set here\
             \n  hint: edit its backends one by one, with `lb backend`",
            None,
        ),
        (
            add_backend(json!({ "address": "10.0.0.9" })),
            "service.web.backend.name: must be 1 to 64 of the characters a-z A-Z 0-9 . _ -",
            None,
        ),
        (
            set_service("dns", json!({ "protocol": "tcp", "port": 80 })),
            "service.dns.port: must not be taken by another service of this VIP and protocol\
             \n  hint: see `service.web.port`",
            None,
        ),
    ];
    for (edit, error, hint) in cases {
        let refusal = refused(edit);
        assert_eq!((refusal.to_string().as_str(), refusal.hint().as_deref()), (error, hint));
    }
    let error = deny("10.0.0.1/8", true, None).expect_err("host bits").to_string();
    assert!(error.starts_with("firewall.deny_sources: \"10.0.0.1/8\": must have no bits"));
    let error = allow("icmp", true).expect_err("no port").to_string();
    assert!(error.starts_with("firewall.allow: \"icmp\": must be a protocol and a port"));
}

/// The file of a node of a pair.
fn paired() -> String {
    format!(
        "[node]\nhash_seed = \"{}\"\n[ha]\npair = \"edge\"\nlisten = [\"10.9.0.2:4790\"]\n\
         peer = [\"10.9.0.3:4790\"]\nconfig = \"independent\"\n[[ha.group]]\nname = \"blue\"\n\
         addresses = [{{ address = \"10.9.1.1/32\", interface = \"eth0\" }}]\n{FILE}",
        "0".repeat(32)
    )
}

#[test]
fn edits_that_would_keep_a_pair_apart_are_refused() {
    let file = read(&paired());
    let cases = [
        (
            deny("10.9.0.0/24", true, Some(60)).expect("a prefix"),
            "firewall.deny_sources: \"10.9.0.0/24\": must not contain a node of the pair or its \
             witness: they would not hear each other\n  hint: `ha.peer[0]` is at `10.9.0.3`",
        ),
        (
            add_backend(json!({ "name": "web-9", "address": "10.9.1.1" })),
            "service.web.backend.web-9.address: must not be an address of a group: a node has it\
             \n  hint: `ha.group.blue.addresses` is this address",
        ),
    ];
    for (edit, expected) in cases {
        let none = Edits::default();
        let error = edited(&none, &file, &file, edit).expect_err("refused");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_peer_that_was_denied_before_it_was_one_is_refused() {
    let (edits, _) = after([deny("10.9.0.3", true, None).expect("a prefix")]);
    let mistakes = edits.apply(&read(&paired())).expect_err("a mistake");
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].to_string().starts_with("firewall.deny_sources: \"10.9.0.3/32\": must not")
    );
}

#[test]
fn rules_that_were_added_and_removed_leave_nothing() {
    let (edits, model) = after([
        allow("udp/53", true).expect("a rule"),
        allow("udp/53", false).expect("a rule"),
        allow("tcp/22", false).expect("a rule"),
        allow("tcp/22", true).expect("a rule"),
        deny("10.0.0.0/8", true, Some(1)).expect("a prefix"),
        deny("10.0.0.0/8", false, None).expect("a prefix"),
    ]);
    assert_eq!((edits, model), (Edits::default(), file()));
}

#[test]
fn redundant_edits_are_dropped() {
    let (mut edits, _) = after([
        set_backend("web-1", json!({ "weight": 50, "zone": "a" })),
        add_backend(json!({ "name": "web-3", "address": "10.0.0.3" })),
        set_service("dns", json!({ "affinity_timeout": "60s" })),
        order("web-2", AdminState::Maint),
        allow("udp/53", true).expect("a rule"),
        deny("192.0.2.0/24", true, Some(1)).expect("a prefix"),
    ]);
    let text = FILE
        .replace("\"tcp/22\"", "\"udp/53\"")
        .replace("\"10.0.0.1\"", "\"10.0.0.1\"\nweight = 50")
        .replace("port = 53", "port = 53\naffinity_timeout = \"1m\"")
        .replace(
            "\"10.0.0.2\"\n",
            "\"10.0.0.2\"\n[[service.backend]]\nname = \"web-3\"\naddress = \"10.0.0.3\"\n",
        );
    let file = read(&text);
    edits.prune(&file);
    assert_eq!(
        edits.describe(&file),
        [
            "service `web`: backend `web-1`: zone is \"a\", the file does not set it",
            "service `web`: backend `web-2`: ordered to maint",
        ]
    );
    assert_eq!(edits.len(), 2);
    // A file that has lost the service takes along what was set, and says so;
    // an order is for whatever comes back.
    let without = read("");
    assert_eq!(
        edits.prune(&without),
        ["service `web`: the file does not have it any more, what was set of it is forgotten"]
    );
    assert_eq!(
        edits.describe(&without),
        [
            "service `web`: the file does not have it: its edits are without effect",
            "service `web`: backend `web-2`: ordered to maint, once there is one",
        ]
    );
    assert_eq!(edits.admin("web", "web-2"), Some((AdminState::Maint, None)));
}

#[test]
fn a_backend_that_left_the_file_keeps_its_order_and_nothing_else() {
    let (mut edits, _) = after([
        set_backend("web-1", json!({ "weight": 50 })),
        order("web-1", AdminState::Maint),
        order("web-2", AdminState::Drain),
    ]);
    let file = read(&FILE.replace("\"web-1\"", "\"web-3\""));
    assert_eq!(
        edits.prune(&file),
        ["service `web`: backend `web-1`: the file does not have it any more, what was set of \
             it is forgotten"]
    );
    assert_eq!(
        edits.describe(&file),
        [
            "service `web`: backend `web-1`: ordered to maint, once there is one",
            "service `web`: backend `web-2`: ordered to drain",
        ]
    );
    assert_eq!(edits.prune(&file), [""; 0]);
}

#[test]
fn a_timed_denial_gives_way_to_what_was_ordered_before() {
    let denied = |edits: &Edits, file: &Model| {
        let model = edits.apply(file).expect("no mistake");
        model.firewall.deny_sources.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let file = file();
    let (mut edits, _) = after([
        deny("192.0.2.0/24", false, None).expect("a prefix"),
        deny("192.0.2.0/24", true, Some(5)).expect("a prefix"),
    ]);
    edits.prune(&file);
    assert_eq!(denied(&edits, &file), ["192.0.2.0/24"]);
    assert_eq!(edits.next_expiry(), Some(5));
    let mut without = edits.clone();
    assert!(!edits.expire(4) && edits.expire(5) && !edits.expire(6));
    assert_eq!(denied(&edits, &file), [""; 0]);
    assert_eq!(edits.describe(&file), ["firewall: `192.0.2.0/24` is no longer denied"]);
    // A file that no longer denies it does not shorten the time.
    let other = read(&FILE.replace("\"192.0.2.0/24\"", ""));
    without.prune(&other);
    assert_eq!(denied(&without, &other), ["192.0.2.0/24"]);
    assert!(without.expire(5));
    assert_eq!(without, Edits::default());
}

#[test]
fn no_time_is_too_far_to_be_told() {
    let (edits, _) = after([deny("198.51.100.0/24", true, Some(u64::MAX)).expect("a prefix")]);
    assert_eq!(
        edits.describe(&file()),
        ["firewall: `198.51.100.0/24` is denied until 9999-12-31T23:59:59Z"]
    );
}

#[test]
fn service_that_was_added_is_redundant_once_the_file_has_it() {
    let added = keys(json!({
        "name": "ssh", "vip": "203.0.113.10", "port": 22,
        "backend": [
            { "name": "b", "address": "10.0.0.8" }, { "name": "a", "address": "10.0.0.9" },
        ],
    }));
    let (mut edits, model) = after([Edit::AddService { keys: added }]);
    assert_eq!(model.services[2].name, "ssh");
    let ssh = "[[service]]\nname = \"ssh\"\nvip = \"203.0.113.10\"\nport = 22\n\
               [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.8\"\n\
               [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.9\"\n";
    let other = read(&(FILE.to_owned() + &ssh.replace("port = 22", "port = 22\nmin_up = 2")));
    edits.prune(&other);
    assert_eq!(edits.describe(&other), ["service `ssh`: min_up is 1, the file says 2"]);
    edits.prune(&read(&(FILE.to_owned() + ssh)));
    assert!(edits.is_empty());
}

#[test]
fn file_that_the_edits_do_not_fit_is_refused_whole() {
    let (edits, _) = after([set_backend("web-1", json!({ "port": 8080 }))]);
    let dsr = read(&FILE.replace("port = 80\n", "port = 80\nmode = \"dsr\"\n"));
    let mistakes = edits.apply(&dsr).expect_err("a mistake");
    assert_eq!(
        mistakes[0].to_string(),
        "service.web.backend.web-1.port: 8080: must be left out in mode \"dsr\"\
         \n  hint: the packet's port is not rewritten"
    );
    assert_eq!(edits.describe(&dsr), ["service `web`: its edits do not fit the file"]);
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let service = prop::sample::select(vec!["web", "dns", "new", "zoo"]);
    let backend = prop::sample::select(vec!["web-1", "web-2", "x", "a"]);
    let number = 1..9_u8;
    (0..8, service, backend, number).prop_map(|(command, service, backend, number)| {
        let (service, backend) = (service.to_owned(), backend.to_owned());
        let member = keys(json!({ "name": backend, "address": format!("10.0.1.{number}") }));
        match command {
            0 => Edit::AddService {
                keys: keys(json!({
                    "name": service, "vip": "203.0.113.9", "port": number, "backend": [member],
                })),
            },
            1 => Edit::SetService {
                service,
                keys: keys(json!({ "slow_start": format!("{number}s") })),
            },
            2 => Edit::RemoveService { service },
            3 => Edit::AddBackend { service, keys: member },
            4 => Edit::SetBackend { service, backend, keys: keys(json!({ "weight": number })) },
            5 => Edit::RemoveBackend { service, backend },
            6 => allow(&format!("tcp/{}", 20 + number), number % 2 == 0).expect("a rule"),
            _ => deny(&format!("192.0.{number}.0/24"), number % 2 == 0, None).expect("a prefix"),
        }
    })
}

proptest! {
    #[test]
    fn one_edit_after_the_other_makes_what_all_make_at_once(
        list in prop::collection::vec(any_edit(), 0..24),
    ) {
        let file = file();
        let (mut edits, mut model) = (Edits::default(), file.clone());
        for edit in list {
            if let Ok(next) = edited(&edits, &file, &model, edit) {
                (edits, model) = next;
            }
            prop_assert_eq!(edits.apply(&file), Ok(model.clone()));
        }
        let mut pruned = edits.clone();
        pruned.prune(&file);
        prop_assert_eq!(pruned.apply(&file), Ok(model));
        prop_assert!(pruned.len() <= edits.len());
    }
}

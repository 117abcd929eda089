use super::*;
use crate::core::model::{
    Mode, Protocol,
    sample::{backend, model, service},
};

fn keys(value: Value) -> Keys {
    value.as_object().expect("an object").clone()
}

/// A file with service `web` and its backend `10.0.0.1`.
fn file() -> Model {
    let mut web = service("203.0.113.10", (80, 80), Protocol::Tcp, Mode::Nat);
    web.name = "web".to_owned();
    web.backends = vec![backend([10, 0, 0, 1].into(), None, 100)];
    model(vec![web])
}

#[test]
fn what_was_added_and_removed_leaves_nothing() {
    let mut edits = Edits::default();
    edits.record(Edit::AddService { keys: keys(json!({ "name": "dns" })) }, &file());
    let (service, backend) = ("dns".to_owned(), "b".to_owned());
    let added = Edit::AddBackend { service: service.clone(), keys: keys(json!({ "name": "b" })) };
    edits.record(added, &file());
    assert_eq!(edits.len(), 1);
    edits.record(Edit::RemoveBackend { service: service.clone(), backend }, &file());
    edits.record(Edit::RemoveService { service }, &file());
    assert_eq!(edits, Edits::default());

    edits.record(Edit::RemoveService { service: "web".to_owned() }, &file());
    assert_eq!(edits.services["web"].whole, Whole::Removed);
}

#[test]
fn orders_are_kept_until_ready() {
    let order = |state, deadline| Edit::Order {
        service: "web".to_owned(),
        backend: "10.0.0.1".to_owned(),
        order: Order { state, deadline },
    };
    let mut edits = Edits::default();
    edits.record(order(AdminState::Drain, Some(7)), &file());
    assert_eq!(edits.admin("web", "10.0.0.1"), Some((AdminState::Drain, Some(7))));
    edits.record(order(AdminState::Ready, None), &file());
    assert_eq!(edits.admin("web", "10.0.0.1"), None);
    assert!(edits.is_empty());
}

#[test]
fn timed_denials_expire_at_their_second() {
    let deny = |prefix: &str, until| Edit::Deny {
        prefix: prefix.parse().expect("a prefix"),
        deny: true,
        until,
    };
    let mut edits = Edits::default();
    edits.record(deny("192.0.2.0/24", Some(100)), &file());
    edits.record(deny("198.51.100.0/24", None), &file());
    assert_eq!(edits.next_expiry(), Some(100));
    assert!(!edits.expire(99));
    assert!(edits.expire(100));
    assert!(!edits.expire(u64::MAX));
    assert_eq!(edits.len(), 1);
}

#[test]
fn health_is_set_key_by_key_unless_its_kind_is() {
    let merged = |mut old: Value, new: Value| {
        merge(old.as_object_mut().expect("an object"), keys(new));
        old
    };
    assert_eq!(
        merged(
            json!({ "health": { "kind": "tcp", "rise": 1 } }),
            json!({ "health": { "rise": 2 } })
        ),
        json!({ "health": { "kind": "tcp", "rise": 2 } })
    );
    assert_eq!(
        merged(json!({ "health": { "path": "/" } }), json!({ "health": { "kind": "tcp" } })),
        json!({ "health": { "kind": "tcp" } })
    );
    assert_eq!(
        merged(merged(json!({}), json!({ "health": null })), json!({ "health": { "rise": 2 } })),
        json!({ "health": { "kind": null, "rise": 2 } })
    );
    assert_eq!(
        merged(json!({ "split": { "blue": 1 } }), json!({ "split": { "green": 2 } })),
        json!({ "split": { "green": 2 } })
    );
}

#[test]
fn edits_are_json_that_reads_as_it_was() {
    let mut edits = Edits::default();
    let order = Order { state: AdminState::Maint, deadline: None };
    let (service, backend) = ("web".to_owned(), "10.0.0.1".to_owned());
    edits.record(Edit::Order { service: service.clone(), backend, order }, &file());
    edits.record(Edit::SetService { service, keys: keys(json!({ "min_up": null })) }, &file());
    edits.record(Edit::Allow { rule: "tcp/443".to_owned(), allow: true }, &file());
    let prefix = "2001:db8::/32".parse().expect("a prefix");
    edits.record(Edit::Deny { prefix, deny: true, until: Some(1) }, &file());
    let json = serde_json::to_value(&edits).expect("JSON");
    assert_eq!(
        json,
        json!({
            "services": { "web": {
                "whole": "kept",
                "keys": { "min_up": null },
                "backends": { "10.0.0.1": { "whole": "kept", "order": { "state": "maint" } } },
            } },
            "firewall": {
                "allow": { "tcp/443": true },
                "deny": { "2001:db8::/32": { "deny": true, "until": 1 } },
            },
        })
    );
    assert_eq!(serde_json::from_value::<Edits>(json).expect("edits"), edits);
}

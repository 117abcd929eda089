//! Commands that change something.

use serde_json::{Value, json};

use super::peer::Peer;

const DONE: &str = r#"{"generation":12,"notes":["saved"]}"#;

/// Words, what the agent is asked, with which body, and what is said.
fn changes() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        (
            "service add web --vip 203.0.113.10 --port 443 --policy latency health.kind=tcp",
            "POST /v1/services",
            json!({"name": "web", "vip": "203.0.113.10", "port": 443, "policy": "latency",
                   "health": {"kind": "tcp"}}),
            "web: added",
        ),
        (
            "service add dns --vip 2001:db8::1 --port any --protocol udp --mode dsr",
            "POST /v1/services",
            json!({"name": "dns", "vip": "2001:db8::1", "port": "any", "protocol": "udp",
                   "mode": "dsr"}),
            "dns: added",
        ),
        (
            "service set web --affinity client --affinity-timeout 1h --min-up 2 --slow-start 5s \
             --on-empty reject split.blue=95",
            "PATCH /v1/services/web",
            json!({"affinity": "client", "affinity_timeout": "1h", "slow_start": "5s",
                   "min_up": 2, "on_empty": "reject", "split": {"blue": 95}}),
            "web: affinity client, affinity_timeout 1h, slow_start 5s, min_up 2, on_empty reject, \
             split.blue 95",
        ),
        ("service remove a/b%", "DELETE /v1/services/a%2Fb%25", Value::Null, "a/b%: removed"),
        (
            "backend add web web-1 10.0.0.11:8443 --weight 50 --zone az-1 --group blue --backup \
             --server-ids ed79,0a0b",
            "POST /v1/services/web/backends",
            json!({"name": "web-1", "address": "10.0.0.11", "port": 8443, "weight": 50,
                   "zone": "az-1", "group": "blue", "server_ids": ["ed79", "0a0b"],
                   "backup": true}),
            "web/web-1: added",
        ),
        (
            "backend add web web-2 2001:db8::2",
            "POST /v1/services/web/backends",
            json!({"name": "web-2", "address": "2001:db8::2"}),
            "web/web-2: added",
        ),
        (
            "backend set web web-1 --weight 50",
            "PATCH /v1/services/web/backends/web-1",
            json!({"weight": 50}),
            "web/web-1: weight 50",
        ),
        (
            "backend set web web-1 --backup=false",
            "PATCH /v1/services/web/backends/web-1",
            json!({"backup": false}),
            "web/web-1: backup false",
        ),
        (
            "backend ready web web-1",
            "PUT /v1/services/web/backends/web-1/admin",
            json!({"state": "ready"}),
            "web/web-1: ready",
        ),
        (
            "backend drain web web-1 --deadline 10m",
            "PUT /v1/services/web/backends/web-1/admin",
            json!({"state": "drain", "deadline_s": 600}),
            "web/web-1: drain, its flows end in 10m",
        ),
        (
            "backend maint web web-1",
            "PUT /v1/services/web/backends/web-1/admin",
            json!({"state": "maint"}),
            "web/web-1: maint",
        ),
        (
            "backend remove web web-1",
            "DELETE /v1/services/web/backends/web-1",
            Value::Null,
            "web/web-1: removed",
        ),
        (
            "firewall allow tcp/443",
            "PUT /v1/firewall/allow",
            json!({"rule": "tcp/443", "allow": true}),
            "tcp/443: allowed",
        ),
        (
            "firewall disallow tcp/443",
            "PUT /v1/firewall/allow",
            json!({"rule": "tcp/443", "allow": false}),
            "tcp/443: not allowed any more",
        ),
        (
            "firewall deny 192.0.2.0/24 --for 10m",
            "PUT /v1/firewall/deny",
            json!({"prefix": "192.0.2.0/24", "deny": true, "for_s": 600}),
            "192.0.2.0/24: denied for 10m",
        ),
        (
            "firewall undeny 192.0.2.1",
            "PUT /v1/firewall/deny",
            json!({"prefix": "192.0.2.1/32", "deny": false}),
            "192.0.2.1/32: not denied any more",
        ),
        (
            "reload --discard-edits",
            "POST /v1/reload",
            json!({"file": null, "confirm_s": null, "discard_edits": true}),
            "the agent's file: in force",
        ),
        (
            "reload --confirm 30s",
            "POST /v1/reload",
            json!({"file": null, "confirm_s": 30, "discard_edits": false}),
            "the agent's file: in force, taken back in 30s unless `lb reload --confirmed`",
        ),
        ("reload --confirmed", "POST /v1/reload/confirm", Value::Null, "reload: confirmed"),
    ]
}

#[test]
fn a_change_says_what_is_in_force_and_tells_the_notes() {
    let peer = Peer::new(&[(200, DONE)]);
    for (words, asked, body, said) in changes() {
        let words: Vec<_> = words.split_whitespace().collect();
        let outcome = peer.lb(&words);
        assert_eq!(outcome.out, format!("{said} (generation 12)\n"), "{words:?}");
        assert_eq!((outcome.status, outcome.err.as_str()), (0, "note: saved\n"), "{words:?}");
        assert_eq!(peer.asked(), [(asked.to_owned(), body)], "{words:?}");
    }
}

#[test]
fn a_change_in_json_is_the_agents_answer() {
    let peer = Peer::new(&[(200, DONE)]);
    for (words, ..) in changes() {
        let words: Vec<_> = words.split_whitespace().chain(["--json"]).collect();
        let outcome = peer.lb(&words);
        assert_eq!((outcome.status, outcome.out), (0, format!("{DONE}\n")), "{words:?}");
        assert_eq!(outcome.err, "", "{words:?}");
    }
}

#[test]
fn a_refused_change_shows_mistakes_error_and_hint() {
    let refusal =
        r#"{"error":"2 mistakes","hint":"see `lb check`","mistakes":["vip: a","port: b"]}"#;
    for status in [400, 409, 422, 500] {
        let peer = Peer::new(&[(status, refusal)]);
        for (words, ..) in changes().into_iter().filter(|(words, ..)| !words.contains("reload")) {
            let words: Vec<_> = words.split_whitespace().collect();
            let outcome = peer.lb(&words);
            assert_eq!((outcome.status, outcome.out.as_str()), (1, ""), "{words:?}");
            assert_eq!(outcome.err, "vip: a\nport: b\nerror: 2 mistakes\nhint: see `lb check`\n");
        }
    }
}

#[test]
fn a_key_that_is_set_twice_is_wrong_usage() {
    let peer = Peer::new(&[(200, DONE)]);
    let outcome = peer.lb(&["service", "set", "web", "--policy", "latency", "policy=static"]);
    assert_eq!(outcome.status, 2);
    assert_eq!(outcome.err, "error: `policy` is given twice, expected one value\n");
    assert_eq!(peer.asked(), []);
}

#[test]
fn setting_nothing_is_wrong_usage() {
    let peer = Peer::new(&[(200, DONE)]);
    for words in [&["service", "set", "web"][..], &["backend", "set", "web", "web-1"]] {
        let outcome = peer.lb(words);
        assert_eq!(outcome.status, 2);
        assert!(outcome.err.starts_with("error: nothing to set\nhint: "), "{}", outcome.err);
    }
    assert_eq!(peer.asked(), []);
}

#[test]
fn flushing_says_how_many_flows() {
    let peer = Peer::new(&[(200, r#"{"flows":3}"#)]);
    let outcome = peer.lb(&["flow", "flush", "--service", "web", "--client", "2001:db8::7"]);
    assert_eq!((outcome.status, outcome.out.as_str()), (0, "3 flows flushed\n"));
    let target = "DELETE /v1/flows?service=web&client=2001%3Adb8%3A%3A7".to_owned();
    assert_eq!(peer.asked(), [(target, Value::Null)]);
    assert_eq!(peer.lb(&["flow", "flush", "--all"]).status, 0);
    assert_eq!(peer.asked(), [("DELETE /v1/flows".to_owned(), Value::Null)]);
    for wrong in [&["flow", "flush"][..], &["flow", "flush", "--all", "--backend", "b"]] {
        assert_eq!(peer.lb(wrong).status, 2);
    }
    assert_eq!(peer.asked(), []);
}

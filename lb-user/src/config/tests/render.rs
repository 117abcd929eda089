//! From the model to keys and back.

use proptest::prelude::*;
use serde_json::json;

use super::{backend, example::EXAMPLE, model, shown};
use crate::{
    api::Table,
    config::{render, service_from, shared},
    core::{
        model::{Firewall, Model, NewFlows, Service},
        replica::Base,
    },
};

fn keys(value: serde_json::Value) -> Table {
    value.as_object().expect("an object").clone()
}

/// One key of a service, of its health or of its backend, in TOML.
fn key() -> impl Strategy<Value = (usize, String)> {
    let service = prop_oneof![
        prop::sample::select(vec!["static", "latency", "least-flows"])
            .prop_map(|policy| format!("policy = \"{policy}\"")),
        Just("affinity = \"client\"".to_owned()),
        (0..3600_u32).prop_map(|seconds| format!("slow_start = \"{seconds}s\"")),
        (1..32768_u32).prop_map(|seconds| format!("affinity_timeout = \"{seconds}s\"")),
        Just("allow_sources = [\"198.51.100.0/24\", \"10.0.0.1\"]".to_owned()),
        (0..=134_217_728_u32).prop_map(|most| format!("max_flows = {most}")),
        (0..=100_000_000_u32).prop_map(|rate| format!("syn_cookies_above = {rate}")),
        Just("syn_cookies_above = \"off\"".to_owned()),
        Just("on_empty = \"reject\"".to_owned()),
        Just("on_down = \"reset\"".to_owned()),
    ];
    let backend = prop_oneof![
        any::<u16>().prop_map(|weight| format!("weight = {weight}")),
        (1..65535_u16).prop_map(|port| format!("port = {port}")),
        "[a-z]{1,8}".prop_map(|zone| format!("zone = \"{zone}\"")),
        any::<bool>().prop_map(|backup| format!("backup = {backup}")),
    ];
    let probe = prop_oneof![
        Just("kind = \"tcp\"\nport = 81".to_owned()),
        Just("kind = \"https\"\nverify = false\nca_file = \"/ca\"".to_owned()),
        "[!-~&&[^\"\\\\]]{0,9}"
            .prop_map(|path| format!("kind = \"http\"\npath = \"/{path}\"\nhost = \"h\"")),
        "\\PC{0,9}".prop_map(|send| format!("kind = \"udp\"\nexpect = \"\"\nsend = {send:?}")),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("kind = \"udp\"\nsend = \"hex:{digits}\"")
        }),
        Just("kind = \"dns\"\nname = \"a.example.\"\nrecord = \"TXT\"".to_owned()),
        "[ -~&&[^\"\\\\]]{0,9}"
            .prop_map(|word| format!("kind = \"exec\"\ncommand = [\"/x\", \"{word}\"]")),
        (10..90_000_u32).prop_map(|ms| format!("interval = \"{ms}ms\"\nrise = 7")),
    ];
    prop_oneof![
        service.prop_map(|line| (0, line)),
        backend.prop_map(|line| (1, line)),
        probe.prop_map(|line| (2, line)),
    ]
}

/// A service with these keys; of several values of a key the last one counts.
fn service_of(keys: &[(usize, String)]) -> Option<Service> {
    let mut tables = [String::new(), String::new(), String::new()];
    for (table, lines) in keys {
        let key = lines.split(' ').next().unwrap_or_default();
        if *table == 2 {
            tables[2].clone_from(lines);
        } else if !tables[*table].contains(&format!("{key} = ")) {
            tables[*table] += &format!("{lines}\n");
        }
    }
    let [service, backend, health] = tables;
    let text = super::service(&service)
        + "[service.health]\n"
        + &health
        + "\n[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n"
        + &backend;
    Some(super::parse(&text, super::ALONE).ok()?.services.remove(0))
}

proptest! {
    #[test]
    fn what_is_rendered_reads_as_it_was(keys in prop::collection::vec(key(), 0..8)) {
        // Some text is no TOML as Rust quotes it.
        prop_assume!(service_of(&keys).is_some());
        let service = service_of(&keys).expect("checked above");
        let read = service_from(&render::service(&service));
        prop_assert_eq!(read.map_err(|mistakes| shown(&mistakes)), Ok(service));
    }
}

#[test]
fn groups_ports_and_ranges_read_as_they_were() {
    let several = backend("group = \"blue\"").replace("port = 80", "port = \"any\"")
        + "[service.split]\nblue = 5\n[[service.route]]\nfrom = [\"::/0\"]\ngroup = \"blue\"\n";
    let several =
        several.replace("203.0.113.10", "2001:db8::10").replace("10.0.0.1", "2001:db8::1");
    let service = &model(&several).services[0];
    let table = render::service(service);
    assert_eq!(table["port"], json!("any"));
    assert_eq!(table["route"], json!([{ "from": ["::/0"], "group": "blue" }]));
    assert_eq!(service_from(&table).as_ref(), Ok(service));
}

#[test]
fn server_ids_and_their_configurations_read_as_they_were() {
    let text = backend("server_ids = [\"ED793A51\", \"0a\"]")
        + "[[service.quic]]\nid = 0\nserver_id_length = 4\nnonce_length = 5\n\
           [[service.quic]]\nid = 6\nserver_id_length = 1\nnonce_length = 18\n\
           key_file = \"/quic.key\"\n";
    let service = &model(&text.replace("port = 80", "port = 80\nprotocol = \"udp\"")).services[0];
    let table = render::service(service);
    let keyed = json!({
        "id": 6, "server_id_length": 1, "nonce_length": 18, "key_file": "/quic.key",
    });
    assert_eq!(table["quic"][1], keyed);
    assert_eq!(table["backend"][0]["server_ids"], json!(["ed793a51", "0a"]));
    assert_eq!(service_from(&table).as_ref(), Ok(service));
}

#[test]
fn what_a_pair_shares_reads_as_it_was_on_the_other_node() {
    let text = EXAMPLE.replace("#new_flows_per_source", "new_flows_per_source")
        + "
[[service]]
name = \"other\"
vip = \"2001:db8::10\"
protocol = \"udp\"
port = \"8000-8100\"
mode = \"dsr\"
[[service.backend]]
name = \"b1\"
address = \"2001:db8::1\"
";
    let ours = model(&text);
    assert_eq!(ours.firewall.new_flows_per_source, Some(NewFlows { rate: 500, burst: 1000 }));
    let node = crate::core::model::Node { name: "other".to_owned(), ..ours.node.clone() };
    let empty = Firewall { guard_host: true, ..Firewall::default() };
    let other = Model { node, firewall: empty, services: Vec::new(), ..ours.clone() };
    let base = shared::base(&ours);
    let theirs = shared::with_base(&other, &base).expect("a configuration");
    assert_eq!((&theirs.services, &theirs.firewall), (&ours.services, &ours.firewall));
    assert_eq!((&theirs.node, shared::base(&theirs).digest()), (&other.node, base.digest()));
    // What is wrong is told.
    let mut service = base.services()[0].clone();
    service.insert("vip".to_owned(), json!("none"));
    let wrong = Base::new(vec![service], base.firewall().clone());
    let mistakes = shared::with_base(&other, &wrong).expect_err("no address");
    assert!(shown(&mistakes).contains(".vip: "), "{mistakes:?}");
    for (key, value) in [
        ("host", json!("dorp")),
        ("allow", json!("tcp/22")),
        ("other", json!(1)),
        ("new_flows_per_source", json!(1)),
        ("new_flows_per_source", json!({ "rate": 1 })),
        ("new_flows_per_source", json!({ "rate": 1, "burst": 1 })),
        ("new_flows_per_source", json!({ "rate": 1, "burst": 2, "more": 3 })),
        ("new_flows_per_source", json!({ "rate": 1000, "burst": 9 })),
    ] {
        let mut firewall = base.firewall().clone();
        firewall.insert(key.to_owned(), value);
        let wrong = Base::new(base.services().to_vec(), firewall);
        let mistakes = shared::with_base(&other, &wrong).expect_err("not understood");
        assert!(shown(&mistakes).contains(&format!("firewall.{key}: ")), "{mistakes:?}");
    }
}

#[test]
fn keys_are_those_of_the_file_with_their_defaults() {
    let table = render::service(&model(&backend("")).services[0]);
    assert_eq!(
        serde_json::Value::Object(table),
        json!({
            "name": "web",
            "vip": "203.0.113.10",
            "protocol": "tcp",
            "port": 80,
            "mode": "nat",
            "policy": "static",
            "affinity": "flow",
            "affinity_timeout": "600s",
            "slow_start": "0s",
            "allow_sources": [],
            "max_flows": 0,
            "syn_cookies_above": "off",
            "min_up": 1,
            "on_empty": "drop",
            "on_down": "release",
            "health": {
                "kind": "none", "interval": "1s", "timeout": "500ms", "rise": 2, "fall": 3,
            },
            "backend": [{ "name": "b", "address": "10.0.0.1", "weight": 100, "backup": false }],
        })
    );
}

#[test]
fn mistakes_in_keys_are_told_by_names() {
    let table = keys(json!({
        "name": "web",
        "vip": "203.0.113.10",
        "port": "443\u{7f}\"",
        "wieght": 1,
        "health": 1,
        "policy": null,
        "backend": [
            { "name": "web-1", "address": "10.0.0.1", "weight": 70_000 },
            { "name": "web-1", "address": "10.0.0.2" },
            { "address": null },
            [null],
        ],
    }));
    assert_eq!(
        shown(&service_from(&table).expect_err("mistakes")),
        r#"service.web.backend.web-1.name: "web-1": must be unique in its service
  hint: `service.web.backend.web-1.name` is the same
service.web.backend.web-1.weight: 70000: must be 0 to 65535
service.web.backend[2].address: missing, must be set
  hint: the address of the server
service.web.backend[2].name: missing, must be set
  hint: any name unique in its service, such as "web-1"
service.web.backend[3]: must be an array of tables
  hint: a list of objects
service.web.health: 1: must be a table
  hint: an object
service.web.port: "443\u007f\"": must be a port 1 to 65535, a range or "any"
  hint: such as 443, "8000-8100" or "any"
service.web.wieght: unknown key
  hint: known here: name, vip
"#
        .replace(
            "known here: name, vip",
            "known here: name, vip, protocol, port, mode, policy, affinity, affinity_timeout, \
             slow_start, allow_sources, max_flows, syn_cookies_above, min_up, on_empty, \
             on_down, health, split, route, quic, backend"
        )
    );
    let nobody = service_from(&Table::new()).expect_err("mistakes");
    assert_eq!(nobody[0].to_string().lines().next(), Some("service.name: missing, must be set"));
}

//! What the whole of this module promises, on texts.

mod example;
mod ha;
mod health;
mod keys;
mod mutation;
mod relations;
mod render;
mod together;

use super::{Mistake, Surroundings, load, parse};
use crate::core::model::Model;

const ALONE: Surroundings<'_> = Surroundings { host_name: "host", interfaces: &[] };

fn model(text: &str) -> Model {
    parse(text, ALONE).unwrap_or_else(|mistakes| panic!("{}\nin\n{text}", shown(&mistakes)))
}

fn mistakes(text: &str) -> String {
    shown(&parse(text, ALONE).expect_err("a mistake"))
}

fn shown(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("{mistake}\n")).collect()
}

/// A file with these additional lines in `[node]`.
fn node(lines: &str) -> String {
    format!("[node]\ninterfaces = [\"eth0\"]\n{lines}\n")
}

/// A file with one service with these additional lines.
fn service(lines: &str) -> String {
    node("") + &format!("[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n{lines}\n")
}

/// A file with one service and one backend with these additional lines.
fn backend(lines: &str) -> String {
    service("") + &format!("[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n{lines}\n")
}

#[test]
fn every_mistake_is_reported_in_one_go_in_the_files_order() {
    let text = r#"nodes = 1
[node]
interfaces = "eth0"
flows = 1

[firewall]
allow = ["icmp/8"]

[[service]]
name = "web"
vip = "224.0.0.1"
port = 443
port = 80
mode = "nat46"
[[service.backend]]
name = "web-1"
address = "2001:db8::1"
wieght = 1
[[service]]
name = "web"
vip = "224.0.0.1"
port = "400-300"
"#;
    assert_eq!(
        mistakes(text),
        r#"1: nodes: unknown key
  hint: did you mean `node`?
3: node.interfaces: "eth0": must be a list
  hint: as in `interfaces = ["eth0"]`
4: node.flows: 1: must be 64 to 33554432
7: firewall.allow[0]: "icmp/8": must be a protocol and a port or range of ports
  hint: such as "tcp/22", "udp/8000-8100" or "tcp/any"
11: service[0].vip: "224.0.0.1": must be a unicast address that is routed
  hint: this is a multicast address
13: column 1: port: duplicate key, must be there once
14: service[0].mode: "nat46": must be "nat", "fullnat", "dsr", "ipip" or "gue"
  hint: did you mean "nat"?
17: service[0].backend[0].address: "2001:db8::1": must be an IPv4 address, as the VIP is
18: service[0].backend[0].wieght: unknown key
  hint: did you mean `weight`?
20: service[1].name: "web": must be unique among services
  hint: `service[0].name` in line 10 is the same
21: service[1].vip: "224.0.0.1": must be a unicast address that is routed
  hint: this is a multicast address
22: service[1].port: "400-300": must have the lower port first
  hint: the range is 300-400
"#
    );
}

#[test]
fn file_is_named_in_front_of_each_mistake() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let file = path.display().to_string();
    let unreadable = load(&path, &[]).expect_err("no file");
    assert!(unreadable.to_string().starts_with(&format!("{file}: cannot be read: ")));

    std::fs::write(&path, node("zone = 1\nflows = 0")).expect("a file");
    assert_eq!(
        load(&path, &[]).expect_err("two mistakes").to_string(),
        format!(
            "{file}:3: node.zone: 1: must be text
  hint: put it in double quotes
{file}:4: node.flows: 0: must be 64 to 33554432"
        )
    );

    std::fs::write(&path, node("")).expect("a file");
    assert_eq!(load(&path, &[]).expect("no mistake").model.node.interfaces, ["eth0"]);
}

#[test]
fn text_that_is_no_toml_is_reported_with_its_column_and_nothing_else() {
    assert_eq!(
        mistakes("[node]\nflows = \nbogus = 1\n"),
        "2: column 9: string values must be quoted, expected literal string\n"
    );
    assert_eq!(
        mistakes("a = \"é\" b"),
        "1: column 9: unexpected key or value, expected newline, `#`\n"
    );
}

#[test]
fn missing_keys_are_reported_at_the_head_of_their_table() {
    assert_eq!(
        mistakes("\n[[service]]\n[[service.backend]]\n"),
        "1: node.interfaces: must name at least one interface
  hint: such as `interfaces = [\"eth0\"]`, or `--interface eth0`
2: service[0].name: missing, must be set
  hint: any unique name, such as \"web\"
2: service[0].port: missing, must be set
  hint: such as 443, \"8000-8100\" or \"any\"
2: service[0].vip: missing, must be set
  hint: the address clients connect to
3: service[0].backend[0].address: missing, must be set
  hint: the address of the server
3: service[0].backend[0].name: missing, must be set
  hint: any name unique in its service, such as \"web-1\"
"
    );
}

#[test]
fn tables_of_the_wrong_kind_say_how_to_write_them() {
    let cases = [
        ("node = 1", "1: node: 1: must be a table\n  hint: write `[node]` on a line of its own\n"),
        (
            "[service]\n",
            "1: service: must be an array of tables\n  hint: write `[[service]]` above each\n",
        ),
        (
            "[[service]]\n[service.backend]\n",
            "2: service[0].backend: must be an array of tables\
             \n  hint: write `[[service.backend]]` above each\n",
        ),
        (
            "service = [1]",
            "1: service[0]: 1: must be an array of tables\
             \n  hint: write `[[service]]` above each\n",
        ),
    ];
    for (text, expected) in cases {
        let mistakes = mistakes(text);
        assert!(mistakes.contains(expected), "{mistakes}");
    }
}

#[test]
fn unknown_keys_name_the_likely_one_or_all() {
    let cases = [
        (
            node("interface = \"eth0\""),
            "3: node.interface: unknown key\n  hint: did you mean `interfaces`?\n",
        ),
        (
            "[node]\ninterfaces = [\"eth0\"]\n[firewall]\n\"a b\" = 1\n".to_owned(),
            "4: firewall.\"a b\": unknown key\
             \n  hint: known here: host, allow, deny_sources, new_flows_per_source\n",
        ),
        (
            service("prot = \"tcp\""),
            "8: service[0].prot: unknown key\n  hint: did you mean `protocol`?\n",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(&text), expected);
    }
}

#[test]
fn single_values_are_held_to_their_rules() {
    let cases = [
        (
            node("name = \"a b\""),
            "name: \"a b\": must be 1 to 64 of the characters a-z A-Z 0-9 . _ -",
        ),
        (
            node("xdp_mode = \"offload\""),
            "xdp_mode: \"offload\": must be \"auto\", \"native\" or \"generic\"",
        ),
        (
            node("flows = \"1000\""),
            "flows: \"1000\": must be 64 to 33554432\n  hint: a whole number, without quotes",
        ),
        (node("flows = -1"), "flows: -1: must be 64 to 33554432"),
        (node("hash_seed = \"00\""), "hash_seed: \"00\": must be 32 hexadecimal digits"),
        (node("pin_dir = \"lb\""), "pin_dir: \"lb\": must be an absolute path"),
        (
            node("pin_dir = \"/sys/fs/bpf/../lb\""),
            "pin_dir: \"/sys/fs/bpf/../lb\": must be a path without dots",
        ),
        (service("protocol = \"sctp\""), "protocol: \"sctp\": must be \"tcp\" or \"udp\""),
        (
            service("affinity_timeout = 600"),
            "affinity_timeout: 600: must be a time with its unit\
             \n  hint: for seconds write \"600s\"",
        ),
        (
            service("affinity_timeout = \"0s\""),
            "affinity_timeout: \"0s\": must be whole seconds, 1s to 32767s (9h 6m)",
        ),
        (
            service("affinity_timeout = \"1500ms\""),
            "affinity_timeout: \"1500ms\": must be whole seconds, 1s to 32767s (9h 6m)",
        ),
        (
            service("affinity_timeout = \"10h\""),
            "affinity_timeout: \"10h\": must be whole seconds, 1s to 32767s (9h 6m)",
        ),
        (node("state_dir = \"lb\""), "state_dir: \"lb\": must be an absolute path"),
        (node("[admin]\nsocket = \"lb.sock\""), "\"lb.sock\": must be an absolute path"),
        (node("[admin]\nhttp = \":9464\""), "\":9464\": must be an address and a port"),
        (node("[admin]\nhttp = \"127.0.0.1:0\""), "\"127.0.0.1:0\": must be an address and a port"),
        (
            service("slow_start = \"1500ms\""),
            "slow_start: \"1500ms\": must be whole seconds, 0s to 1h",
        ),
        (service("slow_start = \"61m\""), "slow_start: \"61m\": must be whole seconds, 0s to 1h"),
        (service("on_down = \"drop\""), "on_down: \"drop\": must be \"release\" or \"reset\""),
        (service("min_up = 0"), "min_up: 0: must be 1 to 16383"),
        (service("max_flows = -1"), "max_flows: -1: must be 0 to 134217728"),
        (service("split = { blue = 101 }"), "split.blue: 101: must be 0 to 100"),
        (service("split = { \"a b\" = 1 }"), "split.\"a b\": 1: must be 1 to 64 of the"),
        (backend("weight = 65536"), "weight: 65536: must be 0 to 65535"),
        (backend("weight = 1.5"), "weight: 1.5: must be 0 to 65535\n  hint: a whole number"),
        (backend("port = 0"), "port: 0: must be 1 to 65535"),
        (backend("backup = \"no\""), "backup: \"no\": must be true or false"),
    ];
    for (text, expected) in cases {
        let mistakes = mistakes(&text);
        assert!(
            mistakes.contains(expected) && mistakes.matches(": must ").count() == 1,
            "{mistakes}"
        );
    }
}

#[test]
fn interfaces_of_the_command_line_stand_for_those_of_the_file() {
    let named = ["eth1".to_owned(), "eth1".to_owned(), "eth2".to_owned()];
    let surroundings = Surroundings { host_name: "host", interfaces: &named };
    for text in ["", "[node]\ninterfaces = [\"eth0\"]\n"] {
        let model = parse(text, surroundings).expect("no mistake");
        assert_eq!(model.node.interfaces, ["eth1", "eth2"]);
        assert_eq!(model.node.name, "host");
    }
}

#[test]
fn seed_is_read_from_the_left() {
    let model = model(&node("hash_seed = \"0123456789abcdefFEDCBA9876543210\""));
    assert_eq!(model.node.hash_seed, Some([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]));
}

#[test]
fn short_affinity_timeouts_shorten_the_others() {
    let timeouts = |lines: &str| {
        let timeouts = model(&service(lines)).services[0].timeouts;
        (timeouts.embryonic, timeouts.established, timeouts.closing)
    };
    assert_eq!(timeouts(""), (60, 600, 30));
    assert_eq!(timeouts("affinity_timeout = \"45s\""), (45, 45, 30));
    assert_eq!(timeouts("affinity_timeout = \"9h\""), (60, 32_400, 30));
}

//! `[ha]`.

use std::{path::Path, time::Duration};

use super::{mistakes, model};
use crate::core::model::ha::{ADDRESSES, Fence, GROUPS, Group, GroupAddress, Ha};

/// What every pair has to say, but for its groups.
const PAIR: &str = "[ha]
pair = \"edge\"
listen = [\"10.0.0.2:4790\"]
peer = [\"10.0.0.3:4790\"]
config = \"independent\"
";

const GROUP: &str = "[[ha.group]]
name = \"blue\"
addresses = [{ address = \"203.0.113.10/32\", interface = \"eth0\" }]
";

fn node() -> String {
    super::node("hash_seed = \"000102030405060708090a0b0c0d0e0f\"")
}

/// A file with this pair; its `[ha]` is in line 5.
fn pair(ha: &str, groups: &str) -> String {
    node() + "\n" + ha + groups
}

/// A file with a pair whose value of a key is another.
fn with(key: &str, value: &str) -> String {
    let text = pair(PAIR, GROUP);
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
    match line {
        Some(line) => text.replace(line, &format!("{key} = {value}")),
        None => text.replace("[ha]", &format!("[ha]\n{key} = {value}")),
    }
}

/// A file whose only group has these addresses.
fn moving(addresses: &str) -> String {
    let group = GROUP.replace("{ address = \"203.0.113.10/32\", interface = \"eth0\" }", addresses);
    pair(PAIR, &group)
}

fn refused(text: &str, expected: &str) {
    let mistakes = mistakes(text);
    assert!(mistakes.contains(expected), "{expected}\nis not in\n{mistakes}");
    let heads = mistakes.lines().filter(|line| !line.starts_with("  hint"));
    assert_eq!(heads.count(), 1, "{mistakes}");
}

#[test]
fn a_file_without_the_table_is_of_a_single_balancer() {
    assert_eq!(model(&super::node("")).ha, None);
}

#[test]
fn keys_of_a_pair_are_read() {
    let ha = "[ha]
pair = \"edge\"
listen = [\"10.0.0.2:4790\", \"[2001:db8::2]:4791\"]
peer = [\"10.0.0.3:4792\", \"[2001:db8::3]:4793\"]
key_file = \"/etc/other.key\"
priority = 150
heartbeat = \"25ms\"
preempt = true
witness = \"[2001:db8::9]:4791\"
fence = { command = [\"/usr/local/sbin/fence\", \"lb-b\"] }
config = \"independent\"
";
    let groups = "[[ha.group]]
name = \"blue\"
prefer = \"lb-a\"
addresses = [
  { address = \"203.0.113.10/32\", interface = \"eth0\" },
  { address = \"10.0.1.1\", interface = \"eth1\" },
]
[[ha.group]]
name = \"green\"
addresses = [{ address = \"2001:db8::10/128\", interface = \"eth0\" }]
";
    let moving = |address: &str, interface: &str| GroupAddress {
        address: address.parse().expect("an address"),
        interface: interface.to_owned(),
    };
    let path = |listen: &str, peer: &str| crate::core::model::ha::Path {
        listen: listen.parse().expect("an address"),
        peer: peer.parse().expect("an address"),
    };
    let expected = Ha {
        pair: "edge".to_owned(),
        paths: vec![
            path("10.0.0.2:4790", "10.0.0.3:4792"),
            path("[2001:db8::2]:4791", "[2001:db8::3]:4793"),
        ],
        key_file: "/etc/other.key".into(),
        priority: 150,
        heartbeat: Duration::from_millis(25),
        preempt: true,
        replicate: false,
        witness: Some("[2001:db8::9]:4791".parse().expect("an address")),
        fence: Some(Fence {
            command: ["/usr/local/sbin/fence", "lb-b"].map(Into::into).into(),
            timeout: Duration::from_secs(5),
        }),
        groups: vec![
            Group {
                name: "blue".to_owned(),
                prefer: Some("lb-a".to_owned()),
                addresses: vec![moving("203.0.113.10", "eth0"), moving("10.0.1.1", "eth1")],
            },
            Group {
                name: "green".to_owned(),
                prefer: None,
                addresses: vec![moving("2001:db8::10", "eth0")],
            },
        ],
    };
    assert_eq!(model(&pair(ha, groups)).ha, Some(expected));
}

#[test]
fn keys_of_a_pair_have_defaults() {
    let ha = PAIR.replace("config = \"independent\"\n", "");
    let ha = model(&pair(&ha, GROUP)).ha.expect("a pair");
    assert_eq!(ha.key_file, Path::new("/etc/lb/pair.key"));
    assert_eq!((ha.priority, ha.heartbeat), (100, Duration::from_millis(50)));
    assert_eq!((ha.preempt, ha.replicate), (false, true));
    assert_eq!((ha.witness, ha.fence), (None, None));
}

#[test]
fn every_mistake_of_a_pair_is_told_at_once() {
    let text = "[node]
interfaces = [\"eth0\"]
[ha]
pair = \"a b\"
peer = [\"10.0.0.3\", \"0.0.0.0:4790\", \"10.0.0.3:4790\"]
listen = [\"10.0.0.2:4790\", \"10.0.0.2:4790\", \"[2001:db8::2]:4790\"]
priority = 255
heartbeat = \"5ms\"
witnes = \"10.0.0.1\"
[[ha.group]]
addresses = [
  { address = \"203.0.113\" },
  { address = \"10.0.0.2/32\", interface = \"eth0\" },
]
[[ha.group]]
name = \"blue\"
prefer = 1
addresses = []
";
    assert_eq!(
        mistakes(text),
        "1: node.hash_seed: missing, must be set where `[ha]` is
  hint: make one with `openssl rand -hex 16`: both nodes need the same
4: ha.pair: \"a b\": must be 1 to 64 of the characters a-z A-Z 0-9 . _ -
5: ha.peer[0]: \"10.0.0.3\": must be an address and a port
  hint: such as \"10.0.0.2:4790\" or \"[2001:db8::2]:4790\"
5: ha.peer[1]: \"0.0.0.0:4790\": must be a unicast address that is routed
  hint: this is the unspecified address
5: ha.peer[2]: \"10.0.0.3:4790\": must be an IPv6 address, as `ha.listen[2]` in line 6 is
6: ha.listen[0]: \"10.0.0.2:4790\": must not be an address of a group: it moves
  hint: `ha.group[0].addresses[1].address` in line 13 is this address
6: ha.listen[1]: \"10.0.0.2:4790\": must be listed once
  hint: `ha.listen[0]` in line 6 is the same
6: ha.listen[1]: \"10.0.0.2:4790\": must not be an address of a group: it moves
  hint: `ha.group[0].addresses[1].address` in line 13 is this address
7: ha.priority: 255: must be 1 to 254
8: ha.heartbeat: \"5ms\": must be 25ms to 1s
  hint: leases are measured in ticks of the kernel, which may take 10ms each
9: ha.witnes: unknown key
  hint: did you mean `witness`?
10: ha.group[0].name: missing, must be set
  hint: any unique name, such as \"blue\"
12: ha.group[0].addresses[0].address: \"203.0.113\": must be an address
  hint: such as \"203.0.113.10/32\" or \"2001:db8::10/128\"
12: ha.group[0].addresses[0].interface: missing, must be set
  hint: the interface that has it
15: ha.group[1].addresses: missing, must be set
  hint: such as `addresses = [{ address = \"203.0.113.10/32\", interface = \"eth0\" }]`
17: ha.group[1].prefer: 1: must be text
  hint: put it in double quotes
"
    );
}

#[test]
fn a_table_that_says_nothing_is_told_what_a_pair_needs() {
    let mistakes = mistakes(&(node() + "[ha]\n"));
    for key in ["group", "listen", "pair", "peer"] {
        assert!(mistakes.contains(&format!("4: ha.{key}: ")), "{key} is not in\n{mistakes}");
    }
    assert_eq!(mistakes.matches(": m").count(), 4, "{mistakes}");
}

#[test]
fn a_witness_is_an_address_and_a_port() {
    refused(
        &with("witness", "\"10.0.0.1\""),
        "ha.witness: \"10.0.0.1\": must be an address and a port\n  hint: that an address answers",
    );
}

#[test]
fn a_fence_is_a_program_with_a_limit() {
    refused(&with("fence", "{}"), "ha.fence.command: missing, must be set\n  hint: such as");
    for wrong in ["\"/sbin/fence\"", "[\"/sbin/fence\"]"] {
        let expected = format!(
            "ha.fence: {wrong}: must be a table\
             \n  hint: as in `fence = {{ command = [\"/usr/local/sbin/fence\", \"lb-b\"] }}`"
        );
        refused(&with("fence", wrong), &expected);
    }
    refused(
        &with("fence", "{ command = [\"fence\"] }"),
        "must be a list: the absolute path of a program, then its arguments",
    );
    refused(
        &with("fence", "{ command = [\"/sbin/fence\"], timeout = \"1h\" }"),
        "ha.fence.timeout: \"1h\": must be 100ms to 10m",
    );
}

#[test]
fn a_heartbeat_without_a_unit_is_told_of_one_that_fits() {
    refused(
        &with("heartbeat", "50"),
        "ha.heartbeat: 50: must be a time with its unit\
         \n  hint: for milliseconds write \"50ms\"",
    );
}

#[test]
fn a_witness_is_a_third_host() {
    let ha = model(&with("witness", "\"10.0.0.9:4791\"")).ha.expect("a pair");
    assert_eq!(ha.witness, "10.0.0.9:4791".parse().ok());
    refused(
        &with("witness", "\"10.0.0.3:4791\""),
        "must be an address of a third host\n  hint: `ha.peer[0]` in line ",
    );
    refused(&with("witness", "\"127.0.0.1:4791\""), "hint: this is a loopback address");
    refused(&with("witness", "\"203.0.113.10:4791\""), "must not be an address of a group");
}

#[test]
fn paths_are_pairs_of_addresses() {
    let two = "[\"10.0.0.3:4790\", \"10.0.1.3:4790\"]";
    refused(
        &with("peer", two),
        "ha.peer: [\"10.0.0.3:4790\", \"10.0.1.3:4790\"]: must be as many addresses as in \
         `ha.listen`, 1\n  hint: one for each, in the same order: the two make a path",
    );
    refused(
        &with("listen", "[]"),
        "ha.listen: []: must name at least one address\n  hint: such as `listen = [",
    );
    refused(
        &with("peer", "[\"[2001:db8::3]:4790\"]"),
        "must be an IPv4 address, as `ha.listen[0]` in line 7 is",
    );
    refused(
        &with("peer", "[\"10.0.0.2:4790\"]"),
        "ha.peer[0]: \"10.0.0.2:4790\": must be listed once\n  hint: `ha.listen[0]` in line 7",
    );
    refused(
        &with("peer", "[\"10.0.0.2:4791\"]"),
        "ha.peer[0]: \"10.0.0.2:4791\": must not be an address of this node\
         \n  hint: `ha.listen[0]` in line 7 is the same at another port",
    );
    let many = |node: u8| {
        let address = |path: u8| format!("\"10.0.{path}.{node}:4790\"");
        (1..=5).map(address).collect::<Vec<_>>().join(", ")
    };
    let text = with("peer", &format!("[{}]", many(3)))
        .replace("[\"10.0.0.2:4790\"]", &format!("[{}]", many(2)));
    let mistakes = mistakes(&text);
    for list in ["listen", "peer"] {
        assert!(mistakes.contains(&format!(": ha.{list}: [\"10")), "{mistakes}");
    }
    assert_eq!(mistakes.matches("must be 4 addresses at most").count(), 2, "{mistakes}");
}

#[test]
fn heartbeats_go_between_addresses_that_stay() {
    let wrong = [
        ("\"10.0.0.3\"", "must be an address and a port"),
        ("\"10.0.0.3:0\"", "must be an address and a port"),
        ("\"lb-b:4790\"", "must be an address and a port"),
        ("\"[fe80::3%2]:4790\"", "must be an address and a port"),
        ("4790", "must be text"),
        (
            "\"[::ffff:10.0.0.3]:4790\"",
            "must not be IPv4 written as IPv6\n  hint: write \"10.0.0.3:4790\"",
        ),
        ("\"127.0.0.1:4790\"", "hint: this is a loopback address"),
        ("\"224.0.0.18:4790\"", "hint: this is a multicast address"),
        (
            "\"203.0.113.10:4790\"",
            "must not be an address of a group: it moves\
             \n  hint: `ha.group[0].addresses[0].address` in line 12 is this address",
        ),
        ("\"203.0.113.20:4790\"", "must not be a VIP\n  hint: `service[0].vip` in line 15 is"),
    ];
    let service = "[[service]]\nname = \"web\"\nvip = \"203.0.113.20\"\nport = 80\n";
    for (peer, expected) in wrong {
        refused(&(with("peer", &format!("[{peer}]")) + service), expected);
    }
}

#[test]
fn addresses_of_groups_are_of_hosts_and_move_with_one_group() {
    let address = |address: &str| format!("{{ address = \"{address}\", interface = \"eth0\" }}");
    for good in ["10.0.1.1", "10.0.1.1/32", "2001:db8::1", "2001:db8::1/128"] {
        model(&moving(&address(good)));
    }
    for (wrong, expected) in [
        ("10.0.1.1/24", "must be an address without its network\n  hint: write \"10.0.1.1/32\": "),
        ("2001:db8::1/64", "hint: write \"2001:db8::1/128\": the network stays"),
        ("10.0.1.1/33", "must be an address\n  hint: such as \"203.0.113.10/32\""),
        ("::ffff:10.0.1.1/128", "must not be IPv4 written as IPv6"),
        ("127.0.0.1/32", "hint: this is a loopback address"),
    ] {
        refused(&moving(&address(wrong)), expected);
    }
    refused(
        &moving(&address("10.0.1.1").replace("eth0", "eth/0")),
        "ha.group[0].addresses[0].interface: \"eth/0\": must be the name of an interface",
    );
    refused(
        &moving("\"203.0.113.10/32\""),
        "ha.group[0].addresses[0]: \"203.0.113.10/32\": must be an array of tables",
    );
    let other = GROUP.replace("blue", "green").replace("/32", "");
    refused(
        &pair(PAIR, &(GROUP.to_owned() + &other)),
        "ha.group[1].addresses[0].address: \"203.0.113.10\": must be listed once in all groups\
         \n  hint: `ha.group[0].addresses[0].address` in line 12 is the same",
    );
}

#[test]
fn addresses_of_all_groups_are_limited() {
    let addresses = |count: usize| {
        let address = |number: usize| {
            format!(
                "{{ address = \"10.9.{}.{}\", interface = \"eth0\" }}",
                number / 100,
                number % 100
            )
        };
        (0..count).map(address).collect::<Vec<_>>().join(", ")
    };
    let has = |count| model(&moving(&addresses(count))).ha.map(|ha| ha.groups[0].addresses.len());
    assert_eq!(has(ADDRESSES), Some(ADDRESSES));
    refused(
        &moving(&addresses(ADDRESSES + 1)),
        "ha.group[0].addresses[256].address: \"10.9.2.56\": must be 256 addresses at most in all \
         groups\n  hint: a node that takes over announces each",
    );
}

#[test]
fn groups_are_some_and_have_names_of_their_own() {
    refused(
        &pair(PAIR, ""),
        "ha.group: missing, must be set\n  hint: `[[ha.group]]`, with the addresses that move",
    );
    refused(&pair(PAIR, "[ha.group]\n"), "10: ha.group: must be an array of tables");
    let groups = |count: usize| {
        let mut text = String::new();
        for index in 0..count {
            let group = GROUP.replace("113.10", &format!("113.{index}"));
            text += &group.replace("blue", &format!("group-{index}"));
        }
        pair(PAIR, &text)
    };
    assert_eq!(model(&groups(GROUPS)).ha.map(|ha| ha.groups.len()), Some(GROUPS));
    refused(&groups(GROUPS + 1), "ha.group[16]: must be 16 groups at most");
    refused(
        &groups(2).replace("group-1", "group-0"),
        "ha.group[1].name: \"group-0\": must be unique among groups\
         \n  hint: `ha.group[0].name` in line 11 is the same",
    );
}

#[test]
fn nothing_keeps_the_nodes_of_a_pair_apart() {
    let firewall = "[firewall]\ndeny_sources = [\"192.0.2.0/24\", \"10.0.0.0/24\"]\n";
    refused(
        &(pair(PAIR, GROUP) + firewall),
        "14: firewall.deny_sources[1]: \"10.0.0.0/24\": must not contain a node of the pair \
         or its witness: they would not hear each other\n  hint: `ha.peer[0]` in line 8 is at `10.0.0.3`",
    );
    // What this node's own address is to it, it is to the peer.
    let own = pair(PAIR, GROUP) + &firewall.replace("10.0.0.0/24", "10.0.0.2");
    assert!(mistakes(&own).contains("hint: `ha.listen[0]` in line 7 is at `10.0.0.2`"));
    let witnessed = format!("{PAIR}witness = \"192.0.2.9:4790\"\n");
    assert!(mistakes(&(pair(&witnessed, GROUP) + firewall)).contains("is at `192.0.2.9`"));
}

#[test]
fn what_moves_is_no_backends() {
    let with = |backend: &str, moving: &str| {
        pair(PAIR, &GROUP.replace("203.0.113.10/32", moving))
            + &format!(
                "[[service]]\nname = \"web\"\nvip = \"203.0.113.20\"\nport = 80\n\
                 [[service.backend]]\nname = \"b\"\naddress = \"{backend}\"\n"
            )
    };
    refused(
        &with("10.0.1.1", "10.0.1.1/32"),
        "service[0].backend[0].address: \"10.0.1.1\": must not be an address of a group: a node \
         has it\n  hint: `ha.group[0].addresses[0].address` in line 12 is this address",
    );
    refused(&with("203.0.113.20", "203.0.113.20/32"), "must not be a VIP");
}

#[test]
fn groups_that_prefer_neither_node_are_found() {
    let prefers =
        |node: &str| GROUP.replace("addresses", &format!("prefer = \"{node}\"\naddresses"));
    let other = prefers("lb-x").replace("blue", "green").replace("113.10", "113.11");
    let third = GROUP.replace("blue", "red").replace("113.10", "113.12");
    let ha = model(&pair(PAIR, &(prefers("lb-a") + &other + &third))).ha.expect("a pair");
    let found: Vec<_> = ha.preferring_others(["lb-a", "lb-b"]).collect();
    assert_eq!(found, [("green", "lb-x")]);
}

#[test]
fn both_nodes_choose_backends_alike() {
    let text = pair(PAIR, GROUP);
    let seedless = text.replace("hash_seed", "#hash_seed");
    refused(&seedless, "1: node.hash_seed: missing, must be set where `[ha]` is\n  hint: make one");
    refused(
        &text.replace("000102", "00"),
        "3: node.hash_seed: \"00030405060708090a0b0c0d0e0f\": must be 32 hexadecimal digits",
    );
}

#[test]
fn sources_of_packets_to_backends_move_with_the_vip() {
    let text = |mode, vip, moves: &str| {
        let node = node().replace("hash_seed", "nat_sources = [\"10.0.0.100/31\"]\nhash_seed");
        let service = format!(
            "[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 443\nmode = \"{mode}\"\n"
        );
        let sources: String = moves
            .split_whitespace()
            .map(|address| format!(", {{ address = \"{address}\", interface = \"eth0\" }}"))
            .collect();
        let group = GROUP.replacen(" }]", &format!(" }}{sources}]"), 1);
        node + "\n" + PAIR + &group + &service
    };
    const VIP: &str = "203.0.113.10";
    const OTHER: &str = "203.0.113.99";
    let both = "10.0.0.100 10.0.0.101";
    for (mode, vip, moves) in
        [("nat", VIP, ""), ("fullnat", VIP, both), ("fullnat", OTHER, ""), ("nat", OTHER, both)]
    {
        assert_eq!(model(&text(mode, vip, moves)).services.len(), 1);
    }
    for (moves, missing) in [("", "10.0.0.100"), ("10.0.0.100", "10.0.0.101")] {
        let expected = format!(
            "vip: \"{VIP}\": needs `{missing}` of `node.nat_sources` in its group\n  hint: the \
             backends' answers come there: add it to the group's `addresses`"
        );
        refused(&text("fullnat", VIP, moves), &expected);
    }
    let expected = "must be an address of the group that `10.0.0.101` is in\n  hint: packets to";
    refused(&text("fullnat", OTHER, "10.0.0.101"), expected);
}

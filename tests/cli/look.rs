//! Commands that look: their tables, and the fields of their JSON.

use std::collections::BTreeSet;

use lb_tests::harness::{CLIENT_V4, Flows, Lab, NAT_V4, Result, curl, source_addresses, spread};
use serde_json::Value;

use super::{URL, WEB, rows, web};

/// Programs rely on every one of them.
fn assert_fields(object: &Value, expected: &[&str]) {
    let fields = object.as_object().expect("an object").keys().map(String::as_str);
    let expected = expected.iter().copied();
    assert_eq!(fields.collect::<BTreeSet<_>>(), expected.collect());
}

#[test]
fn services_and_backends_are_listed_as_tables_and_as_json() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let flows = Flows::open(&lab.client, &source_addresses(true), (NAT_V4, 80).into(), 20)?;

    let list = lab.done(&["service", "list"])?.stdout;
    let rows_of = rows(&list);
    let headings = "SERVICE VIP PROTOCOL PORT MODE POLICY AFFINITY UP FLOWS PACKETS BYTES";
    assert_eq!(rows_of[0].join(" "), headings);
    let values = format!("{WEB} 203.0.113.10 tcp 80 nat static flow 2/2 20");
    assert_eq!(rows_of[1][..9].join(" "), values);
    assert_eq!(rows_of.len(), 2);
    let services = lab.json(&["service", "list"])?;
    let service = &services[0];
    assert_fields(
        service,
        &[
            "name",
            "vip",
            "protocol",
            "port",
            "mode",
            "policy",
            "affinity",
            "backends",
            "up",
            "flows",
            "max_flows",
            "full",
            "packets",
            "bytes",
        ],
    );
    assert_eq!(
        (&service["name"], &service["up"], &service["flows"]),
        (&WEB.into(), &2.into(), &20.into())
    );

    let list = lab.done(&["backend", "list", WEB])?.stdout;
    let rows_of = rows(&list);
    let headings = "SERVICE BACKEND ADDRESS WEIGHT EFFECTIVE ADMIN HEALTH FLOWS PACKETS BYTES";
    assert!(rows_of[0].join(" ").starts_with(headings), "{list}");
    for (number, row) in rows_of[1..].iter().enumerate() {
        let name = format!("b{}", number + 1);
        let flows = flows.by_backend().get(&name).copied().unwrap_or(0);
        let values = format!("{WEB} {name} 10.2.0.1{}:80 100 100 ready up {flows}", number + 1);
        assert_eq!(row[..8].join(" "), values);
    }
    assert_eq!(lab.done(&["backend", "list"])?.stdout.lines().count(), 3);
    assert_fields(
        &lab.json(&["backend", "list"])?[1],
        &[
            "service",
            "name",
            "address",
            "port",
            "weight",
            "effective_weight",
            "admin",
            "deadline_s",
            "health",
            "reason",
            "zone",
            "group",
            "backup",
            "flows",
            "packets",
            "bytes",
            "latency_us",
            "handshake_us",
        ],
    );

    let show = lab.done(&["service", "show", WEB])?;
    for words in ["health.kind", "affinity_timeout", "b2", "203.0.113.10"] {
        assert!(show.stdout.contains(words), "{}", show.stdout);
    }
    assert_eq!(show.stderr, "");
    lab.done(&["service", "set", WEB, "--min-up", "2"])?;
    let show = lab.done(&["service", "show", WEB])?;
    assert!(show.stderr.contains("note: edits changed it"), "{}", show.stderr);
    let detail = lab.json(&["service", "show", WEB])?;
    assert_eq!((&detail["edited"], &detail["config"]["min_up"]), (&true.into(), &2.into()));
    assert_eq!(detail["members"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn the_status_is_that_of_the_node() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    lab.done(&["firewall", "deny", "192.0.2.1"])?;
    let status = lab.json(&["status"])?;
    assert_fields(
        &status,
        &[
            "node",
            "version",
            "generation",
            "uptime_s",
            "interfaces",
            "flows",
            "flow_capacity",
            "edits",
            "confirm_s",
            "ha",
        ],
    );
    assert_eq!((&status["node"], &status["edits"]), (&"lab".into(), &1.into()));
    assert_eq!(status["flow_capacity"], 65_536);
    let interfaces = r#"[{"name":"l0","xdp_mode":"native"},{"name":"l1","xdp_mode":"native"}]"#;
    assert_eq!(status["interfaces"].to_string(), interfaces);
    let table = lab.done(&["status"])?.stdout;
    for line in [
        format!("version {}", status["version"].as_str().unwrap()),
        format!("generation {}", status["generation"]),
        "interfaces l0 (native), l1 (native)".to_owned(),
        "flows 0 of 65536 (0.0 %)".to_owned(),
    ] {
        assert!(rows(&table).iter().any(|row| row.join(" ") == line), "{line}: {table}");
    }
    Ok(())
}

#[test]
fn counters_are_what_went_through() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let answers = spread(&lab.client, URL, 30)?;
    let stats = lab.json(&["stats"])?;
    let lists = ["services", "backends", "drops", "passed", "unrecorded", "moved", "reset"];
    let others = ["quic_routed", "quic_unrouted", "syn_cookies_sent", "syn_cookies_confirmed"];
    assert_fields(&stats, &[&lists[..], &others].concat());
    let of = |list: &str, index: usize, field: &str| stats[list][index][field].as_u64().unwrap();
    assert_eq!(of("services", 0, "new_flows"), 30);
    for (index, count) in answers.values().enumerate() {
        assert_eq!(of("backends", index, "new_flows"), *count as u64);
    }
    for field in ["packets", "bytes", "reply_packets", "reply_bytes"] {
        let sum = of("backends", 0, field) + of("backends", 1, field);
        assert_eq!(of("services", 0, field), sum, "{field}");
    }
    let table = lab.done(&["stats"])?.stdout;
    assert!(table.starts_with("SERVICE"), "{table}");
    let of_service = rows(&table)[1].clone();
    assert_eq!((of_service[0], of_service[1], of_service.last()), (WEB, "-", Some(&"30")));
    for word in ["passed", "unrecorded flows"] {
        assert!(table.lines().any(|line| line.starts_with(word)), "{table}");
    }
    Ok(())
}

#[test]
fn flows_are_listed_counted_and_flushed() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let count = |words: &[&str]| -> Result<String> {
        Ok(lab.done(&[&["flow", "count"], words].concat())?.stdout.trim().to_owned())
    };
    let empty = lab.done(&["flow", "list"])?;
    assert_eq!((empty.stdout.as_str(), empty.stderr.as_str()), ("", "no flow\n"));
    assert_eq!(lab.json(&["flow", "list"])?, Value::Array(Vec::new()));

    let sources = source_addresses(true);
    let mut flows = Flows::open(&lab.client, &sources, (NAT_V4, 80).into(), 16)?;
    let source = sources[0].to_string();
    assert_eq!(count(&[])?, "16");
    assert_eq!(count(&["--service", WEB])?, "16");
    assert_eq!(count(&["--client", &source])?, "2");
    assert_eq!(count(&["--client", &CLIENT_V4.to_string()])?, "0");
    let here = flows.by_backend().get("b1").copied().unwrap_or(0);
    assert_eq!(count(&["--backend", "b1"])?, here.to_string());
    assert_eq!(lab.json(&["flow", "count"])?["flows"], 16);

    let list = lab.json(&["flow", "list", "--client", &source])?;
    assert_fields(&list[0], &["service", "client", "client_port", "backend", "state", "idle_s"]);
    assert_eq!(
        (&list[0]["client"], &list[0]["state"]),
        (&source.as_str().into(), &"established".into())
    );
    let table = lab.done(&["flow", "list", "--limit", "3"])?;
    assert_eq!(table.stdout.lines().count(), 4, "{}", table.stdout);
    assert_eq!(rows(&table.stdout)[0], ["SERVICE", "CLIENT", "BACKEND", "STATE", "IDLE"]);
    assert!(table.stderr.contains("there may be more"), "{}", table.stderr);

    let flushed = lab.done(&["flow", "flush", "--client", &source])?.stdout;
    assert_eq!((flushed.as_str(), count(&[])?.as_str()), ("2 flows flushed\n", "14"));
    assert_eq!(lab.done(&["flow", "flush", "--all"])?.stdout, "14 flows flushed\n");
    assert_eq!(count(&[])?, "0");
    // The same table gives each the same backend again.
    assert_eq!(flows.survey(None).kept, 16);
    // Of clients whose flows have hashes for keys, nothing is known.
    lab.done(&[
        "service",
        "add",
        "any",
        "--vip",
        "203.0.113.11",
        "--port",
        "any",
        "--protocol",
        "tcp",
        "--mode",
        "nat",
    ])?;
    for words in [&["--client", "2001:db8::7"][..], &["--client", &source, "--service", "any"]] {
        for order in ["list", "count", "flush"] {
            let says = lab.refused(1, &[&["flow", order], words].concat())?;
            assert!(says.contains("not told apart by client\nhint: ask by"), "{says}");
        }
    }
    for words in [&["--backend", "typo"][..], &["--backend", "b1", "--service", "any"]] {
        let says = lab.refused(1, &[&["flow", "flush"], words].concat())?;
        assert!(
            says.contains("has a backend `typo`") || says.contains("no backend `b1`"),
            "{says}"
        );
    }
    // Nobody forgets all flows by leaving a filter out.
    assert_eq!(lab.ask(&["flow", "flush"])?.status.code(), Some(2));
    Ok(())
}

#[test]
fn a_change_says_which_generation_it_made() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let first = lab.generation()?;
    let says = lab.done(&["backend", "set", WEB, "b1", "--weight", "50"])?.stdout;
    assert_eq!(says, format!("{WEB}/b1: weight 50 (generation {})\n", first + 1));
    let json = lab.json(&["backend", "drain", WEB, "b2", "--deadline", "10m"])?;
    assert_eq!(json["generation"], first + 2);
    let list = lab.done(&["backend", "list", WEB])?.stdout;
    assert!(list.contains("drain (9m 5") || list.contains("drain (10m left)"), "{list}");
    lab.done(&["backend", "remove", WEB, "b2"])?;
    lab.done(&["backend", "add", WEB, "b3", "10.2.0.12:8080", "--weight", "0", "--zone", "z"])?;
    let added = lab.json(&["backend", "list", WEB])?[1].clone();
    assert_eq!(
        (&added["name"], &added["port"], &added["zone"]),
        (&"b3".into(), &8080.into(), &"z".into())
    );
    assert_eq!(curl(&lab.client, URL)?, "b1\n");
    lab.done(&["backend", "set", WEB, "b3", "--weight", "100"])?;
    lab.done(&["backend", "maint", WEB, "b1"])?;
    assert_eq!(curl(&lab.client, URL)?, "b2\n");
    assert_eq!(lab.generation()?, first + 6);
    Ok(())
}

#[test]
fn a_service_is_added_served_and_removed() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let url = "http://203.0.113.11:8080/";
    lab.done(&[
        "service",
        "add",
        "new",
        "--vip",
        "203.0.113.11",
        "--port",
        "8080",
        "--protocol",
        "tcp",
        "--mode",
        "nat",
    ])?;
    assert!(curl(&lab.client, url).is_err());
    lab.done(&["backend", "add", "new", "one", "10.2.0.11"])?;
    assert_eq!(curl(&lab.client, url)?, "b1\n");
    assert_eq!(lab.json(&["service", "list"])?.as_array().map(Vec::len), Some(2));
    lab.done(&["service", "remove", "new"])?;
    assert!(curl(&lab.client, url).is_err());
    assert_eq!(curl(&lab.client, URL)?, "b1\n");
    Ok(())
}

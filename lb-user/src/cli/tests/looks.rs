//! Commands that show something.

use serde_json::{Value, json};

use super::peer::{Outcome, Peer};

const BACKENDS: &str = r#"[
{"service":"web","name":"web-1","address":"10.0.0.11","port":8443,"weight":100,"effective_weight":50,"admin":"ready","deadline_s":null,"health":"up","reason":"HTTP 200","zone":"az-1","group":null,"backup":false,"flows":3,"packets":1200,"bytes":1258291,"latency_us":850,"handshake_us":120},
{"service":"web","name":"web-2","address":"2001:db8::2","port":null,"weight":5,"effective_weight":0,"admin":"drain","deadline_s":90,"health":"down","reason":"refused","zone":null,"group":null,"backup":true,"flows":0,"packets":0,"bytes":0,"latency_us":null,"handshake_us":null}]"#;

const SERVICE: &str = r#""name":"web","vip":"203.0.113.10","protocol":"tcp","port":"443","mode":"nat","policy":"static","affinity":"flow","backends":2,"up":1,"flows":3,"packets":1200,"bytes":1258291"#;

fn stats(packets: u64) -> String {
    let traffic = format!(
        r#""packets":{packets},"bytes":2048,"reply_packets":0,"reply_bytes":0,"new_flows":1"#
    );
    format!(
        r#"{{"services":[{{"service":"web",{traffic}}}],"backends":[{{"service":"web","backend":"web-1",{traffic}}}],"drops":{{"denied":2,"ttl":0}},"passed":7,"unrecorded":0,"reset":3,"moved":4}}"#
    )
}

/// What a command shows, what it tells beside, and what it asked for.
fn shown(answer: &str, words: &str) -> (String, String, Vec<(String, Value)>) {
    let peer = Peer::new(&[(200, answer)]);
    let words: Vec<_> = words.split_whitespace().collect();
    let Outcome { status, out, err } = peer.lb(&words);
    assert_eq!(status, 0, "{err}");
    let asked = peer.asked();
    let json = peer.lb(&[&words[..], &["--json"]].concat());
    let expected = Outcome { status: 0, out: format!("{answer}\n"), err: String::new() };
    assert_eq!(json, expected, "JSON is passed on word for word");
    (out, err, asked)
}

fn asked(target: &str) -> Vec<(String, Value)> {
    vec![(target.to_owned(), Value::Null)]
}

#[test]
fn backends_are_a_table() {
    let (out, err, request) = shown(BACKENDS, "backend list web");
    assert_eq!(
        out,
        "\
SERVICE  BACKEND  ADDRESS         WEIGHT  EFFECTIVE  ADMIN                HEALTH  ZONE  BACKUP  FLOWS  PACKETS    BYTES  LATENCY  HANDSHAKE  REASON
web      web-1    10.0.0.11:8443     100         50  ready                up      az-1  -           3     1200  1.2 MiB   850 us     120 us  HTTP 200
web      web-2    2001:db8::2          5          0  drain (1m 30s left)  down    -     yes         0        0      0 B        -          -  refused
"
    );
    assert_eq!((err.as_str(), request), ("", asked("GET /v1/backends?service=web")));
}

#[test]
fn services_are_a_table() {
    let (out, _, request) = shown(&format!("[{{{SERVICE}}}]"), "service list");
    assert_eq!(
        out,
        "\
SERVICE  VIP           PROTOCOL  PORT  MODE  POLICY  AFFINITY   UP  FLOWS  PACKETS    BYTES
web      203.0.113.10  tcp       443   nat   static  flow      1/2      3     1200  1.2 MiB
"
    );
    assert_eq!(request, asked("GET /v1/services"));
}

#[test]
fn a_service_is_shown_with_its_keys_as_they_can_be_set() {
    let config = r#"{"vip":"203.0.113.10","port":443,"health":{"kind":"http","rise":2},"backend":[{"name":"web-1"}]}"#;
    let answer = format!(r#"{{{SERVICE},"members":{BACKENDS},"config":{config},"edited":true}}"#);
    let (out, err, request) = shown(&answer, "service show web");
    assert!(out.contains("\nweb      web-1    10.0.0.11:8443"), "{out}");
    assert!(
        out.ends_with(
            "
KEY          VALUE
vip          203.0.113.10
port         443
health.kind  http
health.rise  2
"
        ),
        "{out}"
    );
    assert!(err.starts_with("note: edits"), "{err}");
    assert_eq!(request, asked("GET /v1/services/web"));
    let full = answer.replace(
        "\"flows\":3,\"packets\":1200,\"bytes\":1258291,\"members\"",
        "\"flows\":5,\"max_flows\":4,\"full\":true,\"packets\":1200,\"bytes\":1258291,\"members\"",
    );
    let (out, err, _) = shown(&full, "service show web");
    assert!(out.contains("  1/2    5/4     1200"), "{out}");
    assert!(err.starts_with("note: `max_flows` is reached: new flows are refused\n"), "{err}");
}

#[test]
fn status_is_a_table() {
    let answer = json!({
        "node": "lb-a", "version": env!("CARGO_PKG_VERSION"), "generation": 12, "uptime_s": 3700,
        "interfaces": [{"name": "eth0", "xdp_mode": "native"}, {"name": "eth1", "xdp_mode": null}],
        "flows": 250, "flow_capacity": 1000, "edits": 1, "confirm_s": 20,
        "ha": {"role": "active", "peer": "lb-b", "connected": true},
    });
    let (out, err, request) = shown(&answer.to_string(), "status");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        out,
        format!(
            "\
KEY         VALUE
node        lb-a
version     {version}
generation  12
uptime      1h 1m 40s
interfaces  eth0 (native), eth1 (away)
flows       250 of 1000 (25.0 %)
edits       1 edit that the configuration file does not have
reload      taken back in 20s unless confirmed: `lb reload --confirmed`
pair        active, peer lb-b
"
        )
    );
    assert_eq!((err.as_str(), request), ("", asked("GET /v1/status")));
}

/// What `lb ha status` shows of a pair with these fields.
fn pair_shown(fields: &str) -> String {
    let told = r#"{"connected":false,"complete":false,"records":0,"lag_ms":null,"trouble":null}"#;
    let zeros = r#""records":0,"entered":0,"repaired":0,"removed":0,"unknown":0,"no_room":0"#;
    let heard = format!(r#"{{"connected":false,"complete":false,{zeros}}}"#);
    let sync = format!(r#"{{"told":{told},"heard":{heard}}}"#);
    let transition = r#"{"group":"blue","to":"active","cause":"silence","term":7,"ago_ms":61999}"#;
    let changes = format!(r#""transitions":[{transition}],"transition_counts":[]"#);
    let rest = format!(r#""pair":"edge","groups":[],"refused":{{}},"sync":{sync},{changes}"#);
    shown(&format!("{{{rest},{fields}}}"), "ha status").0
}

#[test]
fn a_peer_of_another_version_and_the_key_that_is_spoken_are_shown() {
    let lines = |peer_newest: &str| {
        let key = format!(r#"{{"spoken":"0a","newest":"0b","peer_newest":{peer_newest}}}"#);
        let stranger = r#"{"version":1,"expected":2,"heard_ms":40}"#;
        let out = pair_shown(&format!(r#""paths":[],"stranger":{stranger},"key":{key}"#));
        out.lines().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let other = "peer: speaks version 1 of heartbeats, this node version 2, heard 40 ms ago: end \
                 the agent of the older version and upgrade it";
    assert_eq!(lines("null"), [other, "key 0a is spoken: the peer is not there"]);
    let key = "key 0a is spoken: the newest is 0b, the peer's 0a";
    assert_eq!(lines(r#""0a""#), [other, key]);
    let key = "key 0a is spoken: the newest, the peer's as well";
    assert_eq!(lines(r#""0b""#), [other, key]);
}

#[test]
fn a_peer_is_there_or_gone_or_was_never_heard() {
    let shown_of = |peer: &str, heard: [&str; 2]| {
        let path = |at: &str, heard: &str| format!(r#"{{"peer":"{at}:4790","heard_ms":{heard}}}"#);
        let paths = [path("10.0.0.3", heard[0]), path("10.0.1.3", heard[1])].join(",");
        let key = r#"{"spoken":"0a","newest":"0a","peer_newest":null}"#;
        let out = pair_shown(&format!(r#""peer":{peer},"paths":[{paths}],"key":{key}"#));
        assert!(out.ends_with("1m 1s ago: group blue to active, silence, term 7\n"), "{out}");
        out.lines().nth(1).expect("a line").to_owned()
    };
    let there = r#"{"node":"lb-b","heard_ms":20}"#;
    assert_eq!(shown_of(there, ["20", "45"]), "peer lb-b: heard 20 ms ago");
    assert_eq!(shown_of("null", ["6331", "6402"]), "peer: gone (heard 6331 ms ago)");
    assert_eq!(shown_of("null", ["null", "null"]), "peer: not heard yet");
}

#[test]
fn nobody_knows_what_a_peer_that_is_away_goes_by() {
    let line = |peer: &str, agreed: bool| {
        let key = r#"{"spoken":"0a","newest":"0a","peer_newest":null}"#;
        let config = format!(
            r#"{{"mode":"replicate","version":"3.7","agreed":{agreed},"conflicts":0,"trouble":null}}"#
        );
        let out = pair_shown(&format!(r#""peer":{peer},"paths":[],"key":{key},"config":{config}"#));
        let line = out.lines().find(|line| line.starts_with("configuration: "));
        line.expect("a line").to_owned()
    };
    let there = r#"{"node":"lb-b","heard_ms":20}"#;
    assert_eq!(line(there, true), "configuration: version 3.7, the same at the peer");
    assert_eq!(line(there, false), "configuration: version 3.7, the peer has another one");
    assert_eq!(line("null", false), "configuration: version 3.7, the peer is away");
}

fn conflict(path: &str, kept: Value, dropped: Value) -> Value {
    json!({ "at": 0, "path": path, "kept": kept, "dropped": dropped, "node": "lb-b" })
}

#[test]
fn conflicts_are_told_by_what_differs() {
    let service = |weight: u32, more: Value| {
        let mut service = json!({
            "vip": "203.0.113.10", "port": 443,
            "backend": { "web-1": { "address": "10.0.0.11", "weight": weight } },
        });
        let own = more.as_object().expect("keys").clone();
        service.as_object_mut().expect("keys").extend(own);
        service
    };
    let answer = json!([
        conflict(
            "file.service.web",
            service(5, json!({ "policy": "static" })),
            service(7, json!({ "mode": "dsr" })),
        ),
        conflict("edits.services.api.keys.split", json!({ "blue": 5 }), Value::Null),
    ]);
    let (out, ..) = shown(&answer.to_string(), "ha conflicts");
    let told: Vec<_> = out.lines().filter_map(|line| line.split_once("Z ")).collect();
    assert_eq!(
        told.iter().map(|(_, told)| *told).collect::<Vec<_>>(),
        [
            "file.service.web.backend.web-1.weight: 5 stays, 7 of `lb-b` gave way",
            "file.service.web.policy: \"static\" stays, nothing of `lb-b` gave way",
            "file.service.web.mode: nothing stays, \"dsr\" of `lb-b` gave way",
            "edits.services.api.keys.split: {\"blue\":5} stays, nothing of `lb-b` gave way",
        ]
    );
}

#[test]
fn an_agent_of_another_version_is_noted() {
    let answer = json!({
        "node": "lb-a", "version": "9.9.9", "generation": 1, "uptime_s": 0, "interfaces": [],
        "flows": 0, "flow_capacity": 0, "edits": 0, "confirm_s": null, "ha": null, "new": 1,
    });
    let (out, err, _) = shown(&answer.to_string(), "status");
    assert!(out.contains("pair        none, a single balancer\n"), "{out}");
    assert!(err.starts_with("note: this `lb` is of version "), "{err}");
}

#[test]
fn firewall_is_a_table() {
    let answer = r#"{"host":"drop","allow":["tcp/22"],"deny":[{"prefix":"192.0.2.0/24","left_s":60},{"prefix":"198.51.100.7/32","left_s":null}]}"#;
    let (out, _, request) = shown(answer, "firewall list");
    let expected = "\
RULE   WHAT             LEFT
drop   host             -
allow  tcp/22           -
deny   192.0.2.0/24     1m
deny   198.51.100.7/32  -
";
    assert_eq!(out, expected);
    let limited =
        answer.replace("null}]}", "null}],\"new_flows_per_source\":{\"rate\":5,\"burst\":10}}");
    let (out, _, _) = shown(&limited, "firewall list");
    assert!(out.contains("limit  5 new flows/s of a source, 10 at once  -\n"), "{out}");
    assert_eq!(request, asked("GET /v1/firewall"));
}

#[test]
fn flows_are_a_table() {
    let answer = r#"[{"service":"web","client":"2001:db8::7","client_port":40000,"backend":"web-1","state":"established","idle_s":61},{"service":"web","client":null,"client_port":null,"backend":"web-1","state":"closing","idle_s":0}]"#;
    let (out, err, request) = shown(answer, "flow list --backend web-1 --limit 5");
    assert_eq!(
        out,
        "\
SERVICE  CLIENT               BACKEND  STATE         IDLE
web      [2001:db8::7]:40000  web-1    established  1m 1s
web      -                    web-1    closing         0s
"
    );
    assert_eq!((err.as_str(), request), ("", asked("GET /v1/flows?backend=web-1&limit=5")));
    let (_, err, _) = shown(answer, "flow list --limit 2");
    assert_eq!(err, "note: there may be more, see `--limit`\n");
}

#[test]
fn flows_are_counted() {
    let (out, _, request) = shown(r#"{"flows":12034}"#, "flow count --service web");
    assert_eq!((out.as_str(), request), ("12034\n", asked("GET /v1/flows/count?service=web")));
}

#[test]
fn an_explanation_ends_with_the_verdict() {
    let answer = r#"{"steps":[{"step":"policy","answer":"let in"},{"step":"service","answer":"web"}],"verdict":"drop","reason":"no_backend"}"#;
    let (out, _, request) =
        shown(answer, "explain 198.51.100.7:40000 203.0.113.10:443 --syn --interface eth0");
    assert_eq!(
        out,
        "\
STEP     ANSWER
policy   let in
service  web
verdict  drop (no_backend)
"
    );
    let question = json!({
        "client": "198.51.100.7", "client_port": 40000, "vip": "203.0.113.10", "vip_port": 443,
        "protocol": "tcp", "syn": true, "interface": "eth0",
    });
    assert_eq!(request, [("POST /v1/explain".to_owned(), question)]);
}

#[test]
fn stats_are_counters_by_service_and_backend_and_drops_by_reason() {
    let (out, _, request) = shown(&stats(10), "stats");
    assert_eq!(
        out,
        "\
SERVICE  BACKEND  PACKETS    BYTES  REPLIES  REPLY BYTES  NEW FLOWS
web      -             10  2.0 KiB        0          0 B          1
web      web-1         10  2.0 KiB        0          0 B          1

COUNTER           PACKETS
dropped: denied         2
passed                  7
unrecorded flows        0
reset flows             3
moved flows             4
"
    );
    assert_eq!(request, asked("GET /v1/stats"));
}

#[test]
fn watched_stats_are_rates_until_the_agent_is_gone() {
    let gone = (503, r#"{"error":"stopping"}"#);
    let (first, second) = (stats(10), stats(1_000_010));
    let peer = Peer::new(&[(200, &first), (200, &second), gone]);
    let outcome = peer.lb(&["stats", "--watch", "0.01"]);
    assert_eq!((outcome.status, outcome.err.as_str()), (1, "error: stopping\n"));
    assert!(outcome.out.starts_with("SERVICE  BACKEND  PACKETS/S "), "{}", outcome.out);
    assert_eq!(outcome.out.matches("web-1").count(), 1, "one table of two looks");

    let peer = Peer::new(&[(200, &first), (200, &second), gone]);
    let outcome = peer.lb(&["stats", "--watch", "0.01", "--json"]);
    assert_eq!(outcome.out, format!("{first}\n{second}\n"), "a line each");
}

#[test]
fn empty_lists_are_told_beside() {
    let empty = [
        ("service list", "no service\n"),
        ("backend list", "no backend\n"),
        ("flow list", "no flow\n"),
    ];
    for (words, told) in empty {
        let (out, err, _) = shown("[]", words);
        assert_eq!((out.as_str(), err.as_str()), ("", told));
    }
}

//! Mirror of the TOML: every key of every table, read as a typed value with
//! the place it stands at.
//!
//! The mirror is not derived with serde: its deserializer stops at the first
//! unknown key or wrong type, and an operator is to see everything at once.
//! So tables are read by hand through [`super::read`], which collects, and
//! refuses what nobody asked for (serde's `deny_unknown_fields`).
//!
//! Rules about one value hold here, rules between values in [`super::check`].
//! Keys of features that are planned but not built are known and refused;
//! where such a key has the one value that changes nothing, it is accepted.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use lb_common::{
    flow::MAX_TIMEOUT,
    limits::{BACKENDS, MAX_FLOWS, MIN_FLOWS},
};
use toml::de::DeValue;

use super::{
    mistake::Mistake,
    read::{Located, Place, Section, Wrong, document},
    value::{
        PORTS_HINT, PortRule, address, duration, interface, name, number, only_empty, only_flag,
        only_number, pin_dir, port, port_rule, ports, prefix, seed, weight, word,
    },
};
use crate::core::model::{Affinity, Mode, OnDown, OnEmpty, Protocol, Route, XdpMode};

/// Default of `node.flows`.
pub const FLOWS: u32 = 1_000_000;
/// Default of `node.pin_dir`.
pub const PIN_DIR: &str = "/sys/fs/bpf/lb";
/// Default of `node.state_dir`.
pub const STATE_DIR: &str = "/var/lib/lb";
/// Default of `admin.socket`.
pub const SOCKET: &str = "/run/lb/lb.sock";
/// Default of `service.affinity_timeout`, seconds.
pub const AFFINITY_TIMEOUT: u16 = 600;
/// Default of `service.backend.weight`.
pub const WEIGHT: u16 = 100;

/// A value of the mirror; `None`: wrong, and already reported.
pub type Field<T> = Option<Located<T>>;

/// The root.
#[derive(Debug)]
pub struct File {
    /// `[node]`.
    pub node: Node,
    /// `[firewall]`.
    pub firewall: Firewall,
    /// `[[service]]`.
    pub services: Vec<Service>,
}

/// `[node]`.
#[derive(Debug)]
pub struct Node {
    /// `name`, if any.
    pub name: Field<Option<String>>,
    /// `interfaces`.
    pub interfaces: Field<Vec<Located<String>>>,
    /// `xdp_mode`.
    pub xdp_mode: Field<XdpMode>,
    /// `flows`.
    pub flows: Field<u32>,
    /// `hash_seed`.
    pub hash_seed: Field<Option<[u64; 2]>>,
    /// `pin_dir`.
    pub pin_dir: Field<PathBuf>,
}

/// `[firewall]`.
#[derive(Debug)]
pub struct Firewall {
    /// `host`: whether it is "drop".
    pub guard_host: Field<bool>,
    /// `allow`.
    pub allow: Field<Vec<Located<PortRule>>>,
    /// `deny_sources`.
    pub deny_sources: Field<Vec<Located<IpNet>>>,
}

/// `[[service]]`.
#[derive(Debug)]
pub struct Service {
    /// Where its table begins.
    pub place: Place,
    /// `name`.
    pub name: Field<String>,
    /// `vip`.
    pub vip: Field<IpAddr>,
    /// `protocol`.
    pub protocol: Field<Protocol>,
    /// `port`.
    pub ports: Field<RangeInclusive<u16>>,
    /// `mode`.
    pub mode: Field<Mode>,
    /// `affinity_timeout`, whole seconds.
    pub affinity_timeout: Field<u16>,
    /// TEMP.
    pub affinity: Field<Affinity>,
    /// TEMP.
    pub on_empty: Field<OnEmpty>,
    /// TEMP.
    pub on_down: Field<OnDown>,
    /// TEMP.
    pub split: BTreeMap<String, u16>,
    /// TEMP.
    pub routes: Vec<Route>,
    /// `[[service.backend]]`.
    pub backends: Vec<Backend>,
}

/// `[[service.backend]]`.
#[derive(Debug)]
pub struct Backend {
    /// Where its table begins.
    pub place: Place,
    /// `name`.
    pub name: Field<String>,
    /// `address`.
    pub address: Field<IpAddr>,
    /// `port`, if any.
    pub port: Field<Option<u16>>,
    /// `weight`.
    pub weight: Field<u16>,
    /// TEMP.
    pub group: Field<Option<String>>,
}

/// Reads the text of a configuration: the mirror, unless the text is no TOML,
/// and every mistake in single values.
#[must_use]
pub fn read(text: &str) -> (Option<File>, Vec<Mistake>) {
    document(text, |mut root| {
        let node = node(root.table("node"));
        let firewall = firewall(root.table("firewall"));
        let services = root.tables("service").into_iter().map(service).collect();
        root.unbuilt("admin", "remove this table: the agent has no admin socket yet");
        root.unbuilt("ha", "remove this table: this version is a single balancer");
        root.finish();
        File { node, firewall, services }
    })
}

fn node(mut table: Section<'_>) -> Node {
    let node = Node {
        name: table.optional("name", None, |value| name(value).map(Some)),
        interfaces: table.list("interfaces", "interfaces = [\"eth0\"]", interface),
        xdp_mode: table.optional(
            "xdp_mode",
            XdpMode::Auto,
            word(&[
                ("auto", Some(XdpMode::Auto)),
                ("native", Some(XdpMode::Native)),
                ("generic", Some(XdpMode::Generic)),
            ]),
        ),
        flows: table.optional("flows", FLOWS, number(MIN_FLOWS..=MAX_FLOWS)),
        hash_seed: table.optional("hash_seed", None, seed),
        pin_dir: table.optional("pin_dir", PIN_DIR.into(), pin_dir),
    };
    table.unbuilt("zone", "leave it out: no policy looks at zones yet");
    table.unbuilt("state_dir", "leave it out: the file is all the state there is");
    table.finish();
    node
}

fn firewall(mut table: Section<'_>) -> Firewall {
    let firewall = Firewall {
        guard_host: table.optional(
            "host",
            false,
            word(&[("pass", Some(false)), ("drop", Some(true))]),
        ),
        allow: table.list("allow", "allow = [\"tcp/22\"]", port_rule),
        deny_sources: table.list("deny_sources", "deny_sources = [\"192.0.2.0/24\"]", prefix),
    };
    table.unbuilt("new_flows_per_source", "leave it out: sources are not limited yet");
    table.finish();
    firewall
}

fn service(mut table: Section<'_>) -> Service {
    let service = Service {
        place: table.place(),
        name: table.required("name", "any unique name, such as \"web\"", name),
        vip: table.required("vip", "the address clients connect to", address),
        protocol: table.optional(
            "protocol",
            Protocol::Tcp,
            word(&[("tcp", Some(Protocol::Tcp)), ("udp", Some(Protocol::Udp))]),
        ),
        ports: table.required("port", PORTS_HINT, ports),
        mode: table.optional(
            "mode",
            Mode::Nat,
            word(&[
                ("nat", Some(Mode::Nat)),
                ("dsr", Some(Mode::Dsr)),
                ("fullnat", None),
                ("ipip", None),
                ("gue", None),
            ]),
        ),
        affinity_timeout: table.optional("affinity_timeout", AFFINITY_TIMEOUT, affinity_timeout),
        affinity: table.optional(
            "affinity",
            Affinity::Flow,
            word(&[("flow", Some(Affinity::Flow)), ("client", Some(Affinity::Client))]),
        ),
        on_empty: table.optional(
            "on_empty",
            OnEmpty::Drop,
            word(&[("drop", Some(OnEmpty::Drop)), ("reject", Some(OnEmpty::Reject))]),
        ),
        on_down: table.optional(
            "on_down",
            OnDown::Release,
            word(&[("release", Some(OnDown::Release)), ("reset", Some(OnDown::Reset))]),
        ),
        split: split(table.table("split")),
        routes: table.tables("route").into_iter().filter_map(route).collect(),
        backends: table.tables("backend").into_iter().map(backend).collect(),
    };
    table.optional(
        "policy",
        (),
        word(&[("static", Some(())), ("latency", None), ("least-flows", None)]),
    );
    table.optional("slow_start", Duration::ZERO, only_at_once);
    table.optional("allow_sources", (), only_empty("write `[]`: everybody is served"));
    let one = only_number(1, 1..=BACKENDS, "write 1: without health checks every backend is up");
    table.optional("min_up", 1, one);
    health(table.table("health"));
    table.finish();
    service
}

fn split(mut table: Section<'_>) -> BTreeMap<String, u16> {
    let mut shares = BTreeMap::new();
    for group in ["blue", "green", "red"] {
        if let Some(Located { value: Some(share), .. }) =
            table.optional(group, None, |value| weight(value).map(Some))
        {
            shares.insert(group.to_owned(), share);
        }
    }
    table.finish();
    shares
}

fn route(mut table: Section<'_>) -> Option<Route> {
    let from = table.list("from", "from = [\"192.0.2.0/24\"]", prefix);
    let group = table.required("group", "a group", name);
    table.finish();
    let from = from?.value.into_iter().map(|net| net.value).collect();
    Some(Route { from, group: group?.value })
}

/// `[service.health]`, of which there is only "none".
fn health(mut table: Section<'_>) {
    table.optional(
        "kind",
        (),
        word(&[
            ("none", Some(())),
            ("tcp", None),
            ("http", None),
            ("https", None),
            ("udp", None),
            ("dns", None),
            ("exec", None),
            ("agent", None),
        ]),
    );
    for key in ["path", "expect_status", "interval", "timeout", "rise", "fall"] {
        table.unbuilt(key, "remove it: backends are not probed yet");
    }
    table.finish();
}

fn backend(mut table: Section<'_>) -> Backend {
    let backend = Backend {
        place: table.place(),
        name: table.required("name", "any name unique in its service, such as \"web-1\"", name),
        address: table.required("address", "the address of the server", address),
        port: table.optional("port", None, |value| port(value).map(Some)),
        weight: table.optional("weight", WEIGHT, weight),
        group: table.optional("group", None, |value| name(value).map(Some)),
    };
    table.optional("backup", false, only_flag(false, "write false: every backend serves"));
    table.unbuilt("zone", "leave it out: no policy looks at zones yet");
    table.finish();
    backend
}

/// A time in whole seconds that a slot of the affinity table can count.
fn affinity_timeout(value: &DeValue<'_>) -> Result<u16, Wrong> {
    let time = duration(value)?;
    let seconds = u16::try_from(time.as_secs()).ok();
    seconds
        .filter(|seconds| time.subsec_nanos() == 0 && (1..=MAX_TIMEOUT).contains(seconds))
        .ok_or_else(|| Wrong::new(format!("must be whole seconds, 1s to {MAX_TIMEOUT}s (9h 6m)")))
}

fn only_at_once(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    match duration(value)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => Err(Wrong::unbuilt("write \"0s\": a backend gets its whole weight at once")),
    }
}

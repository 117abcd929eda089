//! From the model back to keys and values: what reading them again turns into
//! an equal model.

use std::{ops::RangeInclusive, time::Duration};

use humantime::format_duration;
use serde_json::{Value, json};

use super::value::{PortRule, probe::show_bytes};
use crate::{
    api::Table,
    core::model::{
        Affinity, Backend, Firewall, Mode, NewFlows, OnDown, OnEmpty, Policy, Protocol, Service,
        health::{Dns, Health, Http, Probe, Tls, Udp},
        quic::QuicConfig,
    },
};

/// Every key of `[[service]]` in force; keys that need not be set and are not
/// are left out.
#[must_use]
pub fn service(service: &Service) -> Table {
    let Service { name, vip, protocol, ports, mode, timeouts, affinity, policy, .. } = service;
    let Service {
        slow_start,
        min_up,
        on_empty,
        on_down,
        health,
        split,
        routes,
        allow_sources,
        max_flows,
        syn_cookies_above,
        quic,
        ..
    } = service;
    let mut table = table([
        ("name", Some(json!(name))),
        ("vip", Some(json!(vip))),
        ("protocol", Some(json!(self::protocol(*protocol)))),
        ("port", Some(port(ports))),
        ("mode", Some(json!(self::mode(*mode)))),
        ("policy", Some(json!(self::policy(*policy)))),
        ("affinity", Some(json!(self::affinity(*affinity)))),
        ("affinity_timeout", Some(json!(format!("{}s", timeouts.established)))),
        ("slow_start", Some(time(*slow_start))),
        ("allow_sources", Some(json!(allow_sources))),
        ("max_flows", Some(json!(max_flows))),
        ("syn_cookies_above", Some(syn_cookies_above.map_or(json!("off"), Value::from))),
        ("min_up", Some(json!(min_up))),
        ("on_empty", Some(json!(self::on_empty(*on_empty)))),
        ("on_down", Some(json!(self::on_down(*on_down)))),
        ("health", Some(Value::Object(self::health(health)))),
        ("split", (!split.is_empty()).then(|| json!(split))),
    ]);
    if !routes.is_empty() {
        let route = |route: &crate::core::model::Route| {
            let from: Vec<_> = route.from.iter().map(ToString::to_string).collect();
            json!({ "from": from, "group": route.group })
        };
        table.insert("route".to_owned(), routes.iter().map(route).collect());
    }
    if !quic.is_empty() {
        let quic = quic.iter().map(|config| Value::Object(self::quic(config)));
        table.insert("quic".to_owned(), quic.collect());
    }
    let backends = service.backends.iter().map(|backend| Value::Object(self::backend(backend)));
    table.insert("backend".to_owned(), backends.collect());
    table
}

/// Every key of `[[service.backend]]` in force, likewise.
#[must_use]
pub fn backend(backend: &Backend) -> Table {
    let Backend { name, address, port, weight, zone, group, backup, server_ids } = backend;
    let ids = || server_ids.iter().map(ToString::to_string).collect();
    table([
        ("name", Some(json!(name))),
        ("address", Some(json!(address))),
        ("port", port.map(Value::from)),
        ("weight", Some(json!(weight))),
        ("zone", zone.as_ref().map(|zone| json!(zone))),
        ("group", group.as_ref().map(|group| json!(group))),
        ("backup", Some(json!(backup))),
        ("server_ids", (!server_ids.is_empty()).then(ids)),
    ])
}

fn quic(quic: &QuicConfig) -> Table {
    let QuicConfig { id, server_id_length, nonce_length, key_file } = quic;
    table([
        ("id", Some(json!(id))),
        ("server_id_length", Some(json!(server_id_length))),
        ("nonce_length", Some(json!(nonce_length))),
        ("key_file", key_file.as_ref().map(|file| json!(file))),
    ])
}

/// Every key of `[firewall]` in force.
#[must_use]
pub fn firewall(firewall: &Firewall) -> Table {
    let Firewall { guard_host, allow, deny_sources, new_flows_per_source } = firewall;
    let limit = |limit: &NewFlows| json!({ "rate": limit.rate, "burst": limit.burst });
    table([
        ("host", Some(json!(host(*guard_host)))),
        ("allow", Some(allow.iter().map(|rule| Value::from(port_rule(rule))).collect())),
        ("deny_sources", Some(json!(deny_sources))),
        ("new_flows_per_source", new_flows_per_source.as_ref().map(limit)),
    ])
}

/// "drop" or "pass".
#[must_use]
pub fn host(guarded: bool) -> &'static str {
    if guarded { "drop" } else { "pass" }
}

fn health(health: &Health) -> Table {
    let Health { probe, interval, timeout, rise, fall, port } = health;
    let (kind, mut keys) = match probe {
        Probe::None => ("none", Table::new()),
        Probe::Tcp => ("tcp", Table::new()),
        Probe::Http(http) => (if http.tls.is_some() { "https" } else { "http" }, self::http(http)),
        Probe::Udp(Udp { send, expect }) => (
            "udp",
            table([
                ("send", Some(json!(show_bytes(send)))),
                ("expect", expect.as_ref().map(|expect| json!(show_bytes(expect)))),
            ]),
        ),
        Probe::Dns(Dns { name, record }) => {
            ("dns", table([("name", Some(json!(name))), ("record", Some(json!(record)))]))
        }
        Probe::Exec(command) => ("exec", table([("command", Some(json!(command)))])),
        Probe::Agent => ("agent", Table::new()),
    };
    keys.extend(table([
        ("kind", Some(json!(kind))),
        ("interval", Some(time(*interval))),
        ("timeout", Some(time(*timeout))),
        ("rise", Some(json!(rise))),
        ("fall", Some(json!(fall))),
        ("port", port.map(Value::from)),
    ]));
    keys
}

fn http(http: &Http) -> Table {
    let Http { path, host, expect_status, tls } = http;
    let statuses: Vec<_> = expect_status.iter().map(range).collect();
    let mut keys = table([
        ("path", Some(json!(path))),
        ("host", host.as_ref().map(|host| json!(host))),
        ("expect_status", Some(json!(statuses.join(",")))),
    ]);
    if let Some(Tls { verify, ca_file }) = tls {
        keys.extend(table([
            ("verify", Some(json!(verify))),
            ("ca_file", ca_file.as_ref().map(|file| json!(file))),
        ]));
    }
    keys
}

fn table<const N: usize>(keys: [(&str, Option<Value>); N]) -> Table {
    let keys = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    keys.collect()
}

/// "tcp" or "udp".
#[must_use]
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// "nat", "fullnat", "dsr", "ipip" or "gue".
#[must_use]
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::FullNat => "fullnat",
        Mode::Dsr => "dsr",
        Mode::Ipip => "ipip",
        Mode::Gue => "gue",
    }
}

/// "static", "latency" or "least-flows".
#[must_use]
pub fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Static => "static",
        Policy::Latency => "latency",
        Policy::LeastFlows => "least-flows",
    }
}

/// "flow", "client" or "none".
#[must_use]
pub fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::Client => "client",
        Affinity::None => "none",
    }
}

fn on_empty(on_empty: OnEmpty) -> &'static str {
    match on_empty {
        OnEmpty::Drop => "drop",
        OnEmpty::Reject => "reject",
    }
}

fn on_down(on_down: OnDown) -> &'static str {
    match on_down {
        OnDown::Release => "release",
        OnDown::Reset => "reset",
    }
}

/// Ports as they are written: "443", "8000-8100" or "any".
#[must_use]
pub fn ports(ports: &RangeInclusive<u16>) -> String {
    if *ports == (1..=u16::MAX) { "any".to_owned() } else { range(ports) }
}

/// A rule of `firewall.allow`: "tcp/443".
#[must_use]
pub fn port_rule((protocol, ports): &PortRule) -> String {
    format!("{}/{}", self::protocol(*protocol), self::ports(ports))
}

fn port(ports: &RangeInclusive<u16>) -> Value {
    if ports.start() == ports.end() { json!(ports.start()) } else { json!(self::ports(ports)) }
}

fn range(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn time(time: Duration) -> Value {
    json!(format_duration(time).to_string())
}

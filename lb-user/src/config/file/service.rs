//! Mirror of `[[service]]` and its backends.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use lb_common::{
    flow::{MAX_TIMEOUT, SLOTS},
    limits::{BACKENDS, MAX_FLOWS},
    quic::{CONFIGS, LONGEST, LONGEST_SERVER_ID, SHORTEST_NONCE},
};
use toml::de::DeValue;

use super::{Field, health};
use crate::{
    config::{
        read::{Located, Place, Section, Wrong},
        value::{
            PORTS_HINT, address, duration, flag, name, number, path, port, ports, prefix,
            source_prefix, unless_off, weight, word,
        },
    },
    core::model::{
        Affinity, Mode, OnDown, OnEmpty, Policy, Protocol, health::Health, quic::ServerId,
    },
};

/// Default of `service.affinity_timeout`, seconds.
pub const AFFINITY_TIMEOUT: u16 = 600;
/// Default of `service.backend.weight`.
pub const WEIGHT: u16 = 100;

/// Largest `service.max_flows`: as many as the affinity table has slots at most.
const MOST_MAX_FLOWS: u32 = MAX_FLOWS * SLOTS as u32;

/// Largest `service.syn_cookies_above`, SYNs a second.
const MOST_SYN_COOKIES_ABOVE: u32 = 100_000_000;

/// Longest `service.slow_start`.
const MOST_SLOW_START: Duration = Duration::from_secs(3600);

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
    /// `policy`.
    pub policy: Field<Policy>,
    /// `affinity`.
    pub affinity: Field<Affinity>,
    /// `affinity_timeout`, whole seconds.
    pub affinity_timeout: Field<u16>,
    /// `slow_start`, whole seconds.
    pub slow_start: Field<Duration>,
    /// `allow_sources`.
    pub allow_sources: Field<Vec<Located<IpNet>>>,
    /// `max_flows`.
    pub max_flows: Field<u32>,
    /// `syn_cookies_above`; `None`: never.
    pub syn_cookies_above: Field<Option<u32>>,
    /// `min_up`.
    pub min_up: Field<u32>,
    /// `on_empty`.
    pub on_empty: Field<OnEmpty>,
    /// `on_down`.
    pub on_down: Field<OnDown>,
    /// `[service.health]`, and where it begins.
    pub health: Field<Health>,
    /// `[service.split]`.
    pub split: Option<BTreeMap<String, Located<u16>>>,
    /// `[[service.route]]`.
    pub routes: Vec<Route>,
    /// `[[service.quic]]`.
    pub quic: Vec<Quic>,
    /// `[[service.backend]]`.
    pub backends: Vec<Backend>,
}

/// `[[service.route]]`.
#[derive(Debug)]
pub struct Route {
    /// `from`.
    pub from: Field<Vec<Located<IpNet>>>,
    /// `group`.
    pub group: Field<String>,
}

/// `[[service.quic]]`.
#[derive(Debug)]
pub struct Quic {
    /// Where its table begins.
    pub place: Place,
    /// `id`.
    pub id: Field<u8>,
    /// `server_id_length`.
    pub server_id_length: Field<u8>,
    /// `nonce_length`.
    pub nonce_length: Field<u8>,
    /// `key_file`, if any.
    pub key_file: Field<Option<PathBuf>>,
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
    /// `zone`, if any.
    pub zone: Field<Option<String>>,
    /// `group`, if any.
    pub group: Field<Option<String>>,
    /// `backup`.
    pub backup: Field<bool>,
    /// `server_ids`.
    pub server_ids: Field<Vec<Located<ServerId>>>,
}

pub(super) fn read(mut table: Section<'_>) -> Service {
    let service = Service {
        place: table.place(),
        name: table.required("name", "any unique name, such as \"web\"", name),
        vip: table.required("vip", "the address clients connect to", address),
        protocol: table.optional(
            "protocol",
            Protocol::Tcp,
            word(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]),
        ),
        ports: table.required("port", PORTS_HINT, ports),
        mode: table.optional(
            "mode",
            Mode::Nat,
            word(&[
                ("nat", Mode::Nat),
                ("fullnat", Mode::FullNat),
                ("dsr", Mode::Dsr),
                ("ipip", Mode::Ipip),
                ("gue", Mode::Gue),
            ]),
        ),
        policy: table.optional(
            "policy",
            Policy::Static,
            word(&[
                ("static", Policy::Static),
                ("latency", Policy::Latency),
                ("least-flows", Policy::LeastFlows),
            ]),
        ),
        affinity: table.optional(
            "affinity",
            Affinity::Flow,
            word(&[
                ("flow", Affinity::Flow),
                ("client", Affinity::Client),
                ("none", Affinity::None),
            ]),
        ),
        affinity_timeout: table.optional("affinity_timeout", AFFINITY_TIMEOUT, affinity_timeout),
        slow_start: table.optional("slow_start", Duration::ZERO, slow_start),
        allow_sources: table.list(
            "allow_sources",
            "allow_sources = [\"198.51.100.0/24\"]",
            source_prefix,
        ),
        max_flows: table.optional("max_flows", 0, number(0..=MOST_MAX_FLOWS)),
        syn_cookies_above: table.optional(
            "syn_cookies_above",
            None,
            unless_off(number(0..=MOST_SYN_COOKIES_ABOVE)),
        ),
        min_up: table.optional("min_up", 1, number(1..=BACKENDS - 1)),
        on_empty: table.optional(
            "on_empty",
            OnEmpty::Drop,
            word(&[("drop", OnEmpty::Drop), ("reject", OnEmpty::Reject)]),
        ),
        on_down: table.optional(
            "on_down",
            OnDown::Release,
            word(&[("release", OnDown::Release), ("reset", OnDown::Reset)]),
        ),
        health: health::read(table.table("health")),
        split: table.entries("split", |value| number(0..=100)(value).map(|share| share as u16)),
        routes: table.tables("route").into_iter().map(route).collect(),
        quic: table.tables("quic").into_iter().map(quic).collect(),
        backends: table.tables("backend").into_iter().map(backend).collect(),
    };
    table.finish();
    service
}

fn route(mut table: Section<'_>) -> Route {
    let route = Route {
        from: table.list("from", "from = [\"198.51.100.0/24\"]", prefix),
        group: table.required("group", "the group of some backends", name),
    };
    table.finish();
    route
}

fn quic(mut table: Section<'_>) -> Quic {
    let octets = |range: RangeInclusive<u8>| {
        let range = (*range.start()).into()..=(*range.end()).into();
        move |value: &DeValue<'_>| number(range)(value).map(|octets| octets as u8)
    };
    let of_id = "octets of a server ID, such as 4";
    let of_nonce = "octets of the nonce behind the server ID, such as 5";
    let quic = Quic {
        place: table.place(),
        id: table.required("id", "0 to 6, as servers have it", octets(0..=CONFIGS as u8 - 1)),
        server_id_length: table.required("server_id_length", of_id, octets(1..=LONGEST_SERVER_ID)),
        nonce_length: table.required(
            "nonce_length",
            of_nonce,
            octets(SHORTEST_NONCE..=LONGEST - 2),
        ),
        key_file: table
            .optional("key_file", None, |value| path("/etc/lb/quic.key")(value).map(Some)),
    };
    table.finish();
    quic
}

/// The hexadecimal digits of a server ID.
fn server_id(value: &DeValue<'_>) -> Result<ServerId, Wrong> {
    value.as_str().and_then(ServerId::parse).ok_or_else(|| {
        Wrong::new(format!(
            "must be hexadecimal digits, two for each of 1 to {LONGEST_SERVER_ID} octets"
        ))
        .hint("such as \"ed793a51\"")
    })
}

fn backend(mut table: Section<'_>) -> Backend {
    let backend = Backend {
        place: table.place(),
        name: table.required("name", "any name unique in its service, such as \"web-1\"", name),
        address: table.required("address", "the address of the server", address),
        port: table.optional("port", None, |value| port(value).map(Some)),
        weight: table.optional("weight", WEIGHT, weight),
        zone: table.optional("zone", None, |value| name(value).map(Some)),
        group: table.optional("group", None, |value| name(value).map(Some)),
        backup: table.optional("backup", false, flag),
        server_ids: table.list("server_ids", "server_ids = [\"ed793a51\"]", server_id),
    };
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

fn slow_start(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let time = duration(value)?;
    (time.subsec_nanos() == 0 && time <= MOST_SLOW_START)
        .then_some(time)
        .ok_or_else(|| Wrong::new("must be whole seconds, 0s to 1h"))
}

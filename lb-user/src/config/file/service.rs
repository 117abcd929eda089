//! Mirror of `[[service]]` and its backends.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use lb_common::{flow::MAX_TIMEOUT, limits::BACKENDS};
use toml::de::DeValue;

use super::{Field, health};
use crate::{
    config::{
        read::{Located, Place, Section, Wrong},
        value::{
            PORTS_HINT, address, duration, flag, name, number, only_empty, port, ports, prefix,
            weight, word,
        },
    },
    core::model::{Affinity, Mode, OnDown, OnEmpty, Policy, Protocol, health::Health},
};

/// Default of `service.affinity_timeout`, seconds.
pub const AFFINITY_TIMEOUT: u16 = 600;
/// Default of `service.backend.weight`.
pub const WEIGHT: u16 = 100;

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
}

pub(super) fn read(mut table: Section<'_>) -> Service {
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
                ("fullnat", Some(Mode::FullNat)),
                ("dsr", Some(Mode::Dsr)),
                ("ipip", Some(Mode::Ipip)),
                ("gue", Some(Mode::Gue)),
            ]),
        ),
        policy: table.optional(
            "policy",
            Policy::Static,
            word(&[
                ("static", Some(Policy::Static)),
                ("latency", Some(Policy::Latency)),
                ("least-flows", Some(Policy::LeastFlows)),
            ]),
        ),
        affinity: table.optional(
            "affinity",
            Affinity::Flow,
            word(&[("flow", Some(Affinity::Flow)), ("client", Some(Affinity::Client))]),
        ),
        affinity_timeout: table.optional("affinity_timeout", AFFINITY_TIMEOUT, affinity_timeout),
        slow_start: table.optional("slow_start", Duration::ZERO, slow_start),
        min_up: table.optional("min_up", 1, number(1..=BACKENDS - 1)),
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
        health: health::read(table.table("health")),
        split: table.entries("split", |value| number(0..=100)(value).map(|share| share as u16)),
        routes: table.tables("route").into_iter().map(route).collect(),
        backends: table.tables("backend").into_iter().map(backend).collect(),
    };
    table.optional("allow_sources", (), only_empty("write `[]`: everybody is served"));
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

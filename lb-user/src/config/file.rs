//! Mirror of the TOML: every key of every table, read as a typed value with
//! the place it stands at.
//!
//! The mirror is not derived with serde: its deserializer stops at the first
//! unknown key or wrong type, and an operator is to see everything at once.
//! So tables are read by hand through [`super::read`], which collects, and
//! refuses what nobody asked for (serde's `deny_unknown_fields`).
//!
//! Rules about one value hold here, rules between values in [`super::check`].

mod ha;
mod health;
mod service;

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;
use lb_common::limits::{MAX_FLOWS, MIN_FLOWS};

use super::{
    mistake::Mistake,
    read::{Located, Section, Telling, document},
    value::{
        PortRule, ha::socket_address, interface, name, nat_source, number, path, pin_dir,
        port_rule, prefix, seed, socket, tunnel_source, word,
    },
};
use crate::core::model::XdpMode;
pub use ha::{Group, GroupAddress, Ha, KEY_FILE};
pub use service::{AFFINITY_TIMEOUT, Backend, Quic, Route, Service, WEIGHT};

/// Default of `node.flows`.
pub const FLOWS: u32 = 1_000_000;
/// Default of `node.pin_dir`.
pub const PIN_DIR: &str = "/sys/fs/bpf/lb";
/// Default of `node.state_dir`.
pub const STATE_DIR: &str = "/var/lib/lb";
/// Default of `admin.socket`.
pub const SOCKET: &str = "/run/lb/lb.sock";

/// What `firewall.new_flows_per_source.rate` may be.
pub const NEW_FLOWS_RATE: RangeInclusive<u32> = 1..=1_000_000;
/// What `firewall.new_flows_per_source.burst` may be.
pub const NEW_FLOWS_BURST: RangeInclusive<u32> = 2..=10_000_000;

/// A value of the mirror; `None`: wrong, and already reported.
pub type Field<T> = Option<Located<T>>;

/// The root.
#[derive(Debug)]
pub struct File {
    /// `[node]`.
    pub node: Node,
    /// `[admin]`.
    pub admin: Admin,
    /// `[ha]`, if any.
    pub ha: Option<Ha>,
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
    /// `tunnel_sources`.
    pub tunnel_sources: Field<Vec<Located<IpNet>>>,
    /// `nat_sources`.
    pub nat_sources: Field<Vec<Located<IpNet>>>,
    /// `pin_dir`.
    pub pin_dir: Field<PathBuf>,
    /// `state_dir`.
    pub state_dir: Field<PathBuf>,
    /// `zone`, if any.
    pub zone: Field<Option<String>>,
}

/// `[admin]`.
#[derive(Debug)]
pub struct Admin {
    /// `socket`.
    pub socket: Field<PathBuf>,
    /// `group`, if any.
    pub group: Field<Option<String>>,
    /// `http`, if any.
    pub http: Field<Option<SocketAddr>>,
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
    /// `new_flows_per_source`, if any.
    pub new_flows_per_source: Option<NewFlows>,
}

/// `new_flows_per_source`.
#[derive(Debug)]
pub struct NewFlows {
    /// `rate`.
    pub rate: Field<u32>,
    /// `burst`.
    pub burst: Field<u32>,
}

/// Reads the text of a configuration: the mirror, unless the text is no TOML,
/// and every mistake in single values.
#[must_use]
pub fn read(text: &str) -> (Option<File>, Vec<Mistake>) {
    document(text, Telling::Lines, "", |mut root| {
        let node = node(root.table("node"));
        let admin = admin(root.table("admin"));
        let ha = root.table_if_any("ha").map(ha::read);
        let firewall = firewall(root.table("firewall"));
        let services = root.tables("service").into_iter().map(service::read).collect();
        root.finish();
        File { node, admin, ha, firewall, services }
    })
}

/// Reads the keys of one service, to be called `path`, as [`read`] does.
#[must_use]
pub fn read_service(text: &str, path: &str) -> (Option<Service>, Vec<Mistake>) {
    document(text, Telling::Names, path, service::read)
}

fn node(mut table: Section<'_>) -> Node {
    let node = Node {
        name: table.optional("name", None, |value| name(value).map(Some)),
        interfaces: table.list("interfaces", "interfaces = [\"eth0\"]", interface),
        xdp_mode: table.optional(
            "xdp_mode",
            XdpMode::Auto,
            word(&[
                ("auto", XdpMode::Auto),
                ("native", XdpMode::Native),
                ("generic", XdpMode::Generic),
            ]),
        ),
        flows: table.optional("flows", FLOWS, number(MIN_FLOWS..=MAX_FLOWS)),
        hash_seed: table.optional("hash_seed", None, seed),
        tunnel_sources: table.list(
            "tunnel_sources",
            "tunnel_sources = [\"10.255.0.0/24\"]",
            tunnel_source,
        ),
        nat_sources: table.list("nat_sources", "nat_sources = [\"10.0.0.100\"]", nat_source),
        pin_dir: table.optional("pin_dir", PIN_DIR.into(), pin_dir),
        state_dir: table.optional("state_dir", STATE_DIR.into(), path(STATE_DIR)),
        zone: table.optional("zone", None, |value| name(value).map(Some)),
    };
    table.finish();
    node
}

fn admin(mut table: Section<'_>) -> Admin {
    let admin = Admin {
        socket: table.optional("socket", SOCKET.into(), socket),
        group: table.optional("group", None, |value| name(value).map(Some)),
        http: table.optional("http", None, |value| socket_address(value).map(Some)),
    };
    table.finish();
    admin
}

fn firewall(mut table: Section<'_>) -> Firewall {
    let firewall = Firewall {
        guard_host: table.optional("host", false, word(&[("pass", false), ("drop", true)])),
        allow: table.list("allow", "allow = [\"tcp/22\"]", port_rule),
        deny_sources: table.list("deny_sources", "deny_sources = [\"192.0.2.0/24\"]", prefix),
        new_flows_per_source: table
            .inline_table("new_flows_per_source", NEW_FLOWS)
            .map(new_flows_per_source),
    };
    table.finish();
    firewall
}

/// An example of `firewall.new_flows_per_source`.
const NEW_FLOWS: &str = "new_flows_per_source = { rate = 500, burst = 1000 }";

fn new_flows_per_source(mut table: Section<'_>) -> NewFlows {
    let limit = NewFlows {
        rate: table.required("rate", "new flows a second, such as 500", number(NEW_FLOWS_RATE)),
        burst: table.required("burst", "new flows at once, such as 1000", number(NEW_FLOWS_BURST)),
    };
    table.finish();
    limit
}

//! The validated configuration: what the rest of the agent works with.
//!
//! A value of these types obeys every rule of `config/check.rs`; nothing
//! below re-checks them.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;
use lb_common::flow::Timeouts;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// This node.
    pub node: Node,
    /// Port and source policy.
    pub firewall: Firewall,
    /// Services, names unique, no two answering for the same address, port and protocol.
    pub services: Vec<Service>,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name in logs and status.
    pub name: String,
    /// Interfaces to attach to, at least one, unique.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub xdp_mode: XdpMode,
    /// Rated concurrent flows, `MIN_FLOWS..=MAX_FLOWS`.
    pub flows: u32,
    /// Seed shared by all balancers of a VIP; `None`: made up at first load.
    pub hash_seed: Option<[u64; 2]>,
    /// Where the data plane is pinned.
    pub pin_dir: PathBuf,
}

/// How to attach to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic, said in the log.
    Auto,
    /// Native or not at all.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// `[firewall]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Whether packets to the host's own addresses need permission.
    pub guard_host: bool,
    /// Ports open to the host, on its own addresses and on VIPs.
    pub allow: Vec<(Protocol, RangeInclusive<u16>)>,
    /// Sources dropped.
    pub deny_sources: Vec<IpNet>,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Destination address and port rewritten, replies rewritten back.
    Nat,
    /// Only the Ethernet header rewritten.
    Dsr,
}

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// Address clients connect to.
    pub vip: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Ports, one or more; `any` is 1 to 65535.
    pub ports: RangeInclusive<u16>,
    /// Forwarding mode.
    pub mode: Mode,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// Backends, names and addresses with ports unique within the service.
    pub backends: Vec<Backend>,
}

impl Service {
    /// The port, for a service that has just one.
    #[must_use]
    pub fn single_port(&self) -> Option<u16> {
        (self.ports.start() == self.ports.end()).then_some(*self.ports.start())
    }
}

/// `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name, unique within the service.
    pub name: String,
    /// Address, same family as the VIP.
    pub address: IpAddr,
    /// Port that packets are rewritten to (mode `nat`); `None`: the packet's own.
    pub port: Option<u16>,
    /// Weight; 0: existing flows only.
    pub weight: u16,
}

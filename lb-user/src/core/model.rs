//! The validated configuration: what the rest of the agent works with.
//!
//! A value of these types obeys every rule of `config/check.rs`; nothing
//! below re-checks them.

pub mod ha;
pub mod health;
mod programs;
pub mod quic;
#[cfg(test)]
pub(crate) mod sample;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::{flow::Timeouts, tunnel};

use self::{
    ha::Ha,
    health::{Health, Probe},
    quic::{QuicConfig, ServerId},
};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// This node.
    pub node: Node,
    /// How it is operated.
    pub admin: Admin,
    /// The node that stands in for it, and for which it does; `None`: alone.
    pub ha: Option<Ha>,
    /// Port and source policy.
    pub firewall: Firewall,
    /// Services, names unique, no two answering for the same address, port and protocol.
    pub services: Vec<Service>,
}

impl Model {
    /// Whether the data plane need not be built anew for `other`: only
    /// weights differ, or what they follow from.
    #[must_use]
    pub fn has_shape_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&Service, &Service)| a == b || a.shape() == b.shape();
        let same_group =
            |service: &Service| self.group_of(service.vip) == other.group_of(service.vip);
        self.node == other.node
            && self.firewall == other.firewall
            && self.services.len() == other.services.len()
            && self.services.iter().zip(&other.services).all(same)
            && self.services.iter().all(same_group)
    }

    /// Position of the group of addresses that a VIP is in; `None`: this node
    /// serves it on its own account.
    #[must_use]
    pub fn group_of(&self, vip: IpAddr) -> Option<usize> {
        self.ha.as_ref()?.group_of(vip)
    }
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
    /// Sources of packets that wrap others: at most one prefix of each family.
    pub tunnel_sources: Vec<IpNet>,
    /// Sources of clients' packets in mode `fullnat`: at most one prefix of each family.
    pub nat_sources: Vec<IpNet>,
    /// Where edits made through the admin socket are kept.
    pub state_dir: PathBuf,
    /// Where this node is; backends of the same zone may be preferred.
    pub zone: Option<String>,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the admin socket.
    pub socket: PathBuf,
    /// Group whose members may use it; `None`: the agent's own.
    pub group: Option<String>,
    /// Where metrics are served over HTTP; `None`: nowhere.
    pub http: Option<SocketAddr>,
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
    /// How many flows a source may begin; `None`: as many as it likes.
    pub new_flows_per_source: Option<NewFlows>,
}

/// How many flows begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlows {
    /// In a second, at least 1.
    pub rate: u32,
    /// At once, after a pause; at least 2, and a hundredth of `rate`.
    pub burst: u32,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Destination address and port rewritten, replies rewritten back.
    Nat,
    /// Source address and port rewritten as well.
    FullNat,
    /// Only the Ethernet header rewritten.
    Dsr,
    /// Wrapped in an IP packet.
    Ipip,
    /// Wrapped in a UDP packet.
    Gue,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nat, Self::FullNat, Self::Dsr, Self::Ipip, Self::Gue];

    /// Whether addresses and ports are rewritten, those of replies as well.
    #[must_use]
    pub fn is_nat(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether packets are wrapped in others.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Bytes that packets to a backend at this address are longer than the client's.
    #[must_use]
    pub fn overhead(self, backend: IpAddr) -> u32 {
        if self.is_tunnel() { tunnel::overhead(backend.is_ipv4(), self == Self::Gue) } else { 0 }
    }
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
    /// What stays with its backend.
    pub affinity: Affinity,
    /// What weights follow.
    pub policy: Policy,
    /// How long a backend that came up takes to get its whole weight.
    pub slow_start: Duration,
    /// Fewer backends up than this: the service is down.
    pub min_up: u32,
    /// What clients get where no backend is left.
    pub on_empty: OnEmpty,
    /// What becomes of the TCP flows of a backend that went down.
    pub on_down: OnDown,
    /// How backends are probed.
    pub health: Health,
    /// Shares of clients by group; empty: groups do not matter.
    pub split: BTreeMap<String, u16>,
    /// Sources that go to one group, prefixes unique.
    pub routes: Vec<Route>,
    /// Sources that are served, of the VIP's family; empty: everybody is.
    pub allow_sources: Vec<IpNet>,
    /// With as many flows it takes no new ones; 0: it takes any number.
    pub max_flows: u32,
    /// Above how many SYNs a second they are answered with cookies; `None`: never. TCP in
    /// modes that see both sides only.
    pub syn_cookies_above: Option<u32>,
    /// Configurations of connection IDs, ids unique; UDP only.
    pub quic: Vec<QuicConfig>,
    /// Backends, names and addresses with ports unique within the service.
    pub backends: Vec<Backend>,
}

impl Service {
    /// What of a service the data plane is built from, apart from weights:
    /// services of equal shapes differ in nothing but the weights of backends.
    #[must_use]
    pub fn shape(&self) -> Self {
        let backends = self.backends.iter().map(|backend| Backend {
            name: String::new(),
            weight: 0,
            zone: None,
            backup: false,
            ..backend.clone()
        });
        Self {
            name: String::new(),
            // Of a policy the data plane knows whether it wants handshakes timed.
            policy: if self.is_timed() { Policy::Latency } else { Policy::Static },
            slow_start: Duration::ZERO,
            min_up: 1,
            // Of a quota it knows whether there is one.
            max_flows: self.max_flows.min(1),
            health: Health::default(),
            backends: backends.collect(),
            ..self.clone()
        }
    }

    /// Whether the data plane is to time handshakes: it sees both sides of them
    /// in mode `nat` only.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        (self.policy, self.mode, self.protocol) == (Policy::Latency, Mode::Nat, Protocol::Tcp)
    }

    /// Whether its backends are probed for the VIP, as clients reach them. A
    /// program or an agent of the backend's is asked at the backend's own
    /// address.
    #[must_use]
    pub fn is_probed_for_vip(&self) -> bool {
        let asks_the_server = match self.health.probe {
            Probe::Tcp | Probe::Http(_) | Probe::Udp(_) | Probe::Dns(_) => true,
            Probe::None | Probe::Exec(_) | Probe::Agent => false,
        };
        self.mode == Mode::Dsr && asks_the_server
    }

    /// The port, for a service that has just one.
    #[must_use]
    pub fn single_port(&self) -> Option<u16> {
        (self.ports.start() == self.ports.end()).then_some(*self.ports.start())
    }
}

/// What stays with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Each flow.
    Flow,
    /// All flows of a source address.
    Client,
    /// Nothing: every datagram goes by the lookup table.
    None,
}

/// What weights follow, besides configuration, health and slow start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    Static,
    /// How fast backends answer: clients where that is seen, else probes.
    Latency,
    /// How many flows backends have.
    LeastFlows,
}

/// What clients get where no backend is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEmpty {
    /// Nothing.
    Drop,
    /// A TCP reset or an ICMP "port unreachable".
    Reject,
}

/// What becomes of the TCP flows of a backend that went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// Their next packet goes to another backend, which refuses it in its own way.
    Release,
    /// Their next packet is answered with a reset.
    Reset,
}

/// `[[service.route]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Prefixes of client addresses.
    pub from: Vec<IpNet>,
    /// Whose backends serve them.
    pub group: String,
}

/// `[[service.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name, unique within the service.
    pub name: String,
    /// Address, same family as the VIP.
    pub address: IpAddr,
    /// Port that packets are rewritten to (modes `nat`, `fullnat`); `None`: the packet's own.
    pub port: Option<u16>,
    /// Weight; 0: existing flows only.
    pub weight: u16,
    /// Where it is.
    pub zone: Option<String>,
    /// Group it belongs to, for `split` and `route`.
    pub group: Option<String>,
    /// Serves only while no other backend can.
    pub backup: bool,
    /// IDs by which connection IDs name it, unique within the service, each as long as
    /// a configuration says.
    pub server_ids: Vec<ServerId>,
}

//! Configurations as an operator writes them.

mod ha;

use std::{
    fmt::{self, Display, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::Backend;

pub use ha::{Group, Ha};

/// How packets reach the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Addresses are rewritten.
    Nat,
    /// The client's address is, too.
    FullNat,
    /// Backends answer directly.
    Dsr,
    /// The same, packets to them are wrapped in IP.
    Ipip,
    /// The same, in UDP.
    Gue,
}

/// What runs over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One `[[service]]`.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    vip: IpAddr,
    protocol: Protocol,
    port: u16,
    mode: Mode,
    /// Lines of its table beside, and of `[service.…]` tables.
    lines: String,
    backends: Vec<Member>,
}

/// One `[[service.backend]]`.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    address: IpAddr,
    port: Option<u16>,
    /// Lines of its table beside.
    lines: String,
}

/// A configuration; its `Display` is the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `node.name`.
    pub name: String,
    /// `node.hash_seed`, if it is not to be made up.
    pub hash_seed: Option<String>,
    /// `node.interfaces`.
    pub interfaces: Vec<String>,
    /// `node.pin_dir`.
    pub pin_dir: PathBuf,
    /// `node.state_dir`.
    pub state_dir: PathBuf,
    /// `admin.socket`.
    pub socket: PathBuf,
    /// `admin.group`, if any.
    pub group: Option<String>,
    /// `admin.http`, if any.
    pub http: Option<SocketAddr>,
    /// `node.flows`.
    pub flows: u32,
    /// More lines of `[node]`.
    pub node: String,
    /// Lines of `[firewall]`.
    pub firewall: String,
    /// `[ha]`, if it is one of a pair.
    pub ha: Option<Ha>,
    /// The services.
    pub services: Vec<Service>,
}

impl Service {
    /// A service without backends; its name is made of all that tells it apart.
    #[must_use]
    pub fn new(vip: IpAddr, protocol: Protocol, port: u16, mode: Mode) -> Self {
        let family = if vip.is_ipv4() { "v4" } else { "v6" };
        let last = vip.to_string().rsplit(['.', ':']).next().unwrap_or_default().to_owned();
        let name = format!("{mode}-{protocol}-{family}-{last}-{port}");
        Self { name, vip, protocol, port, mode, lines: String::new(), backends: Vec::new() }
    }

    /// Adds backends, each by its address of the VIP's family.
    #[must_use]
    pub fn with(self, backends: &[Backend]) -> Self {
        let v4 = self.vip.is_ipv4();
        backends.iter().fold(self, |all, one| all.with_one(&one.name, one.address(v4)))
    }

    /// Adds a backend.
    #[must_use]
    pub fn with_one(mut self, name: &str, address: IpAddr) -> Self {
        let lines = String::new();
        self.backends.push(Member { name: name.into(), address, port: None, lines });
        self
    }

    /// Adds lines: keys of the service, then tables such as `[service.health]`.
    #[must_use]
    pub fn lines(mut self, lines: &str) -> Self {
        self.lines.push_str(lines);
        self.lines.push('\n');
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends to `port` of the backends instead of the service's own.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        for backend in &mut self.backends {
            backend.port = Some(port);
        }
        self
    }

    /// Gives a backend's table other lines, `weight = 50` say.
    pub fn set(&mut self, backend: &str, lines: &str) {
        for member in self.backends.iter_mut().filter(|member| member.name == backend) {
            member.lines = format!("{lines}\n");
        }
    }

    /// Takes a backend out.
    pub fn remove(&mut self, backend: &str) {
        self.backends.retain(|member| member.name != backend);
    }
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::FullNat => "fullnat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Tcp { "tcp" } else { "udp" })
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[node]\nname = {:?}", self.name)?;
        if let Some(seed) = &self.hash_seed {
            writeln!(f, "hash_seed = {seed:?}")?;
        }
        f.write_str(&self.node)?;
        writeln!(f, "interfaces = {:?}\nxdp_mode = \"native\"", self.interfaces)?;
        writeln!(f, "pin_dir = {:?}\nflows = {}", self.pin_dir, self.flows)?;
        writeln!(f, "state_dir = {:?}\n\n[admin]\nsocket = {:?}", self.state_dir, self.socket)?;
        if let Some(group) = &self.group {
            writeln!(f, "group = {group:?}")?;
        }
        if let Some(http) = self.http {
            writeln!(f, "http = \"{http}\"")?;
        }
        if !self.firewall.is_empty() {
            writeln!(f, "\n[firewall]\n{}", self.firewall)?;
        }
        if let Some(ha) = &self.ha {
            write!(f, "\n{ha}")?;
        }
        self.services.iter().try_for_each(|service| service.fmt(f))
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vip, protocol, port, mode, lines, backends } = self;
        writeln!(f, "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"")?;
        writeln!(f, "protocol = \"{protocol}\"\nport = {port}\nmode = \"{mode}\"\n{lines}")?;
        for Member { name, address, port, lines } in backends {
            writeln!(f, "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"")?;
            f.write_str(lines)?;
            if let Some(port) = port {
                writeln!(f, "port = {port}")?;
            }
        }
        f.write_char('\n')
    }
}

//! Configurations of the balancer under test, with everything that packets
//! can notice.

use std::{
    fmt::{self, Display, Write as _},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use lb_tests::harness::{Group, Ha, Mode, Protocol};

use super::network::{BACKENDS, backend};

/// Port of heartbeats.
const HEARTBEATS: u16 = 4790;

/// A configuration; its `Display` is the file.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// `node.flows`.
    pub(crate) flows: u32,
    /// More lines of `[node]`.
    pub(crate) node: String,
    /// Lines of `[firewall]`.
    pub(crate) firewall: String,
    /// `[ha]`, if it is one of a pair; its key is the lab's.
    pub(crate) ha: Option<Ha>,
    pub(crate) services: Vec<Service>,
    /// `node.pin_dir`, set by the lab.
    pub(crate) pin_dir: PathBuf,
    /// `node.state_dir`, set by the lab.
    pub(crate) state_dir: PathBuf,
    /// `admin.socket`, set by the lab.
    pub(crate) socket: PathBuf,
}

/// One `[[service]]`.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) vip: IpAddr,
    pub(crate) protocol: Protocol,
    /// As in the file: `80`, `"8000-8100"`, `"any"`.
    pub(crate) port: String,
    pub(crate) mode: Mode,
    /// `affinity_timeout`, if any.
    pub(crate) timeout: Option<String>,
    /// More lines of its table.
    pub(crate) lines: String,
    pub(crate) backends: Vec<Backend>,
}

/// One `[[service.backend]]`.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u16,
    pub(crate) group: Option<&'static str>,
    /// `server_ids`, if any.
    pub(crate) server_ids: Vec<String>,
}

impl Setup {
    pub(crate) fn new(services: impl IntoIterator<Item = Service>) -> Self {
        Self {
            flows: 65_536,
            node: String::new(),
            firewall: String::new(),
            ha: None,
            services: services.into_iter().collect(),
            pin_dir: PathBuf::new(),
            state_dir: PathBuf::new(),
            socket: PathBuf::new(),
        }
    }

    pub(crate) fn flows(self, flows: u32) -> Self {
        Self { flows, ..self }
    }

    /// Adds a line to `[node]`.
    pub(crate) fn node(mut self, line: &str) -> Self {
        self.node += line;
        self.node.push('\n');
        self
    }

    /// Adds a line to `[firewall]`.
    pub(crate) fn firewall(mut self, line: &str) -> Self {
        self.firewall += line;
        self.firewall.push('\n');
        self
    }

    /// Makes it one of a pair with these groups of addresses. Its peer is not
    /// there, and is waited for much longer than a balancer takes to start.
    pub(crate) fn pair(self, groups: &[&[IpAddr]]) -> Self {
        let group = |(number, addresses): (usize, &&[IpAddr])| Group {
            name: format!("g{number}"),
            prefer: None,
            addresses: addresses.iter().map(|address| (*address, "l0")).collect(),
        };
        let ha = Ha {
            pair: "lab".into(),
            peer: vec![(backend(true, BACKENDS), HEARTBEATS).into()],
            listen: vec![([10, 2, 0, 1], HEARTBEATS).into()],
            key_file: PathBuf::new(),
            priority: 100,
            heartbeat: Duration::from_secs(1),
            preempt: false,
            replicate: false,
            fence: None,
            witness: None,
            groups: groups.iter().enumerate().map(group).collect(),
        };
        Self { ha: Some(ha), ..self }
    }
}

impl Service {
    pub(crate) fn new(mode: Mode, vip: IpAddr, protocol: Protocol, port: impl Display) -> Self {
        let (port, backends) = (port.to_string(), Vec::new());
        Self { vip, protocol, port, mode, timeout: None, lines: String::new(), backends }
    }

    /// Adds a line to its table.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines += line;
        self.lines.push('\n');
        self
    }

    /// Adds a backend of weight 100.
    pub(crate) fn to(mut self, address: IpAddr, port: Option<u16>) -> Self {
        let (group, server_ids) = (None, Vec::new());
        self.backends.push(Backend { address, port, weight: 100, group, server_ids });
        self
    }
}

impl Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "[node]\nname = \"lab\"\ninterfaces = [\"l0\", \"l1\"]\nxdp_mode = \"native\""
        )?;
        writeln!(f, "pin_dir = {:?}\nstate_dir = {:?}", self.pin_dir, self.state_dir)?;
        if self.ha.is_some() {
            writeln!(f, "hash_seed = \"000102030405060708090a0b0c0d0e0f\"")?;
        }
        f.write_str(&self.node)?;
        writeln!(f, "flows = {}\n\n[admin]\nsocket = {:?}", self.flows, self.socket)?;
        writeln!(f, "\n[firewall]\n{}", self.firewall)?;
        if let Some(ha) = &self.ha {
            write!(f, "{ha}")?;
        }
        let mut services = self.services.iter().enumerate();
        services.try_for_each(|(number, service)| service.write(f, number))
    }
}

impl Service {
    fn write(&self, f: &mut fmt::Formatter<'_>, number: usize) -> fmt::Result {
        let Self { vip, protocol, port, mode, timeout, lines, backends } = self;
        writeln!(f, "\n[[service]]\nname = \"s{number}\"\nvip = \"{vip}\"")?;
        writeln!(f, "protocol = \"{protocol}\"\nport = {port}\nmode = \"{mode}\"")?;
        if let Some(timeout) = timeout {
            writeln!(f, "affinity_timeout = \"{timeout}\"")?;
        }
        f.write_str(lines)?;
        for (number, backend) in backends.iter().enumerate() {
            let Backend { address, port, weight, group, server_ids } = backend;
            writeln!(f, "\n[[service.backend]]\nname = \"b{number}\"\naddress = \"{address}\"")?;
            writeln!(f, "weight = {weight}")?;
            if let Some(group) = group {
                writeln!(f, "group = \"{group}\"")?;
            }
            if let Some(port) = port {
                writeln!(f, "port = {port}")?;
            }
            if !server_ids.is_empty() {
                writeln!(f, "server_ids = {server_ids:?}")?;
            }
        }
        f.write_char('\n')
    }
}

//! The balancer that is measured: a lab without servers, the real agent in
//! it, and the program that the agent pinned.
//!
//! Clients and backends are behind the same interface, so that every frame
//! leaves by the interface it came in. The client's namespace holds the
//! addresses of all of them and so answers for them; no frame of the
//! measurement ever goes there.

use std::{fmt::Write as _, fs, net::IpAddr, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{ProgramFd, ProgramInfo},
};
use lb_common::maps;
use lb_tests::harness::{
    Agent, DSR_V4, DSR_V6, Lab, Mode, NAT_V4, NAT_V6, Pins, Protocol, tunnel_sources,
};

use crate::bench::{frame::Macs, link, os::ArrayMemory};

/// Rated flows of the balancer.
pub(super) const FLOWS: u32 = 1_000_000;
/// Backends of every service.
const BACKENDS: u8 = 10;
/// The balancer's interface.
const INTERFACE: &str = "l0";
/// First client address, and its network in IPv6.
pub(super) const CLIENTS_V4: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// See [`CLIENTS_V4`].
pub(super) const CLIENTS_V6: &str = "fd00:64::";

/// A lab with routes to all clients and backends. No balancer runs in it yet.
pub(super) fn lab() -> Result<Lab> {
    let lab = Lab::new(0)?;
    let mut addresses = String::new();
    for number in 1..=BACKENDS {
        for (v4, length) in [(true, "24"), (false, "64 nodad")] {
            let address = backend(v4, number);
            let (address, length) = (address.to_string(), length);
            let (prefix, rest) = length.split_once(' ').unwrap_or((length, ""));
            writeln!(addresses, "addr add {address}/{prefix} dev c0 {rest}")?;
        }
    }
    lab.client.ip(&addresses)?;
    lab.balancer.ip(&format!(
        "route add 10.64.0.0/10 via 10.1.0.2
         route add 64.0.0.0/3 via 10.1.0.2
         -6 route add {CLIENTS_V6}/64 via fd00:1::2"
    ))?;
    Ok(lab)
}

/// Address of backend `number`.
pub(super) fn backend(v4: bool, number: u8) -> IpAddr {
    if v4 {
        IpAddr::from([10, 1, 0, 100 + number])
    } else {
        IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, 0x100 + u16::from(number)])
    }
}

/// VIP of a mode.
pub(super) fn vip(v4: bool, mode: Mode) -> IpAddr {
    match (v4, mode) {
        (true, Mode::Nat | Mode::FullNat) => NAT_V4,
        (false, Mode::Nat | Mode::FullNat) => NAT_V6,
        (true, _) => DSR_V4,
        (false, _) => DSR_V6,
    }
}

/// A service's port, and the port of its backends.
pub(super) fn ports(mode: Mode, protocol: Protocol) -> (u16, u16) {
    // The VIPs of mode `dsr` are those of tunnels as well.
    let service = match mode {
        Mode::Nat | Mode::Dsr => 0,
        Mode::Ipip | Mode::FullNat => 1,
        Mode::Gue => 2,
    };
    let port = service + if protocol == Protocol::Tcp { 80 } else { 53 };
    (port, if mode == Mode::Nat { 8000 + port } else { port })
}

/// The balancer's receiving interface.
pub(super) struct Ingress {
    /// Its index.
    pub(super) ifindex: u32,
    /// Its address and its neighbour's.
    pub(super) macs: Macs,
}

impl Ingress {
    /// Asks the system.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let (here, neighbour) = (link::of(&lab.balancer, INTERFACE)?, link::of(&lab.client, "c0")?);
        Ok(Self { ifindex: here.ifindex, macs: Macs { to: here.mac, from: neighbour.mac } })
    }
}

/// A running balancer.
pub(super) struct Subject {
    /// The program measured.
    pub(super) program: ProgramFd,
    /// What it counts.
    pub(super) pins: Pins,
    flows: ArrayMemory,
    _agent: Agent,
}

impl Subject {
    /// Starts the agent with a service for each of `modes`, each family and protocol.
    pub(super) fn start(lab: &Lab, binary: &Path, modes: &[Mode]) -> Result<Self> {
        let mut config = lab.config([]);
        config.flows = FLOWS;
        config.interfaces = vec![INTERFACE.into()];
        if modes.iter().any(|mode| matches!(mode, Mode::Ipip | Mode::Gue)) {
            config.node = tunnel_sources();
        }
        let path = lab.write(&config)?;
        let mut text = config.to_string();
        for &mode in modes {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for v4 in [true, false] {
                    text += &service(mode, protocol, v4)?;
                }
            }
        }
        fs::write(&path, text)?;
        let agent = Agent::start(binary, &lab.balancer, &path)?;

        let program = ProgramInfo::from_pin(config.pin_dir.join(maps::PROGRAM))
            .context("open the pinned program")?;
        let flows = MapData::from_pin(config.pin_dir.join(maps::FLOWS))
            .context("open the pinned affinity table")?;
        let info = flows.info()?;
        let bytes = info.max_entries() as usize * info.value_size() as usize;
        Ok(Self {
            program: program.fd()?,
            pins: lab.pins(),
            flows: ArrayMemory::map(flows.fd().as_fd(), bytes)?,
            _agent: agent,
        })
    }

    /// Forgets every flow.
    pub(super) fn forget_flows(&mut self) {
        self.flows.clear();
    }
}

fn service(mode: Mode, protocol: Protocol, v4: bool) -> Result<String> {
    let (port, backend_port) = ports(mode, protocol);
    let (vip, family) = (vip(v4, mode), if v4 { "v4" } else { "v6" });
    let mut text = format!(
        "\n[[service]]\nname = \"{mode}-{protocol}-{family}\"\nvip = \"{vip}\"\n\
         protocol = \"{protocol}\"\nport = {port}\nmode = \"{mode}\"\n"
    );
    for number in 1..=BACKENDS {
        let address = backend(v4, number);
        writeln!(text, "\n[[service.backend]]\nname = \"b{number}\"\naddress = \"{address}\"")?;
        if mode == Mode::Nat {
            writeln!(text, "port = {backend_port}")?;
        }
    }
    Ok(text)
}

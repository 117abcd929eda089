//! Interfaces, and the host's settings that the data plane needs.

mod monitor;

use std::{fmt, fs, io, ops::RangeInclusive};

use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
    XdpAttached,
};

pub use self::monitor::Monitor;
use super::route::{Requests, Which, mac, master};

/// Where the kernel keeps the ports of outgoing connections.
const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket to look at interfaces")]
    Open(#[source] io::Error),
    /// No interface of that name.
    #[error(
        "interface `{0}` does not exist: expected the name of an interface in the agent's \
         network namespace, see `ip link`"
    )]
    NoSuchName(String),
    /// No interface of that index.
    #[error("interface number {0} does not exist (any more)")]
    NoSuchIndex(u32),
    /// The kernel does not tell about the interface.
    #[error("cannot look at interface `{interface}`")]
    Read {
        /// Its name or number.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A setting cannot be read.
    #[error("cannot read `{path}`, which holds the ports of the host's own connections")]
    EphemeralPorts {
        /// Which.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A setting is not what it should be.
    #[error("`{path}` is {found:?}: expected the first and the last port")]
    EphemeralPortsForm {
        /// Which.
        path: &'static str,
        /// What it is.
        found: String,
    },
    /// No clock that ticks.
    #[error("cannot read the resolution of the kernel's coarse clock")]
    Tick(#[source] io::Error),
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
    /// On the card.
    Offloaded,
    /// In more than one of these ways.
    Several,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
            Self::Several => "several",
        })
    }
}

/// An attached XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How.
    pub mode: Mode,
    /// The program's id; `None`: there are several.
    pub program: Option<u32>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None`: it does not carry Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Most bytes of an IP packet.
    pub mtu: u32,
    /// Set up, with carrier or not.
    pub up: bool,
    /// Set up, and connected to something that is, too.
    pub carrier: bool,
    /// How often it has got carrier.
    pub carrier_ups: u32,
    /// The XDP program attached, if any.
    pub xdp: Option<Attached>,
    /// The interface that this is a part of.
    pub part_of: Option<Whole>,
    /// A bridge that has VLANs of its own (`vlan_filtering`).
    pub filters_vlans: bool,
}

/// What an interface is a part of, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// A bridge.
    Bridge(u32),
    /// A bond.
    Bond(u32),
}

/// The interface called `name`.
///
/// # Errors
/// If there is none, or the kernel cannot be asked.
pub async fn by_name(name: &str) -> Result<Interface, Error> {
    named(&Requests::open().map_err(Error::Open)?, name).await
}

/// The interface with number `index`.
///
/// # Errors
/// If there is none, or the kernel cannot be asked.
pub async fn by_index(index: u32) -> Result<Interface, Error> {
    numbered(&Requests::open().map_err(Error::Open)?, index).await
}

/// [`by_name`] over a socket that is open.
pub(super) async fn named(requests: &Requests, name: &str) -> Result<Interface, Error> {
    let missing = || Error::NoSuchName(name.to_owned());
    // IFNAMSIZ: the kernel answers longer names with an error of another sort.
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(missing());
    }
    look_up(requests, Which::Name(name), missing, name).await
}

/// [`by_index`] over a socket that is open.
pub(super) async fn numbered(requests: &Requests, index: u32) -> Result<Interface, Error> {
    if index == 0 {
        return Err(Error::NoSuchIndex(index));
    }
    let missing = || Error::NoSuchIndex(index);
    look_up(requests, Which::Index(index), missing, &index.to_string()).await
}

async fn look_up(
    requests: &Requests,
    which: Which<'_>,
    missing: impl FnOnce() -> Error,
    interface: &str,
) -> Result<Interface, Error> {
    match requests.link(which).await {
        Ok(message) => Ok(interface_of(&message)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(missing()),
        Err(source) => Err(Error::Read { interface: interface.to_owned(), source }),
    }
}

fn interface_of(message: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        mac: mac(message),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        carrier_ups: 0,
        xdp: None,
        part_of: master(message).and_then(|(index, kind)| match kind {
            InfoPortKind::Bridge => Some(Whole::Bridge(index)),
            InfoPortKind::Bond => Some(Whole::Bond(index)),
            _ => None,
        }),
        filters_vlans: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::CarrierUpCount(count) => interface.carrier_ups = *count,
            LinkAttribute::Xdp(xdp) => interface.xdp = attached(xdp),
            LinkAttribute::LinkInfo(infos) => interface.filters_vlans = filters_vlans(infos),
            _ => {}
        }
    }
    interface
}

fn filters_vlans(infos: &[LinkInfo]) -> bool {
    let of_bridge = infos.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(data)) => Some(data),
        _ => None,
    });
    of_bridge.flatten().any(|info| matches!(info, InfoBridge::VlanFiltering(true)))
}

fn attached(attributes: &[LinkXdp]) -> Option<Attached> {
    let mut mode = None;
    let mut program = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(Mode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(Mode::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some(Mode::Offloaded),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some(Mode::Several),
            LinkXdp::ProgId(id) => program = Some(*id),
            _ => {}
        }
    }
    Some(Attached { mode: mode?, program })
}

/// The local ports of the host's own connections, both families, in the network
/// namespace of the calling thread.
///
/// # Errors
/// If the kernel's setting cannot be read or understood.
pub fn ephemeral_ports() -> Result<RangeInclusive<u16>, Error> {
    let path = EPHEMERAL_PORTS;
    let text = fs::read_to_string(path).map_err(|source| Error::EphemeralPorts { path, source })?;
    ports(&text).ok_or(Error::EphemeralPortsForm { path, found: text })
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (low, high) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (numbers.next().is_none() && low <= high).then_some(low..=high)
}

/// Seconds per jiffy as a binary fraction, `2^32 / HZ`.
///
/// # Errors
/// If the kernel does not tell.
pub fn tick_scale() -> Result<u64, Error> {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the second argument points to a timespec that lives on.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) } != 0 {
        return Err(Error::Tick(io::Error::last_os_error()));
    }
    // The coarse clock goes forward once per tick: its resolution is 1/HZ.
    u64::try_from(resolution.tv_nsec)
        .ok()
        .and_then(scale)
        .ok_or_else(|| Error::Tick(io::ErrorKind::InvalidData.into()))
}

/// `2^32 / HZ` for ticks of so many nanoseconds, rounded by the kernel.
fn scale(tick: u64) -> Option<u64> {
    let hz = (1_000_000_000 + tick / 2).checked_div(tick)?;
    (1_u64 << 32).checked_div(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_of_ticks_is_recognised() {
        for hz in [100, 250, 300, 1000, 1024] {
            // TICK_NSEC of include/linux/jiffies.h.
            let tick = (1_000_000_000 + hz / 2) / hz;
            assert_eq!(scale(tick), Some((1 << 32) / hz), "{hz}");
        }
        assert_eq!(scale(0), None);
    }

    #[test]
    fn ticks_of_this_kernel_are_known() {
        let scale = tick_scale().unwrap();
        assert!(((1 << 32) / 1024..=(1 << 32) / 100).contains(&scale), "{scale}");
    }

    #[test]
    fn port_range_is_two_numbers_in_order() {
        assert_eq!(ports("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "1", "2 1", "1 70000", "1 2 3", "a b"] {
            assert_eq!(ports(text), None, "{text}");
        }
    }

    #[test]
    fn program_and_mode_are_read_from_the_link() {
        let generic = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(42)];
        assert_eq!(attached(&generic), Some(Attached { mode: Mode::Generic, program: Some(42) }));
        assert_eq!(attached(&[LinkXdp::Attached(XdpAttached::None)]), None);
        let several = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(1)];
        assert_eq!(attached(&several), Some(Attached { mode: Mode::Several, program: None }));
    }

    #[tokio::test]
    async fn loopback_carries_no_ethernet() {
        let lo = by_name("lo").await.unwrap();
        assert_eq!((lo.name.as_str(), lo.mac, lo.xdp), ("lo", None, None));
        assert_eq!(by_index(lo.index).await.unwrap(), lo);
    }

    #[tokio::test]
    async fn missing_interface_is_named() {
        for name in ["no-such-link", "name-longer-than-sixteen-bytes", ""] {
            let error = by_name(name).await.unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
        assert!(matches!(by_index(0).await, Err(Error::NoSuchIndex(0))));
        assert!(matches!(by_index(u32::MAX >> 1).await, Err(Error::NoSuchIndex(_))));
    }
}

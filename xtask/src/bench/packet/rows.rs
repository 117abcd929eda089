//! What is measured, and what each figure may be.

use lb_bench::Order;
use lb_tests::harness::{Mode, Protocol};

use super::subject;
use crate::bench::{
    driver::Stream,
    frame::{self, Client, Macs, Transport},
};

/// Numbers of flows of the columns.
pub(super) const COLUMNS: [u32; 3] = [1_000, 100_000, 1_000_000];

/// A verdict of an XDP program, `linux/bpf.h`.
pub(super) mod verdict {
    pub(in crate::bench) const PASS: u32 = 2;
    pub(in crate::bench) const TX: u32 = 3;
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// One lookup in the kernel's LRU hash.
    Lookup,
    /// Packets of established flows.
    Established {
        /// How they are forwarded.
        mode: Mode,
        /// TCP or UDP.
        protocol: Protocol,
        /// IPv4, else IPv6.
        v4: bool,
    },
    /// Replies of a `nat` backend, TCP over IPv4.
    Reply,
    /// One insertion into the kernel's LRU hash.
    Insert,
    /// A new flow with each packet, mode `dsr` over IPv4.
    Flood(Transport),
    /// TCP to an address that is no VIP.
    Foreign,
    /// ARP.
    Arp,
}

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// At most this many times the figure of that row in the same column.
    Times(f64, Row),
    /// At most this many nanoseconds.
    Nanoseconds(f64),
}

const fn established(mode: Mode, protocol: Protocol, v4: bool) -> Row {
    Row::Established { mode, protocol, v4 }
}

/// All rows, in the order of the table. Baselines come before what is compared
/// with them.
pub(super) const ROWS: [Row; 20] = [
    Row::Lookup,
    established(Mode::Dsr, Protocol::Tcp, true),
    established(Mode::Nat, Protocol::Tcp, true),
    Row::Reply,
    established(Mode::Dsr, Protocol::Udp, true),
    established(Mode::Nat, Protocol::Udp, true),
    established(Mode::Dsr, Protocol::Tcp, false),
    established(Mode::Nat, Protocol::Tcp, false),
    established(Mode::Dsr, Protocol::Udp, false),
    established(Mode::Nat, Protocol::Udp, false),
    established(Mode::Ipip, Protocol::Tcp, true),
    established(Mode::Ipip, Protocol::Udp, true),
    established(Mode::Ipip, Protocol::Tcp, false),
    established(Mode::Gue, Protocol::Tcp, true),
    Row::Insert,
    Row::Flood(Transport::SYN),
    Row::Flood(Transport::ACK),
    Row::Flood(Transport::Udp),
    Row::Foreign,
    Row::Arp,
];

impl Row {
    /// Whether it is measured once per column, else once.
    pub(super) fn has_columns(self) -> bool {
        matches!(self, Self::Lookup | Self::Established { .. } | Self::Reply)
    }

    /// Whether its packets become longer.
    fn is_tunnel(self) -> bool {
        matches!(self, Self::Established { mode: Mode::Ipip | Mode::Gue, .. })
    }

    /// Whether it is measured without a balancer.
    pub(super) fn is_baseline(self) -> bool {
        matches!(self, Self::Lookup | Self::Insert)
    }

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> String {
        match self {
            Self::Lookup => "kernel LRU lookup".into(),
            Self::Established { mode, protocol, v4 } => {
                format!("{protocol} v{} {mode}", if v4 { 4 } else { 6 })
            }
            Self::Reply => "tcp v4 nat reply".into(),
            Self::Insert => "kernel LRU insert".into(),
            Self::Flood(Transport::SYN) => "SYN flood".into(),
            Self::Flood(Transport::Tcp(_)) => "ACK flood".into(),
            Self::Flood(Transport::Udp) => "UDP flood".into(),
            Self::Foreign => "not ours, tcp".into(),
            Self::Arp => "not ours, arp".into(),
        }
    }

    /// What it is compared with, and the most it may be, if anything.
    pub(super) fn bound(self, flows: Option<u32>) -> Option<Bound> {
        match self {
            Self::Lookup | Self::Insert => None,
            Self::Reply | Self::Established { protocol: Protocol::Tcp, v4: true, .. } => {
                let (warm, cold) = if self.is_tunnel() { (1.4, 0.65) } else { (1.0, 0.55) };
                match flows {
                    Some(1_000) => Some(Bound::Times(warm, Self::Lookup)),
                    Some(1_000_000) => Some(Bound::Times(cold, Self::Lookup)),
                    _ => None,
                }
            }
            Self::Established { mode, v4, .. } => {
                let factor = if v4 || self.is_tunnel() { 1.2 } else { 1.4 };
                Some(Bound::Times(factor, established(mode, Protocol::Tcp, true)))
            }
            Self::Flood(_) => Some(Bound::Times(1.0 / 3.0, Self::Insert)),
            Self::Foreign | Self::Arp => Some(Bound::Nanoseconds(10.0)),
        }
    }

    /// The row whose figure is what its ratio is of.
    pub(super) fn baseline(self) -> Option<Self> {
        match self {
            Self::Established { .. } | Self::Reply => Some(Self::Lookup),
            Self::Flood(_) => Some(Self::Insert),
            _ => None,
        }
    }

    /// The verdict on each of its packets.
    pub(super) fn verdict(self) -> u32 {
        match self {
            Self::Foreign | Self::Arp => verdict::PASS,
            _ => verdict::TX,
        }
    }

    /// Its packets.
    pub(super) fn stream(self, macs: Macs, flows: Option<u32>) -> Stream {
        let (mode, protocol, v4) = match self {
            Self::Established { mode, protocol, v4 } => (mode, protocol, v4),
            Self::Reply => (Mode::Nat, Protocol::Tcp, true),
            Self::Flood(Transport::Udp) => (Mode::Dsr, Protocol::Udp, true),
            _ => (Mode::Dsr, Protocol::Tcp, true),
        };
        let transport = match self {
            Self::Flood(transport) => transport,
            _ if protocol == Protocol::Udp => Transport::Udp,
            _ => Transport::DATA,
        };
        let (port, backend_port) = subject::ports(mode, protocol);
        let (client, other, other_port) = match self {
            Self::Reply => (Client::Destination, subject::backend(true, 1), backend_port),
            Self::Foreign => (Client::Source, [198, 51, 100, 1].into(), port),
            _ => (Client::Source, subject::vip(v4, mode), port),
        };
        let network = subject::CLIENTS_V6.parse().expect("a constant address");
        let fresh = matches!(self, Self::Flood(_) | Self::Insert);
        let template = if self == Self::Arp {
            frame::arp(macs, [10, 1, 0, 2].into(), [10, 1, 0, 1].into())
        } else {
            frame::template(macs, client, network, (other, other_port), transport)
        };
        Stream {
            driver: match self {
                Self::Arp => "same",
                Self::Reply => "tcp_v4_reply",
                _ if self.is_tunnel() => match (protocol, v4) {
                    (Protocol::Tcp, true) => "tcp_v4_short",
                    (Protocol::Udp, _) => "udp_v4_short",
                    (Protocol::Tcp, false) => "tcp_v6_short",
                },
                _ => match (protocol, v4) {
                    (Protocol::Tcp, true) => "tcp_v4",
                    (Protocol::Udp, true) => "udp_v4",
                    (Protocol::Tcp, false) => "tcp_v6",
                    (Protocol::Udp, false) => "udp_v6",
                },
            },
            template,
            order: if fresh { Order::Fresh } else { Order::Walk },
            flows: flows.unwrap_or(1_000),
            first_address: match (fresh, v4) {
                // 64.0.0.0/3, the driver adds 29 bits.
                (true, _) => 64 << 24,
                (false, true) => subject::CLIENTS_V4,
                (false, false) => 0x100,
            },
            other_port,
        }
    }
}

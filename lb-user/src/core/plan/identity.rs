//! Who is who: what makes a service or a backend the same one from one
//! generation, agent and balancer to the next. It can be read back from the
//! maps, so ids need no file.

use std::ops::RangeInclusive;

use lb_common::{
    addr::{self, AddrBytes},
    backend::{Backend, flags},
    hash,
    service::Service,
};

use crate::core::model::{self, Mode};

/// A service: address, ports, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceIdentity {
    /// The VIP.
    pub vip: AddrBytes,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// IP protocol number.
    pub proto: u8,
}

impl ServiceIdentity {
    /// Of a configured service.
    #[must_use]
    pub fn of(service: &model::Service) -> Self {
        Self {
            vip: addr::to_bytes(service.vip),
            first: *service.ports.start(),
            last: *service.ports.end(),
            proto: service.protocol.number(),
        }
    }

    /// Of an entry of `SERVICES`.
    #[must_use]
    pub fn read(entry: &Service) -> Self {
        Self {
            vip: entry.vip,
            first: u16::from_be(entry.port_first),
            last: u16::from_be(entry.port_last),
            proto: entry.proto,
        }
    }

    /// What names it in hashed affinity keys.
    #[must_use]
    pub fn salt(&self) -> u64 {
        hash::service_salt(self.vip, self.proto, self.first, self.last)
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// The port, where there is just one.
    #[must_use]
    pub fn single_port(&self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether keys of its flows are [`lb_common::hash::flow_key_v4`], which have
    /// room for an IPv4 address and one port; else they are hashes.
    #[must_use]
    pub fn has_exact_keys(&self) -> bool {
        addr::from_bytes(self.vip).is_ipv4() && self.single_port().is_some()
    }
}

/// A backend of a service: address, port, and how packets reach it (flows do not
/// survive a change of mode, so it makes another backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendIdentity {
    /// Whose backend.
    pub service: ServiceIdentity,
    /// Its address.
    pub addr: AddrBytes,
    /// Port rewritten to; 0 where it stays.
    pub port: u16,
    /// How packets reach it.
    pub mode: Mode,
}

impl BackendIdentity {
    /// Of a configured backend.
    #[must_use]
    pub fn of(service: &model::Service, backend: &model::Backend) -> Self {
        let mode = service.mode;
        let nat = mode.is_nat();
        let port = backend.port.filter(|&port| nat && service.single_port() != Some(port));
        Self {
            service: ServiceIdentity::of(service),
            addr: addr::to_bytes(backend.address),
            port: port.unwrap_or(0),
            mode,
        }
    }

    /// Of an entry of `BACKENDS` that belongs to `service`.
    #[must_use]
    pub fn read(entry: &Backend, service: ServiceIdentity) -> Self {
        Self { service, addr: entry.addr, port: u16::from_be(entry.port), mode: mode_of(entry) }
    }

    /// The port that packets arrive at; `None`: any of the service's.
    #[must_use]
    pub fn effective_port(&self) -> Option<u16> {
        self.service.single_port().map(|port| if self.port == 0 { port } else { self.port })
    }

    /// As bytes that order and hash the same on every machine.
    #[must_use]
    pub fn bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.service.vip);
        bytes[16..18].copy_from_slice(&self.service.first.to_be_bytes());
        bytes[18..20].copy_from_slice(&self.service.last.to_be_bytes());
        bytes[20] = self.service.proto;
        bytes[21..37].copy_from_slice(&self.addr);
        bytes[37..39].copy_from_slice(&self.port.to_be_bytes());
        bytes[39] = number_of(self.mode);
        bytes
    }

    /// Of what [`Self::bytes`] gave; `None`: it never gives that.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 40]) -> Option<Self> {
        let part = |from: usize| std::array::from_fn(|i| bytes[from + i]);
        let number = |from: usize| u16::from_be_bytes([bytes[from], bytes[from + 1]]);
        let service =
            ServiceIdentity { vip: part(0), first: number(16), last: number(18), proto: bytes[20] };
        let mode = Mode::ALL.into_iter().find(|mode| number_of(*mode) == bytes[39])?;
        Some(Self { service, addr: part(21), port: number(37), mode })
    }
}

/// The mode of an entry of `BACKENDS`.
#[must_use]
pub fn mode_of(entry: &Backend) -> Mode {
    match entry.flags & (flags::NAT | flags::FULLNAT | flags::TUNNEL) {
        flags::NAT => Mode::Nat,
        flags::FULLNAT => Mode::FullNat,
        flags::IPIP => Mode::Ipip,
        flags::GUE => Mode::Gue,
        _ => Mode::Dsr,
    }
}

/// Stands for a mode in what is hashed and told to a peer.
fn number_of(mode: Mode) -> u8 {
    match mode {
        Mode::Dsr => 0,
        Mode::Nat => 1,
        Mode::Ipip => 2,
        Mode::Gue => 3,
        Mode::FullNat => 4,
    }
}

//! Rules between services. They hold for services of a file and for models
//! alike, so that an edit of one service need not read all others again.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::IpAddr,
    ops::RangeInclusive,
};

use ipnet::IpNet;
use lb_common::{
    limits::{BACKENDS, SERVICES},
    service::RANGES,
};

use super::{
    Report,
    service::{is_range, unicast},
};
use crate::{
    config::{
        file,
        read::{Place, Wrong},
    },
    core::model::{self, Affinity, Mode, Protocol},
};

/// What these rules look at; `None`: wrong by itself.
pub(super) trait Claims {
    fn name(&self) -> Option<&str>;
    fn vip(&self) -> Option<IpAddr>;
    fn protocol(&self) -> Option<Protocol>;
    fn ports(&self) -> Option<&RangeInclusive<u16>>;
    fn mode(&self) -> Option<Mode>;
    /// Addresses of the backends, in their order.
    fn addresses(&self) -> impl ExactSizeIterator<Item = Option<IpAddr>>;
    fn affinity(&self) -> Option<Affinity>;
    /// Ports of the backends, in their order, as they are written.
    fn backend_ports(&self) -> impl Iterator<Item = Option<Option<u16>>>;
    /// Where it stands; asked for mistakes only.
    fn place(&self, part: Part) -> Place;
}

/// A part of a service that a mistake can be about.
pub(super) enum Part {
    Whole,
    Name,
    Vip,
    Ports,
    Backend(usize),
    Address(usize),
}

/// `sources`: `node.tunnel_sources`.
pub(super) fn check<S: Claims>(services: &[S], sources: &[IpNet], report: &mut Report<'_>) {
    names(services, report);
    endpoints(services, report);
    backends(services, report);
    tunnels(services, sources, report);
    untracked(services, report);
    limits(services, report);
}

fn names<S: Claims>(services: &[S], report: &mut Report<'_>) {
    let mut names = HashMap::new();
    for service in services {
        let Some(name) = service.name() else { continue };
        match names.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(service);
            }
            Entry::Occupied(first) => {
                let hint = format!("{} is the same", first.get().place(Part::Name));
                let wrong = Wrong::new("must be unique among services").hint(hint);
                report.add(&service.place(Part::Name), wrong);
            }
        }
    }
}

fn endpoints<S: Claims>(services: &[S], report: &mut Report<'_>) {
    // By VIP, then protocol: the services and their ports, in their order.
    let mut vips: BTreeMap<IpAddr, BTreeMap<Protocol, Vec<_>>> = BTreeMap::new();
    for service in services {
        if let (Some(vip), Some(protocol), Some(ports)) =
            (service.vip(), service.protocol(), service.ports())
        {
            let (first, last) = (*ports.start(), *ports.end());
            let claims = vips.entry(vip).or_default().entry(protocol).or_default();
            claims.push((first, last, service));
        }
    }
    for protocols in vips.values() {
        protocols.values().for_each(|claims| distinct(claims, report));
        let claims = protocols.values().flatten();
        let mut ranges = claims.filter(|(first, last, _)| is_range(&(*first..=*last)));
        if let Some((_, _, service)) = ranges.nth(RANGES) {
            let rule = format!("must be {RANGES} services with a range of ports per VIP at most");
            report.add(&service.place(Part::Ports), Wrong::new(rule));
        }
    }
}

/// An exact port wins over a range around it; otherwise ports are for one
/// service only.
fn distinct<S: Claims>(claims: &[(u16, u16, &S)], report: &mut Report<'_>) {
    let mut singles: HashMap<u16, &S> = HashMap::new();
    let mut ranges: Vec<(u16, u16, &S)> = Vec::new();
    for &(first, last, service) in claims {
        let taken = if first == last {
            singles.get(&first).copied()
        } else {
            let overlap = |other: &&(u16, u16, &S)| first <= other.1 && other.0 <= last;
            ranges.iter().find(overlap).map(|other| other.2)
        };
        if let Some(other) = taken {
            let rule = "must not be taken by another service of this VIP and protocol";
            let hint = format!("see {}", other.place(Part::Ports));
            report.add(&service.place(Part::Ports), Wrong::new(rule).hint(hint));
        } else if first == last {
            singles.insert(first, service);
        } else {
            ranges.push((first, last, service));
        }
    }
}

/// No backend is a VIP. Addresses that no host can have are wrong already.
fn backends<S: Claims>(services: &[S], report: &mut Report<'_>) {
    let vips = services.iter().rev().filter_map(|service| Some((service.vip()?, service)));
    // Of several services with one VIP the first stands for all: it comes last.
    let vips: HashMap<IpAddr, &S> = vips.filter(|(vip, _)| unicast(*vip).is_ok()).collect();
    for service in services {
        for (index, address) in service.addresses().enumerate() {
            if let Some(other) = address.and_then(|address| vips.get(&address)) {
                let hint = format!("{} is this address", other.place(Part::Vip));
                let wrong = Wrong::new("must not be a VIP").hint(hint);
                report.add(&service.place(Part::Address(index)), wrong);
            }
        }
    }
}

/// What wraps packets has an address to send from.
fn tunnels<S: Claims>(services: &[S], sources: &[IpNet], report: &mut Report<'_>) {
    let has_source =
        |address: IpAddr| sources.iter().any(|source| source.addr().is_ipv4() == address.is_ipv4());
    for service in services.iter().filter(|service| service.mode().is_some_and(Mode::is_tunnel)) {
        for (index, address) in service.addresses().enumerate() {
            if let Some(address) = address.filter(|address| !has_source(*address)) {
                let (family, example) = if address.is_ipv4() {
                    ("IPv4", "10.255.0.0/24")
                } else {
                    ("IPv6", "fd00:ff::/64")
                };
                let rule = format!("needs an {family} prefix in `node.tunnel_sources`");
                let hint = format!(
                    "such as \"{example}\": addresses that nobody has, which packets to backends \
                     come from in modes \"ipip\" and \"gue\""
                );
                report.add(&service.place(Part::Address(index)), Wrong::new(rule).hint(hint));
            }
        }
    }
}

/// Which of several services an answer belongs to is noted by flow, so a service
/// that notes none has its backends' ports for itself.
fn untracked<S: Claims>(services: &[S], report: &mut Report<'_>) {
    let notes_none = |service: &&S| {
        service.affinity() == Some(Affinity::None) && service.mode() == Some(Mode::Nat)
    };
    if !services.iter().any(|service| notes_none(&service)) {
        return;
    }
    let mut places: HashMap<(IpAddr, Option<Protocol>), Vec<_>> = HashMap::new();
    for service in services.iter().filter(|service| service.mode() == Some(Mode::Nat)) {
        for (index, place) in destinations(service).enumerate() {
            let Some((address, port)) = place else { continue };
            let at = places.entry((address, service.protocol())).or_default();
            at.push((port, service, index));
        }
    }
    for service in services.iter().filter(notes_none) {
        for (index, place) in destinations(service).enumerate() {
            let Some((address, port)) = place else { continue };
            let mut others = places[&(address, service.protocol())].iter();
            let same = |other: &&(Option<u16>, &S, usize)| {
                !std::ptr::eq(other.1, service)
                    && (port.is_none() || other.0.is_none() || port == other.0)
            };
            if let Some((_, other, at)) = others.find(same) {
                let rule = "must not share its port with another service where `affinity` is \
                            \"none\" and `mode` is \"nat\"";
                let hint = format!(
                    "see {}: which service an answer belongs to is noted by flow; use another \
                     port or address",
                    other.place(Part::Address(*at))
                );
                report.add(&service.place(Part::Address(index)), Wrong::new(rule).hint(hint));
            }
        }
    }
}

/// Address and port that packets arrive at, of each backend; no port: any.
fn destinations<S: Claims>(
    service: &S,
) -> impl Iterator<Item = Option<(IpAddr, Option<u16>)>> + '_ {
    let single = service.ports().filter(|ports| !is_range(ports)).map(|ports| *ports.start());
    let known = service.ports().is_some();
    service.addresses().zip(service.backend_ports()).map(move |(address, port)| {
        let port = single.map(|single| port.map(|port| port.unwrap_or(single)));
        known.then_some((address?, port.map_or(Some(None), |port| port.map(Some))?))
    })
}

/// What the maps have room for; id 0 is nobody.
fn limits<S: Claims>(services: &[S], report: &mut Report<'_>) {
    if let Some(service) = services.get(SERVICES as usize - 1) {
        let rule = format!("must be {} services at most", SERVICES - 1);
        report.add(&service.place(Part::Whole), Wrong::new(rule));
    }
    let mut left = BACKENDS as usize - 1;
    for service in services {
        match left.checked_sub(service.addresses().len()) {
            Some(rest) => left = rest,
            None => {
                let rule = format!("must be {} backends at most in all services", BACKENDS - 1);
                report.add(&service.place(Part::Backend(left)), Wrong::new(rule));
                return;
            }
        }
    }
}

impl Claims for file::Service {
    fn name(&self) -> Option<&str> {
        self.name.as_ref().map(|name| name.value.as_str())
    }

    fn vip(&self) -> Option<IpAddr> {
        self.vip.as_ref().map(|vip| vip.value)
    }

    fn protocol(&self) -> Option<Protocol> {
        self.protocol.as_ref().map(|protocol| protocol.value)
    }

    fn ports(&self) -> Option<&RangeInclusive<u16>> {
        self.ports.as_ref().map(|ports| &ports.value)
    }

    fn mode(&self) -> Option<Mode> {
        self.mode.as_ref().map(|mode| mode.value)
    }

    fn addresses(&self) -> impl ExactSizeIterator<Item = Option<IpAddr>> {
        self.backends.iter().map(|backend| Some(backend.address.as_ref()?.value))
    }

    fn affinity(&self) -> Option<Affinity> {
        self.affinity.as_ref().map(|affinity| affinity.value)
    }

    fn backend_ports(&self) -> impl Iterator<Item = Option<Option<u16>>> {
        self.backends.iter().map(|backend| Some(backend.port.as_ref()?.value))
    }

    fn place(&self, part: Part) -> Place {
        let place = match part {
            Part::Whole => None,
            Part::Name => self.name.as_ref().map(|name| &name.place),
            Part::Vip => self.vip.as_ref().map(|vip| &vip.place),
            Part::Ports => self.ports.as_ref().map(|ports| &ports.place),
            Part::Backend(index) => Some(&self.backends[index].place),
            Part::Address(index) => {
                self.backends[index].address.as_ref().map(|address| &address.place)
            }
        };
        place.unwrap_or(&self.place).clone()
    }
}

impl Claims for model::Service {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn vip(&self) -> Option<IpAddr> {
        Some(self.vip)
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(self.protocol)
    }

    fn ports(&self) -> Option<&RangeInclusive<u16>> {
        Some(&self.ports)
    }

    fn mode(&self) -> Option<Mode> {
        Some(self.mode)
    }

    fn addresses(&self) -> impl ExactSizeIterator<Item = Option<IpAddr>> {
        self.backends.iter().map(|backend| Some(backend.address))
    }

    fn affinity(&self) -> Option<Affinity> {
        Some(self.affinity)
    }

    fn backend_ports(&self) -> impl Iterator<Item = Option<Option<u16>>> {
        self.backends.iter().map(|backend| Some(backend.port))
    }

    fn place(&self, part: Part) -> Place {
        let part = match part {
            Part::Whole => String::new(),
            Part::Name => ".name".to_owned(),
            Part::Vip => ".vip".to_owned(),
            Part::Ports => ".port".to_owned(),
            Part::Backend(index) => format!(".backend.{}", self.backends[index].name),
            Part::Address(index) => format!(".backend.{}.address", self.backends[index].name),
        };
        Place { line: None, path: format!("service.{}{part}", self.name), written: None }
    }
}

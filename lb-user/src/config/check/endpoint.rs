//! Which packets a service answers: its VIP, protocol and ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
};

use lb_common::service::RANGES;

use super::Report;
use crate::{
    config::{
        file::Service,
        read::{Located, Place, Wrong},
    },
    core::model::Protocol,
};

/// The ports of a service, and where they are written.
type Ports = Located<RangeInclusive<u16>>;

pub(super) fn check(services: &[Service], report: &mut Report<'_>) {
    let names = services.iter().filter_map(|service| service.name.as_ref());
    report.duplicates(names, "must be unique among services");
    // By VIP, then protocol: the ports of each service, in the file's order.
    let mut vips: BTreeMap<IpAddr, BTreeMap<Protocol, Vec<&Ports>>> = BTreeMap::new();
    for service in services {
        let Some(vip) = &service.vip else { continue };
        if let Err(wrong) = unicast(vip.value) {
            report.add(&vip.place, wrong);
        }
        if let (Some(protocol), Some(ports)) = (&service.protocol, &service.ports) {
            vips.entry(vip.value).or_default().entry(protocol.value).or_default().push(ports);
        }
    }
    for protocols in vips.values() {
        protocols.values().for_each(|ports| distinct(ports, report));
        let mut ranges = protocols.values().flatten().filter(|ports| is_range(&ports.value));
        if let Some(ports) = ranges.nth(RANGES) {
            let rule = format!("must be {RANGES} services with a range of ports per VIP at most");
            report.add(&ports.place, Wrong::new(rule));
        }
    }
}

/// Whether a service has more than one port.
pub(super) fn is_range(ports: &RangeInclusive<u16>) -> bool {
    ports.start() != ports.end()
}

/// An exact port wins over a range around it; otherwise ports are for one
/// service only.
fn distinct(services: &[&Ports], report: &mut Report<'_>) {
    let mut singles: HashMap<u16, &Place> = HashMap::new();
    let mut ranges: Vec<&Ports> = Vec::new();
    for ports in services {
        let (first, last) = (*ports.value.start(), *ports.value.end());
        let taken = if first == last {
            singles.get(&first).copied()
        } else {
            let overlap =
                |other: &&&Ports| first <= *other.value.end() && *other.value.start() <= last;
            ranges.iter().find(overlap).map(|other| &other.place)
        };
        if let Some(Place { line, path, .. }) = taken {
            let rule = "must not be taken by another service of this VIP and protocol";
            report.add(&ports.place, Wrong::new(rule).hint(format!("see `{path}` in line {line}")));
        } else if first == last {
            singles.insert(first, &ports.place);
        } else {
            ranges.push(ports);
        }
    }
}

/// Refuses what cannot be the address of one host that clients reach.
pub(super) fn unicast(address: IpAddr) -> Result<(), Wrong> {
    let kind = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else if is_reserved(address) {
        "a reserved address"
    } else if is_link_local(address) {
        "a link-local address"
    } else {
        return Ok(());
    };
    Err(Wrong::new("must be a unicast address that is routed").hint(format!("this is {kind}")))
}

/// Networks 0.0.0.0/8 and 240.0.0.0/4 (RFC 6890, section 2.2.2).
fn is_reserved(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

//! Where a service's packets go, and that replies find their way back.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive};

use super::{
    Report,
    endpoint::{is_range, unicast},
};
use crate::{
    config::{
        file::{Backend, Service},
        read::{Located, Place, Wrong},
    },
    core::model::{self, Mode, Protocol},
};

pub(super) fn check(services: &[Service], report: &mut Report<'_>) {
    let vips = services.iter().rev().filter_map(|service| service.vip.as_ref());
    // Of several services with one VIP the first stands for all: it comes last.
    let vips: HashMap<IpAddr, &Place> = vips.map(|vip| (vip.value, &vip.place)).collect();
    for service in services {
        let names = service.backends.iter().filter_map(|backend| backend.name.as_ref());
        report.duplicates(names, "must be unique in its service");
        for backend in &service.backends {
            address(service, backend, &vips, report);
            port(service, backend, report);
        }
        destinations(service, report);
    }
    replies(services, report);
}

/// The rules about one backend's address.
fn address(
    service: &Service,
    backend: &Backend,
    vips: &HashMap<IpAddr, &Place>,
    report: &mut Report<'_>,
) {
    let Some(Located { place, value: address }) = &backend.address else { return };
    if let Err(wrong) = unicast(*address) {
        report.add(place, wrong);
    } else if let Some(Place { line, path, .. }) = vips.get(address) {
        let hint = format!("`{path}` in line {line} is this address");
        report.add(place, Wrong::new("must not be a VIP").hint(hint));
    } else if let Some(vip) = &service.vip
        && vip.value.is_ipv4() != address.is_ipv4()
    {
        let family = if vip.value.is_ipv4() { "IPv4" } else { "IPv6" };
        let rule = format!("must be an {family} address, as the VIP is");
        report.add(place, Wrong::new(rule));
    }
}

/// Whether this mode and these ports leave a backend's port a choice.
fn port(service: &Service, backend: &Backend, report: &mut Report<'_>) {
    let (Some(mode), Some(ports), Some(Located { place, value: Some(port) })) =
        (&service.mode, &service.ports, &backend.port)
    else {
        return;
    };
    let wrong = match (mode.value, is_range(&ports.value)) {
        (Mode::Nat, false) => return,
        (Mode::Dsr, false) if port == ports.value.start() => return,
        (Mode::Dsr, _) => Wrong::new("must be left out in mode \"dsr\"")
            .hint("the packet's port is not rewritten"),
        (Mode::Nat, true) => Wrong::new("must be left out where the service has several ports")
            .hint("replies from one port could not be told apart; packets keep their port"),
    };
    report.add(place, wrong);
}

/// No two backends of a service are the same address and port.
fn destinations(service: &Service, report: &mut Report<'_>) {
    let Some(ports) = &service.ports else { return };
    let mut destinations = HashMap::new();
    for backend in &service.backends {
        let (Some(address), Some(port)) = (&backend.address, &backend.port) else { continue };
        let destination = (address.value, changed_port(port.value, &ports.value));
        if let Some(earlier) = destinations.insert(destination, &address.place) {
            let hint = format!("`{}` in line {} is the same", earlier.path, earlier.line);
            let rule = "must differ from other backends of the service in address or port";
            report.add(&address.place, Wrong::new(rule).hint(hint));
        }
    }
}

/// The port packets are rewritten to; `None` where they keep theirs.
fn changed_port(port: Option<u16>, ports: &RangeInclusive<u16>) -> Option<u16> {
    port.filter(|port| is_range(ports) || port != ports.start())
}

/// Replies in mode `nat` are told apart by the backend's address, port and
/// protocol; where two services share all three, by an exact entry for each
/// flow. A service with several ports has no such entries, so it does not
/// share a backend's address with another service of mode `nat`.
fn replies(services: &[Service], report: &mut Report<'_>) {
    let mut users: HashMap<(Protocol, IpAddr), Users<'_>> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let (Some(protocol), Some(ports)) = (&service.protocol, &service.ports) else { continue };
        if service.mode.as_ref().is_none_or(|mode| mode.value != Mode::Nat) {
            continue;
        }
        let ranged = is_range(&ports.value);
        for address in service.backends.iter().filter_map(|backend| backend.address.as_ref()) {
            let users = users.entry((protocol.value, address.value)).or_default();
            let other = if ranged { users.first } else { users.first_ranged };
            if let Some((_, Place { line, path, .. })) = other.filter(|other| other.0 != index) {
                let rule = "must not be a backend of two services in mode \"nat\" of which one \
                            has several ports";
                let hint = format!(
                    "replies could not be told apart from those of `{path}` in line {line}: \
                     give the server a second address, or use mode \"dsr\""
                );
                report.add(&address.place, Wrong::new(rule).hint(hint));
            }
            users.first = users.first.or(Some((index, &address.place)));
            if ranged {
                users.first_ranged = users.first_ranged.or(Some((index, &address.place)));
            }
        }
    }
}

/// Who uses an address as a backend in mode `nat`: the index of a service, and where.
#[derive(Default)]
struct Users<'f> {
    first: Option<(usize, &'f Place)>,
    first_ranged: Option<(usize, &'f Place)>,
}

pub(super) fn model(backend: Backend, ports: &RangeInclusive<u16>) -> Option<model::Backend> {
    Some(model::Backend {
        name: backend.name?.value,
        address: backend.address?.value,
        port: changed_port(backend.port?.value, ports),
        weight: backend.weight?.value,
    })
}

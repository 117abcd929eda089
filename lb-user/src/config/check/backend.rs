//! Where a service's packets go.

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
    core::model::{self, Mode},
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

pub(super) fn model(backend: Backend, ports: &RangeInclusive<u16>) -> Option<model::Backend> {
    Some(model::Backend {
        name: backend.name?.value,
        address: backend.address?.value,
        port: changed_port(backend.port?.value, ports),
        weight: backend.weight?.value,
        zone: None,
        group: backend.group?.value,
        backup: false,
    })
}

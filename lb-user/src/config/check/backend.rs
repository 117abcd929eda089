//! Where a service's packets go.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive};

use super::{
    Report,
    service::{is_range, unicast},
};
use crate::{
    config::{
        file::{Backend, Service},
        read::{Located, Wrong},
        render,
    },
    core::model::{self, Mode},
};

pub(super) fn check(service: &Service, report: &mut Report<'_>) {
    let names = service.backends.iter().filter_map(|backend| backend.name.as_ref());
    report.duplicates(names, "must be unique in its service");
    for backend in &service.backends {
        if let Some(Located { place, value: address }) = &backend.address
            && let Err(wrong) = unicast(*address).and_then(|()| family(service, *address))
        {
            report.add(place, wrong);
        }
        port(service, backend, report);
    }
    destinations(service, report);
}

/// Whether packets go to backends in others.
fn wraps(service: &Service) -> bool {
    service.mode.as_ref().is_some_and(|mode| mode.value.is_tunnel())
}

/// Whether an address is of the VIP's family, if it has to be.
pub(super) fn family(service: &Service, address: IpAddr) -> Result<(), Wrong> {
    match &service.vip {
        Some(vip) if vip.value.is_ipv4() != address.is_ipv4() && !wraps(service) => {
            let family = if vip.value.is_ipv4() { "IPv4" } else { "IPv6" };
            Err(Wrong::new(format!("must be an {family} address, as the VIP is")))
        }
        _ => Ok(()),
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
        (Mode::Nat | Mode::FullNat, false) => return,
        (Mode::Dsr | Mode::Ipip | Mode::Gue, false) if port == ports.value.start() => return,
        (mode @ (Mode::Dsr | Mode::Ipip | Mode::Gue), _) => {
            Wrong::new(format!("must be left out in mode \"{}\"", render::mode(mode)))
                .hint("the packet's port is not rewritten")
        }
        (Mode::Nat | Mode::FullNat, true) => {
            Wrong::new("must be left out where the service has several ports")
                .hint("packets keep their port")
        }
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
            let hint = format!("{earlier} is the same");
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
        zone: backend.zone?.value,
        group: backend.group?.value,
        backup: backend.backup?.value,
        server_ids: backend.server_ids?.value.into_iter().map(|id| id.value).collect(),
    })
}

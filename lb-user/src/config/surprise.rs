//! What is legal in a configuration and yet may not be what was meant.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::model::{Firewall, Model, Service};

/// Says what may surprise whoever wrote this, one sentence each.
#[must_use]
pub fn surprises(model: &Model) -> Vec<String> {
    let mut surprises = Vec::new();
    if model.services.is_empty() {
        surprises.push("no service: nothing is balanced".to_owned());
    }
    for service in &model.services {
        surprises.extend(no_backend_takes_flows(service));
        surprises.extend(replies_denied(service, &model.firewall));
    }
    surprises.extend(firewall(&model.firewall));
    surprises
}

fn no_backend_takes_flows(service: &Service) -> Option<String> {
    let name = &service.name;
    if service.backends.is_empty() {
        return Some(format!("service `{name}`: no backend: its packets are dropped"));
    }
    let drained = service.backends.iter().all(|backend| backend.weight == 0);
    drained.then(|| format!("service `{name}`: every weight is 0: new flows are dropped"))
}

/// Packets from a denied source are dropped, a backend's replies as well.
fn replies_denied<'m>(
    service: &'m Service,
    firewall: &'m Firewall,
) -> impl Iterator<Item = String> + 'm {
    service.backends.iter().filter_map(|backend| {
        let net = denying(firewall, backend.address)?;
        let (service, backend) = (&service.name, &backend.name);
        Some(format!(
            "service `{service}`: backend `{backend}` is within `{net}` of `firewall.deny_sources`: \
             what it sends through this host is dropped"
        ))
    })
}

fn denying(firewall: &Firewall, address: IpAddr) -> Option<&IpNet> {
    firewall.deny_sources.iter().find(|net| net.contains(&address))
}

fn firewall(firewall: &Firewall) -> impl Iterator<Item = String> + '_ {
    let closed = (firewall.guard_host && firewall.allow.is_empty()).then(|| {
        "`firewall.host` is \"drop\" and `firewall.allow` is empty: nobody can log in to this host"
            .to_owned()
    });
    let everybody = firewall.deny_sources.iter().filter(|net| net.prefix_len() == 0);
    let everybody = everybody.map(|net| {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        format!("`firewall.deny_sources` has `{net}`: every {family} client is dropped")
    });
    closed.into_iter().chain(everybody)
}

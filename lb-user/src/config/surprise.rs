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
            "service `{service}`: backend `{backend}` is within `{net}` of \
             `firewall.deny_sources`: what it sends through this host is dropped"
        ))
    })
}

fn denying(firewall: &Firewall, address: IpAddr) -> Option<&IpNet> {
    firewall.deny_sources.iter().find(|net| net.contains(&address))
}

fn firewall(firewall: &Firewall) -> impl Iterator<Item = String> + '_ {
    let closed = (firewall.guard_host && firewall.allow.is_empty()).then(|| {
        "`firewall.host` is \"drop\" and `firewall.allow` is empty: no port of this host is open"
            .to_owned()
    });
    let everybody = firewall.deny_sources.iter().filter(|net| net.prefix_len() == 0);
    let everybody = everybody.map(|net| {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        format!("`firewall.deny_sources` has `{net}`: every {family} client is dropped")
    });
    closed.into_iter().chain(everybody)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, parse};

    fn surprises_of(text: &str) -> Vec<String> {
        let interfaces = ["eth0".to_owned()];
        let surroundings = Surroundings { host_name: "host", interfaces: &interfaces };
        surprises(&parse(text, surroundings).expect("no mistake"))
    }

    const SERVICE: &str = "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n";
    const BACKEND: &str = "[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n";

    #[test]
    fn ordinary_configuration_surprises_nobody() {
        assert_eq!(surprises_of(&format!("{SERVICE}{BACKEND}")), [""; 0]);
    }

    #[test]
    fn services_that_serve_nobody_are_told() {
        assert_eq!(surprises_of(""), ["no service: nothing is balanced"]);
        assert_eq!(surprises_of(SERVICE), ["service `web`: no backend: its packets are dropped"]);
        assert_eq!(
            surprises_of(&format!("{SERVICE}{BACKEND}weight = 0\n")),
            ["service `web`: every weight is 0: new flows are dropped"]
        );
    }

    #[test]
    fn firewalls_that_shut_too_much_are_told() {
        let firewall = "[firewall]\nhost = \"drop\"\ndeny_sources = [\"10.0.0.0/8\", \"::/0\"]\n";
        assert_eq!(
            surprises_of(&format!("{firewall}{SERVICE}{BACKEND}")),
            [
                "service `web`: backend `b` is within `10.0.0.0/8` of \
                 `firewall.deny_sources`: what it sends through this host is dropped",
                "`firewall.host` is \"drop\" and `firewall.allow` is empty: no port of this host is \
                 open",
                "`firewall.deny_sources` has `::/0`: every IPv6 client is dropped",
            ]
        );
    }
}

//! Rules between values: what the mirror holds must make sense together.
//!
//! A rule looks only at values that were read (see [`super::read`]), so one
//! mistake is reported once. The model comes out only if no rule was broken,
//! by this module or the reader before it.

mod backend;
mod endpoint;

use std::{collections::HashMap, hash::Hash, time::Duration};

use lb_common::{
    flow::Timeouts,
    limits::{BACKENDS, DENY_PREFIXES, PORTS, SERVICES},
};

use super::{
    Surroundings, file,
    mistake::Mistake,
    read::{Located, Place, Wrong},
};
use crate::core::model::{Admin, Firewall, Model, Node, Policy, Service, health::Health};

/// Seconds a flow is kept after its first packet, unless `affinity_timeout`
/// is shorter: as conntrack and IPVS keep what was never answered.
const EMBRYONIC_TIMEOUT: u16 = 60;

/// Seconds a flow is kept after its last packet once FIN or RST was seen,
/// unless `affinity_timeout` is shorter: time for the other side to close.
const CLOSING_TIMEOUT: u16 = 30;

/// Where mistakes are collected.
#[derive(Debug)]
struct Report<'m>(&'m mut Vec<Mistake>);

impl Report<'_> {
    fn add(&mut self, place: &Place, wrong: Wrong) {
        self.0.push(place.mistake(wrong));
    }

    /// Reports every value that an earlier one equals.
    fn duplicates<'v, T: Eq + Hash + 'v>(
        &mut self,
        values: impl IntoIterator<Item = &'v Located<T>>,
        rule: &str,
    ) {
        let mut first: HashMap<&T, &Place> = HashMap::new();
        for Located { place, value } in values {
            if let Some(Place { line, path, .. }) = first.get(value) {
                let hint = format!("`{path}` in line {line} is the same");
                self.add(place, Wrong::new(rule).hint(hint));
            } else {
                first.insert(value, place);
            }
        }
    }
}

/// Checks a mirror and makes the model of it; adds to `mistakes`. The result
/// is to be used only if `mistakes` is empty.
#[must_use]
pub fn check(
    file: file::File,
    surroundings: Surroundings<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Model> {
    let report = &mut Report(mistakes);
    endpoint::check(&file.services, report);
    backend::check(&file.services, report);
    limits(&file.services, report);
    let node = node(file.node, surroundings, report);
    let firewall = firewall(file.firewall, report);
    let services = file.services.into_iter().map(service).collect::<Option<_>>();
    Some(Model {
        node: node?,
        admin: Admin { socket: file::SOCKET.into() },
        firewall: firewall?,
        services: services?,
    })
}

fn node(node: file::Node, surroundings: Surroundings<'_>, report: &mut Report<'_>) -> Option<Node> {
    let interfaces = interfaces(node.interfaces?, surroundings.interfaces, report);
    Some(Node {
        name: node.name?.value.unwrap_or_else(|| surroundings.host_name.to_owned()),
        interfaces,
        xdp_mode: node.xdp_mode?.value,
        flows: node.flows?.value,
        hash_seed: node.hash_seed?.value,
        pin_dir: node.pin_dir?.value,
        state_dir: file::STATE_DIR.into(),
        zone: None,
    })
}

fn interfaces(
    listed: Located<Vec<Located<String>>>,
    instead: &[String],
    report: &mut Report<'_>,
) -> Vec<String> {
    report.duplicates(&listed.value, "must be listed once");
    if !instead.is_empty() {
        let mut named: Vec<String> = Vec::new();
        for name in instead {
            if !named.contains(name) {
                named.push(name.clone());
            }
        }
        return named;
    }
    if listed.value.is_empty() {
        report.add(
            &listed.place,
            Wrong::new("must name at least one interface")
                .hint("such as `interfaces = [\"eth0\"]`, or `--interface eth0`"),
        );
    } else if listed.value.len() > PORTS as usize {
        report.add(&listed.place, Wrong::new(format!("must be {PORTS} interfaces at most")));
    }
    listed.value.into_iter().map(|name| name.value).collect()
}

fn firewall(firewall: file::Firewall, report: &mut Report<'_>) -> Option<Firewall> {
    let deny_sources = firewall.deny_sources?;
    for v4 in [true, false] {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let is_family = |net: &&Located<ipnet::IpNet>| net.value.addr().is_ipv4() == v4;
        if deny_sources.value.iter().filter(is_family).count() > DENY_PREFIXES as usize {
            let rule = format!("must be {DENY_PREFIXES} {family} prefixes at most");
            report.add(&Place { written: None, ..deny_sources.place.clone() }, Wrong::new(rule));
        }
    }
    Some(Firewall {
        guard_host: firewall.guard_host?.value,
        allow: firewall.allow?.value.into_iter().map(|rule| rule.value).collect(),
        deny_sources: deny_sources.value.into_iter().map(|net| net.value).collect(),
    })
}

/// What the maps have room for; id 0 is nobody.
fn limits(services: &[file::Service], report: &mut Report<'_>) {
    if let Some(service) = services.get(SERVICES as usize - 1) {
        report
            .add(&service.place, Wrong::new(format!("must be {} services at most", SERVICES - 1)));
    }
    let mut backends = services.iter().flat_map(|service| &service.backends);
    if let Some(backend) = backends.nth(BACKENDS as usize - 1) {
        let rule = format!("must be {} backends at most in all services", BACKENDS - 1);
        report.add(&backend.place, Wrong::new(rule));
    }
}

fn service(service: file::Service) -> Option<Service> {
    let (mode, ports) = (service.mode?.value, service.ports?.value);
    let established = service.affinity_timeout?.value;
    let backends = service.backends.into_iter().map(|backend| backend::model(backend, &ports));
    Some(Service {
        name: service.name?.value,
        vip: service.vip?.value,
        protocol: service.protocol?.value,
        mode,
        timeouts: Timeouts {
            embryonic: established.min(EMBRYONIC_TIMEOUT),
            established,
            closing: established.min(CLOSING_TIMEOUT),
        },
        affinity: service.affinity?.value,
        policy: Policy::Static,
        slow_start: Duration::ZERO,
        min_up: 1,
        on_empty: service.on_empty?.value,
        on_down: service.on_down?.value,
        health: Health::default(),
        split: service.split,
        routes: service.routes,
        backends: backends.collect::<Option<_>>()?,
        ports,
    })
}

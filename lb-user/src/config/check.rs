//! Rules between values: what the mirror holds must make sense together.
//!
//! A rule looks only at values that were read (see [`super::read`]), so one
//! mistake is reported once. The model comes out only if no rule was broken,
//! by this module or the reader before it.

mod backend;
mod between;
mod ha;
mod nat;
mod quic;
mod service;

use std::{collections::HashMap, hash::Hash};

use ipnet::IpNet;
use lb_common::limits::{DENY_PREFIXES, PORTS};

use super::{
    Surroundings, file,
    mistake::Mistake,
    read::{Located, Place, Wrong},
};
use crate::core::model::{self, Admin, Firewall, Model, NewFlows, Node, ha::Ha};

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
            if let Some(first) = first.get(value) {
                self.add(place, Wrong::new(rule).hint(format!("{first} is the same")));
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
    file.services.iter().for_each(|service| service::check(service, report));
    let sources = |list: &file::Field<Vec<Located<IpNet>>>| -> Vec<_> {
        let list = list.iter().flat_map(|list| &list.value);
        list.map(|source| source.value).collect()
    };
    let tunnels = sources(&file.node.tunnel_sources);
    between::check(&file.services, &tunnels, report);
    if file.node.nat_sources.is_some() {
        nat::check(&file.services, &sources(&file.node.nat_sources), &tunnels, report);
    }
    file.ha.iter().for_each(|ha| ha::check(ha, &file.node, &file.services, report));
    let claimed = file.ha.as_ref().map(ha::Claimed::from).unwrap_or_default();
    claimed.check_backends(&file.services, report);
    claimed.check_sources(&file.services, &sources(&file.node.nat_sources), report);
    for Located { place, value } in file.firewall.deny_sources.iter().flat_map(|list| &list.value) {
        claimed.check_denied(*value, || place.clone(), report);
    }
    let node = node(file.node, surroundings, report);
    let firewall = firewall(file.firewall, report);
    let services = file.services.into_iter().map(service::model).collect::<Option<_>>();
    let ha = match file.ha {
        Some(ha) => Some(ha::model(ha)?),
        None => None,
    };
    Some(Model {
        node: node?,
        admin: Admin {
            socket: file.admin.socket?.value,
            group: file.admin.group?.value,
            http: file.admin.http?.value,
        },
        ha,
        firewall: firewall?,
        services: services?,
    })
}

/// Checks the mirror of one service by itself, as [`check`] does.
#[must_use]
pub fn check_service(
    service: file::Service,
    mistakes: &mut Vec<Mistake>,
) -> Option<model::Service> {
    service::check(&service, &mut Report(mistakes));
    service::model(service)
}

/// Checks what services, the firewall and the pair, each right by itself, are
/// together: names, addresses and ports that are for one service only, what would
/// keep the nodes of a pair apart, and how much the maps have room for. Of `node` the
/// sources of packets matter. Takes about a millisecond for 10,000 backends.
///
/// # Errors
/// Every mistake; where two services are in each other's way, of the later one.
pub fn check_together(
    services: &[model::Service],
    firewall: &Firewall,
    node: &Node,
    ha: Option<&Ha>,
) -> Result<(), Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let report = &mut Report(&mut mistakes);
    between::check(services, &node.tunnel_sources, report);
    nat::check(services, &node.nat_sources, &node.tunnel_sources, report);
    let path = "firewall.deny_sources".to_owned();
    let place = Place { line: None, path, written: None };
    denied(firewall.deny_sources.iter(), &place, report);
    let claimed = ha.map(ha::Claimed::from).unwrap_or_default();
    claimed.check_backends(services, report);
    claimed.check_sources(services, &node.nat_sources, report);
    for net in &firewall.deny_sources {
        let place = || Place { written: Some(format!("\"{net}\"")), ..place.clone() };
        claimed.check_denied(*net, place, report);
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

fn node(node: file::Node, surroundings: Surroundings<'_>, report: &mut Report<'_>) -> Option<Node> {
    let interfaces = interfaces(node.interfaces?, surroundings.interfaces, report);
    let tunnel_sources = one_of_each(node.tunnel_sources?.value, report);
    let nat_sources = one_of_each(node.nat_sources?.value, report);
    Some(Node {
        name: node.name?.value.unwrap_or_else(|| surroundings.host_name.to_owned()),
        interfaces,
        xdp_mode: node.xdp_mode?.value,
        flows: node.flows?.value,
        hash_seed: node.hash_seed?.value,
        tunnel_sources,
        nat_sources,
        pin_dir: node.pin_dir?.value,
        state_dir: node.state_dir?.value,
        zone: node.zone?.value,
    })
}

/// At most one prefix of each family: all packets of a flow come from one address.
fn one_of_each(listed: Vec<Located<IpNet>>, report: &mut Report<'_>) -> Vec<IpNet> {
    let mut sources: Vec<IpNet> = Vec::new();
    for Located { place, value: net } in listed {
        if sources.iter().any(|known| known.addr().is_ipv4() == net.addr().is_ipv4()) {
            let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            report.add(&place, Wrong::new(format!("must be the only {family} prefix")));
        }
        sources.push(net);
    }
    sources
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
    let place = Place { written: None, ..deny_sources.place };
    denied(deny_sources.value.iter().map(|net| &net.value), &place, report);
    let new_flows_per_source = match firewall.new_flows_per_source {
        Some(limit) => Some(new_flows(limit, report)?),
        None => None,
    };
    Some(Firewall {
        new_flows_per_source,
        guard_host: firewall.guard_host?.value,
        allow: firewall.allow?.value.into_iter().map(|rule| rule.value).collect(),
        deny_sources: deny_sources.value.into_iter().map(|net| net.value).collect(),
    })
}

fn new_flows(limit: file::NewFlows, report: &mut Report<'_>) -> Option<NewFlows> {
    let Located { place, value: burst } = limit.burst?;
    let limit = NewFlows { rate: limit.rate?.value, burst };
    if let Err(wrong) = is_measurable(limit) {
        report.add(&place, wrong);
    }
    Some(limit)
}

/// What a source may begin in a tick of the kernel, by which time is measured, has to fit.
pub(super) fn is_measurable(limit: NewFlows) -> Result<(), Wrong> {
    let least = limit.rate.div_ceil(100);
    if limit.burst >= least {
        return Ok(());
    }
    let rule = format!("must be at least a hundredth of `rate`, {least}");
    Err(Wrong::new(rule).hint("time is measured in ticks of the kernel, which may take 10ms each"))
}

fn denied<'n>(
    nets: impl Iterator<Item = &'n IpNet> + Clone,
    place: &Place,
    report: &mut Report<'_>,
) {
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        if nets.clone().filter(|net| net.addr().is_ipv4() == v4).count() > DENY_PREFIXES as usize {
            let rule = format!("must be {DENY_PREFIXES} {family} prefixes at most");
            report.add(place, Wrong::new(rule));
        }
    }
}

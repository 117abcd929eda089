//! Rules within one service.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use lb_common::flow::Timeouts;

use super::{Report, backend, quic};
use crate::{
    config::{
        file::{Route, Service},
        read::{Located, Place, Wrong},
    },
    core::model::{self, Affinity, Mode, Policy, Protocol, health::Probe},
};

/// Seconds a flow is kept after its first packet, unless `affinity_timeout`
/// is shorter: as conntrack and IPVS keep what was never answered.
const EMBRYONIC_TIMEOUT: u16 = 60;

/// Seconds a flow is kept after its last packet once FIN or RST was seen,
/// unless `affinity_timeout` is shorter: time for the other side to close.
const CLOSING_TIMEOUT: u16 = 30;

pub(super) fn check(service: &Service, report: &mut Report<'_>) {
    if let Some(vip) = &service.vip
        && let Err(wrong) = unicast(vip.value)
    {
        report.add(&vip.place, wrong);
    }
    backend::check(service, report);
    untracked(service, report);
    syn_cookies(service, report);
    min_up(service, report);
    probe_port(service, report);
    split(service, report);
    routes(service, report);
    allow_sources(service, report);
    quic::check(service, report);
}

/// Who remembers no flow cannot keep a connection at its backend, nor count any.
fn untracked(service: &Service, report: &mut Report<'_>) {
    let Some(Located { place, value: Affinity::None }) = &service.affinity else { return };
    if let Some(Located { value: Protocol::Tcp, .. }) = service.protocol {
        let wrong = Wrong::new("must be \"flow\" or \"client\" where the protocol is TCP");
        let hint = "a connection stays with its backend; \"none\" is for UDP services whose \
                    datagrams stand alone, such as DNS";
        report.add(place, wrong.hint(hint));
    }
    if let Some(Located { place, value: Policy::LeastFlows }) = &service.policy {
        let wrong = Wrong::new("must not be \"least-flows\" where `affinity` is \"none\"");
        report.add(place, wrong.hint("no flow is recorded, so there is none to count"));
    }
    if let Some(Located { value: Mode::FullNat, .. }) = service.mode {
        let wrong = Wrong::new("must be \"flow\" or \"client\" where `mode` is \"fullnat\"");
        let hint = "a flow has a source port at one backend, and its answers come from there";
        report.add(place, wrong.hint(hint));
    }
}

/// Who answers for a backend translates what both say afterwards, so it must see both.
fn syn_cookies(service: &Service, report: &mut Report<'_>) {
    let Some(Located { place, value: Some(_) }) = &service.syn_cookies_above else { return };
    if let Some(Located { value: Protocol::Udp, .. }) = service.protocol {
        let wrong = Wrong::new("must be \"off\" where `protocol` is \"udp\"");
        report.add(place, wrong.hint("only TCP has SYNs"));
    }
    if let Some(Located { value: Mode::Dsr | Mode::Ipip | Mode::Gue, .. }) = service.mode {
        let wrong = Wrong::new("must be \"off\" unless `mode` is \"nat\" or \"fullnat\"");
        let hint = "in other modes answers of backends do not pass here, and could not be \
                    translated; have the backends use SYN cookies";
        report.add(place, wrong.hint(hint));
    }
}

/// A service without backends is legal: they are yet to come.
fn min_up(service: &Service, report: &mut Report<'_>) {
    let backends = service.backends.len();
    if let Some(Located { place, value }) = &service.min_up
        && *value as usize > backends.max(1)
    {
        let rule = format!("must be at most the number of backends, {backends}");
        report.add(place, Wrong::new(rule));
    }
}

/// A probe that connects needs to know where.
fn probe_port(service: &Service, report: &mut Report<'_>) {
    let (Some(Located { place, value: health }), Some(ports)) = (&service.health, &service.ports)
    else {
        return;
    };
    let why = match &health.probe {
        Probe::None | Probe::Exec(_) => return,
        Probe::Agent => "the port that the backend tells its state on",
        _ if is_range(&ports.value) => "the service has several ports: name the one to probe",
        _ => return,
    };
    if health.port.is_none() {
        let place = Place { path: format!("{}.port", place.path), ..place.clone() };
        report.add(&place, Wrong::new("missing, must be set").hint(why));
    }
}

/// Every share is of a group that has backends, and somebody gets one.
fn split(service: &Service, report: &mut Report<'_>) {
    let Some(split) = &service.split else { return };
    for (group, share) in split {
        if let Err(wrong) = has_backends(service, group) {
            report.add(&share.place, wrong);
        }
    }
    if let Some(share) = split.values().next()
        && split.values().all(|share| share.value == 0)
    {
        let wrong = Wrong::new("must not be 0 for every group")
            .hint("remove `split` to share clients out by weight alone");
        report.add(&share.place, wrong);
    }
}

fn routes(service: &Service, report: &mut Report<'_>) {
    for Route { from, group } in &service.routes {
        if let Some(Located { place, value: group }) = group
            && let Err(wrong) = has_backends(service, group)
        {
            report.add(place, wrong);
        }
        let Some(Located { place, value: from }) = from else { continue };
        if from.is_empty() {
            let wrong = Wrong::new("must name at least one prefix");
            report.add(place, wrong.hint("such as `from = [\"198.51.100.0/24\"]`"));
        }
        for prefix in from {
            of_clients(service, prefix, report);
        }
    }
    let prefixes = service.routes.iter().filter_map(|route| route.from.as_ref());
    let prefixes = prefixes.flat_map(|from| &from.value);
    report.duplicates::<IpNet>(prefixes, "must be routed once in its service");
}

fn allow_sources(service: &Service, report: &mut Report<'_>) {
    let Some(Located { value: allowed, .. }) = &service.allow_sources else { return };
    allowed.iter().for_each(|prefix| of_clients(service, prefix, report));
    report.duplicates(allowed, "must be listed once");
}

/// Clients are of the VIP's family, whatever their packets travel in to backends.
fn of_clients(service: &Service, prefix: &Located<IpNet>, report: &mut Report<'_>) {
    if let Some(vip) = &service.vip
        && vip.value.is_ipv4() != prefix.value.addr().is_ipv4()
    {
        let family = if vip.value.is_ipv4() { "IPv4" } else { "IPv6" };
        let wrong = Wrong::new(format!("must be an {family} prefix, as the VIP is"));
        report.add(&prefix.place, wrong.hint("no client of the other family reaches the VIP"));
    }
}

fn has_backends(service: &Service, group: &str) -> Result<(), Wrong> {
    let mut groups = BTreeSet::new();
    for backend in &service.backends {
        match &backend.group {
            Some(Located { value: Some(group), .. }) => groups.insert(group.as_str()),
            Some(_) => false,
            // It might be the one.
            None => return Ok(()),
        };
    }
    if groups.contains(group) {
        return Ok(());
    }
    let rule = format!("must be of a group with backends, `{group}` has none");
    let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
    Err(Wrong::new(rule).hint(if groups.is_empty() {
        format!("set `group = \"{group}\"` in some backends")
    } else {
        format!("groups of its backends: {groups}")
    }))
}

/// Whether a service has more than one port.
pub(super) fn is_range(ports: &RangeInclusive<u16>) -> bool {
    ports.start() != ports.end()
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

/// The model of a service; `None`: parts of it are wrong.
pub(super) fn model(service: Service) -> Option<model::Service> {
    let ports = service.ports?.value;
    let established = service.affinity_timeout?.value;
    let backends = service.backends.into_iter().map(|backend| backend::model(backend, &ports));
    let split = service.split?.into_iter().map(|(group, share)| (group, share.value));
    Some(model::Service {
        name: service.name?.value,
        vip: service.vip?.value,
        protocol: service.protocol?.value,
        mode: service.mode?.value,
        timeouts: Timeouts {
            embryonic: established.min(EMBRYONIC_TIMEOUT),
            established,
            closing: established.min(CLOSING_TIMEOUT),
        },
        affinity: service.affinity?.value,
        policy: service.policy?.value,
        slow_start: service.slow_start?.value,
        max_flows: service.max_flows?.value,
        syn_cookies_above: service.syn_cookies_above?.value,
        min_up: service.min_up?.value,
        on_empty: service.on_empty?.value,
        on_down: service.on_down?.value,
        health: service.health?.value,
        split: split.collect(),
        routes: service.routes.into_iter().map(route).collect::<Option<_>>()?,
        allow_sources: service.allow_sources?.value.into_iter().map(|net| net.value).collect(),
        quic: service.quic.into_iter().map(quic::model).collect::<Option<_>>()?,
        backends: backends.collect::<Option<_>>()?,
        ports,
    })
}

fn route(route: Route) -> Option<model::Route> {
    let from = route.from?.value.into_iter().map(|prefix| prefix.value).collect();
    Some(model::Route { from, group: route.group?.value })
}

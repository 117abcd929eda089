//! Rules about mode `fullnat`: where its packets come from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Report,
    between::{Claims, Part},
};
use crate::{config::read::Wrong, core::model::Mode};

/// `sources`: `node.nat_sources`, at most one prefix of each family; `tunnels`:
/// `node.tunnel_sources`.
pub(super) fn check<S: Claims>(
    services: &[S],
    sources: &[IpNet],
    tunnels: &[IpNet],
    report: &mut Report<'_>,
) {
    for service in services {
        clear_of(service, sources, report);
        if service.mode() == Some(Mode::FullNat) {
            from_somewhere(service, sources, tunnels, report);
        }
    }
}

/// What is for a source is an answer to it: no VIP, and no backend, is one.
fn clear_of<S: Claims>(service: &S, sources: &[IpNet], report: &mut Report<'_>) {
    let mut check = |address: Option<IpAddr>, part| {
        let within = |address| sources.iter().find(|source| source.contains(&address));
        if let Some(source) = address.and_then(|address: IpAddr| within(address)) {
            let wrong = Wrong::new("must not be an address of `node.nat_sources`")
                .hint(format!("`{source}` has it: these are for mode \"fullnat\" alone"));
            report.add(&service.place(part), wrong);
        }
    };
    check(service.vip(), Part::Vip);
    for (index, address) in service.addresses().enumerate() {
        check(address, Part::Address(index));
    }
}

/// A source of the family of its backends, which is that of the VIP.
fn from_somewhere<S: Claims>(
    service: &S,
    sources: &[IpNet],
    tunnels: &[IpNet],
    report: &mut Report<'_>,
) {
    let Some(vip) = service.vip() else { return };
    let (family, example) = match vip {
        IpAddr::V4(_) => ("IPv4", "10.0.0.100"),
        IpAddr::V6(_) => ("IPv6", "fd00::100"),
    };
    let source = sources.iter().find(|source| source.addr().is_ipv4() == vip.is_ipv4());
    let Some(source) = source else {
        let rule = format!("needs an {family} address in `node.nat_sources`");
        let hint = format!(
            "such as \"{example}\": an address of this host that backends reach, and that nothing \
             else uses, which packets to them come from in mode \"fullnat\""
        );
        report.add(&service.place(Part::Vip), Wrong::new(rule).hint(hint));
        return;
    };
    if let Some(tunnel) = tunnels.iter().find(|net| net.contains(source) || source.contains(*net)) {
        let rule = format!("needs addresses in `node.nat_sources` beside `{tunnel}`");
        let hint = "`node.tunnel_sources` are addresses that nobody has";
        report.add(&service.place(Part::Vip), Wrong::new(rule).hint(hint));
    }
}

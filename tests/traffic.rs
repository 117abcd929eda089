//! Real clients and servers in namespaces.

mod attach;
mod bridge;
mod bulk;
mod change;
mod checksum;
mod datagrams;
mod failover;
mod firewall;
mod flood;
mod forward;
mod fragment;
mod fullnat;
mod health;
mod icmp;
mod latency;
mod mtu;
mod operate;
mod quic;
mod reload;
mod restart;
mod route;
mod scale;
mod shares;
mod synproxy;
mod topology;
mod tunnel;
mod vip;

use std::{collections::BTreeSet, net::SocketAddr};

use lb_tests::harness::{DSR_V4, DSR_V6, Lab, Mode, NAT_V4, NAT_V6, Protocol, Service, ask_udp};

/// A VIP of each mode and family.
const VIPS: [(std::net::IpAddr, Mode); 4] =
    [(NAT_V4, Mode::Nat), (NAT_V6, Mode::Nat), (DSR_V4, Mode::Dsr), (DSR_V6, Mode::Dsr)];
/// Port of web services.
const WEB: u16 = 80;
/// Port of the UDP echo service.
const ECHO: u16 = 7;

/// Web and echo services of all of [`VIPS`], at all backends.
fn all_services(lab: &Lab) -> Vec<Service> {
    let services = VIPS.iter().flat_map(|&(vip, mode)| {
        [(Protocol::Tcp, WEB), (Protocol::Udp, ECHO)]
            .map(|(protocol, port)| Service::new(vip, protocol, port, mode))
    });
    services.map(|service| service.with(&lab.backends)).collect()
}

/// Where a service is asked for `path`.
fn url(vip: std::net::IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(vip, port))
}

/// Names of the backends.
fn names(lab: &Lab) -> BTreeSet<String> {
    lab.backends.iter().map(|backend| backend.name.clone()).collect()
}

/// Whether 40 datagrams from as many ports are all answered, and by every
/// backend: with three of them, one stays out by chance once in 3 million
/// times.
fn all_answer(lab: &Lab, vip: std::net::IpAddr) -> bool {
    let answers = (0..40).map(|_| ask_udp(&lab.client, (vip, ECHO).into(), "hello"));
    answers.collect::<Result<BTreeSet<_>, _>>().is_ok_and(|answers| answers == names(lab))
}

//! Parts of configurations for tests.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::flow::Timeouts;

use super::{
    ha::{Group, GroupAddress, Path},
    *,
};

/// A service with defaults and no backends.
pub(crate) fn service(vip: &str, ports: (u16, u16), protocol: Protocol, mode: Mode) -> Service {
    Service {
        name: format!("{vip}:{}", ports.0),
        vip: vip.parse().unwrap(),
        protocol,
        ports: ports.0..=ports.1,
        mode,
        timeouts: Timeouts { embryonic: 60, established: 600, closing: 60 },
        affinity: Affinity::Flow,
        policy: Policy::Static,
        slow_start: Duration::ZERO,
        min_up: 1,
        on_empty: OnEmpty::Drop,
        on_down: OnDown::Release,
        health: Health::default(),
        split: BTreeMap::new(),
        routes: Vec::new(),
        allow_sources: Vec::new(),
        max_flows: 0,
        syn_cookies_above: None,
        quic: Vec::new(),
        backends: Vec::new(),
    }
}

/// A backend named by its address.
pub(crate) fn backend(address: IpAddr, port: Option<u16>, weight: u16) -> Backend {
    let name = address.to_string();
    let (zone, group, server_ids) = (None, None, Vec::new());
    Backend { name, address, port, weight, zone, group, backup: false, server_ids }
}

/// A node of a pair with groups of these addresses.
pub(crate) fn ha(groups: &[&[&str]]) -> Ha {
    let address =
        |text: &&str| GroupAddress { address: text.parse().unwrap(), interface: "eth0".into() };
    let group = |(number, addresses): (usize, &&[&str])| Group {
        name: format!("group {number}"),
        prefer: None,
        addresses: addresses.iter().map(address).collect(),
    };
    let (listen, peer) = ("10.0.0.2:4790".parse().unwrap(), "10.0.0.3:4790".parse().unwrap());
    Ha {
        pair: "test".into(),
        paths: vec![Path { listen, peer }],
        key_file: "/etc/lb/pair.key".into(),
        priority: 100,
        heartbeat: Duration::from_millis(50),
        preempt: false,
        replicate: true,
        witness: None,
        fence: None,
        groups: groups.iter().enumerate().map(group).collect(),
    }
}

/// A configuration of these services.
pub(crate) fn model(services: Vec<Service>) -> Model {
    Model {
        node: Node {
            name: "test".into(),
            interfaces: vec!["eth0".into()],
            xdp_mode: XdpMode::Auto,
            flows: 64,
            hash_seed: None,
            tunnel_sources: Vec::new(),
            nat_sources: Vec::new(),
            pin_dir: "/sys/fs/bpf/test".into(),
            state_dir: "/var/lib/lb".into(),
            zone: None,
        },
        admin: Admin { socket: "/run/lb/lb.sock".into(), group: None, http: None },
        ha: None,
        firewall: Firewall::default(),
        services,
    }
}

//! Mode `fullnat`, at backends that know no way to the client.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lb_common::{binding::FIRST_PORT, stats::Counter};
use lb_tests::harness::{
    Config, Flows, Lab, Load, Mode, NAT_V4, NAT_V6, Protocol, Result, Service, Talks, curl,
    eventually, run, source_addresses, spread,
};

use super::{ECHO, WEB, all_answer, mtu::ask_at_length, names, url};

const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const VIPS: [IpAddr; 2] = [NAT_V4, NAT_V6];
/// `node.nat_sources`, which the balancer's interface towards the backends holds.
pub(super) const SOURCES: [&str; 2] = ["10.2.0.200", "fd00:2::200"];

/// A lab whose backends reach their own network only.
pub(super) fn lab(backends: usize) -> Result<Lab> {
    let lab = Lab::new(backends)?;
    let [v4, v6] = SOURCES;
    lab.balancer.ip(&format!("addr add {v4}/32 dev l1\naddr add {v6}/128 dev l1 nodad"))?;
    for backend in &lab.backends {
        backend.netns.ip("route del default\n-6 route del default")?;
    }
    Ok(lab)
}

/// Web and echo services, with more `lines` of each.
pub(super) fn config(lab: &Lab, lines: &str) -> Config {
    let services = VIPS.iter().flat_map(|&vip| {
        [(Protocol::Tcp, WEB), (Protocol::Udp, ECHO)]
            .map(|(protocol, port)| Service::new(vip, protocol, port, Mode::FullNat))
    });
    let services = services.map(|service| service.with(&lab.backends).lines(lines));
    let node = format!("nat_sources = {SOURCES:?}\n");
    Config { node, flows: 1 << 17, ..lab.config(services) }
}

#[test]
fn backends_without_a_way_to_the_client_serve_him() -> Result<()> {
    let lab = lab(2)?;
    let _agent = lab.start_agent(&config(&lab, ""))?;
    for vip in VIPS {
        let answers = spread(&lab.client, &url(vip, WEB, "/"), 40)?;
        assert_eq!(answers.into_keys().collect::<BTreeSet<_>>(), names(&lab), "at {vip}");
        assert_eq!(curl(&lab.client, &url(vip, WEB, "/1k"))?.len(), 1024);
        assert!(all_answer(&lab, vip), "{vip}: {:?}", lab.pins().counters()?);
    }
    assert_eq!(lab.pins().counter(Counter::NatPortsExhausted)?, 0);
    // The host itself answers for its address.
    for source in SOURCES {
        let ping = ["-c", "1", "-W", "2", source];
        run(lab.backends[0].netns.command("ping").args(ping), PATIENCE)?;
    }
    Ok(())
}

#[test]
fn load_causes_no_socket_errors() -> Result<()> {
    let lab = lab(2)?;
    let _agent = lab.start_agent(&config(&lab, ""))?;
    for vip in VIPS {
        for close in [false, true] {
            let load = Load { close, ..Load::new(url(vip, WEB, "/1k")) };
            let report = load.run(&lab.client)?;
            let counters = lab.pins().counters()?;
            assert!(report.is_clean(), "{vip}, {close}: {} {counters:?}", report.text);
        }
    }
    Ok(())
}

#[test]
fn sixty_thousand_flows_through_one_address_to_one_port_are_told_apart() -> Result<()> {
    const FLOWS: usize = 60_000;
    let lab = lab(1)?;
    let _agent = lab.start_agent(&config(&lab, ""))?;
    for vip in VIPS {
        let sources = source_addresses(vip.is_ipv4());
        let talks = Talks::new(&lab.client, &sources, (vip, ECHO).into(), FLOWS);
        // By its second word a flow is one that goes on.
        talks.all_hear_themselves(&["first", "second"])?;
        talks.all_hear_themselves(&["once more"])?;
        let held = lab.pins().held_ports()?;
        let ours = held.iter().filter(|(v4, _)| *v4 == vip.is_ipv4());
        assert!(ours.clone().all(|(_, port)| *port >= FIRST_PORT));
        assert_eq!(ours.count(), FLOWS, "at {vip}");
        assert_eq!(lab.pins().counter(Counter::NatPortsExhausted)?, 0);
    }
    Ok(())
}

#[test]
fn ports_are_released_after_connections_are_closed() -> Result<()> {
    const FLOWS: usize = 2000;
    let lab = lab(1)?;
    let _agent = lab.start_agent(&config(&lab, "affinity_timeout = \"2s\""))?;
    for vip in VIPS {
        let sources = source_addresses(vip.is_ipv4());
        let flows = Flows::open(&lab.client, &sources, (vip, WEB).into(), FLOWS)?;
        drop(flows);
        let held = || lab.pins().held_ports().map_or(usize::MAX, |held| held.len());
        assert!(eventually(PATIENCE, || held() == 0), "at {vip}: {} held", held());
    }
    Ok(())
}

#[test]
fn clients_learn_how_long_their_packets_may_be() -> Result<()> {
    let lab = lab(1)?;
    let _agent = lab.start_agent(&config(&lab, ""))?;
    let [v4, v6] = [true, false].map(|v4| lab.backends[0].address(v4));
    lab.balancer
        .ip(&format!("route add {v4}/32 dev l1 mtu 1400\n-6 route add {v6}/128 dev l1 mtu 1400"))?;
    for vip in VIPS {
        let learns = || ask_at_length(&lab, vip, WEB).is_ok();
        assert!(eventually(PATIENCE, learns), "{vip}: {:?}", lab.pins().counters()?);
    }
    assert!(lab.pins().counter(Counter::TooBig)? > 0);
    Ok(())
}

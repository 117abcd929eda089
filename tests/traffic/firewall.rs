//! Ports, hosts and sources that are refused.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{Echo, Lab, NAT_V4, NAT_V6, Result, ask_udp, curl};

use super::{ECHO, VIPS, WEB, all_services, url};

/// A port of no service.
const UNSERVED: u16 = 99;

/// Addresses of the balancer's host, on the clients' side.
const HOST: [&str; 2] = ["10.1.0.1", "fd00:1::1"];

fn host() -> [IpAddr; 2] {
    HOST.map(|text| text.parse().unwrap())
}

#[test]
fn a_port_of_no_service_is_dropped_and_counted() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for (vip, _) in VIPS {
        let before = lab.pins().counter(Counter::PortNotAllowed)?;
        assert!(ask_udp(&lab.client, (vip, UNSERVED).into(), "hello").is_err());
        assert_eq!(lab.pins().counter(Counter::PortNotAllowed)?, before + 1, "at {vip}");
    }
    Ok(())
}

#[test]
fn an_allowed_port_of_a_vip_reaches_the_host() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.balancer.ip(&format!("addr add {NAT_V4}/32 dev lo\naddr add {NAT_V6}/128 dev lo nodad"))?;
    let _host = Echo::start(&lab.balancer, "host", &[NAT_V4, NAT_V6], UNSERVED)?;
    let mut config = lab.config(all_services(&lab));
    config.firewall = format!("allow = [\"udp/{UNSERVED}\"]");
    let _agent = lab.start_agent(&config)?;
    for vip in [NAT_V4, NAT_V6] {
        assert_eq!(ask_udp(&lab.client, (vip, UNSERVED).into(), "hello")?, "host");
        assert_eq!(ask_udp(&lab.client, (vip, ECHO).into(), "hello")?, "b1");
    }
    Ok(())
}

#[test]
fn a_protected_host_keeps_its_own_connections_and_allowed_ports() -> Result<()> {
    let lab = Lab::new(1)?;
    let _open = Echo::start(&lab.balancer, "host", &host(), ECHO)?;
    let _closed = Echo::start(&lab.balancer, "host", &host(), UNSERVED)?;
    let mut config = lab.config(all_services(&lab));
    config.firewall = format!("host = \"drop\"\nallow = [\"udp/{ECHO}\"]");
    let _agent = lab.start_agent(&config)?;
    for address in host() {
        assert_eq!(ask_udp(&lab.client, (address, ECHO).into(), "hello")?, "host");
        let before = lab.pins().counter(Counter::HostProtected)?;
        assert!(ask_udp(&lab.client, (address, UNSERVED).into(), "hello").is_err());
        assert_eq!(lab.pins().counter(Counter::HostProtected)?, before + 1, "at {address}");
        let backend = lab.backends[0].address(address.is_ipv4());
        assert_eq!(curl(&lab.balancer, &url(backend, WEB, "/"))?, "b1\n");
        assert_eq!(ask_udp(&lab.balancer, (backend, ECHO).into(), "hello")?, "b1");
    }
    Ok(())
}

#[test]
fn denied_sources_reach_no_service() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut config = lab.config(all_services(&lab));
    config.firewall = "deny_sources = [\"10.1.0.0/28\", \"fd00:1::/124\"]".into();
    let _agent = lab.start_agent(&config)?;
    for (vip, _) in VIPS {
        let before = lab.pins().counter(Counter::SourceDenied)?;
        assert!(ask_udp(&lab.client, (vip, ECHO).into(), "hello").is_err(), "at {vip}");
        assert!(lab.pins().counter(Counter::SourceDenied)? > before, "at {vip}");
    }
    Ok(())
}

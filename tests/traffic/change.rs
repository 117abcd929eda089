//! What changes around the balancer while it serves.

use std::time::Duration;

use lb_tests::harness::{
    DSR_V4, DSR_V6, Flows, Lab, NAT_V4, NAT_V6, Netns, Result, eventually, source_addresses,
};

use super::{VIPS, WEB, all_answer, all_services};

/// How long the balancer may take to follow a change.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn interfaces_may_go_down_and_come_up() -> Result<()> {
    let lab = Lab::new(3)?;
    let agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    for interface in ["l0", "l1"] {
        lab.balancer.ip(&format!("link set {interface} down"))?;
        assert!(!all_answer(&lab, NAT_V4), "{interface} is down and yet used");
        lab.balancer.ip(&format!("link set {interface} up"))?;
        for (vip, _) in VIPS {
            let back = eventually(PATIENCE, || all_answer(&lab, vip));
            assert!(back, "{vip} after {interface}: {:?}\n{}", lab.pins().counters()?, agent.log());
        }
    }
    Ok(())
}

#[test]
fn a_backend_that_announces_its_new_mac_goes_on_serving() -> Result<()> {
    let lab = Lab::new(3)?;
    lab.backends[0]
        .netns
        .sysctl(&[("ipv4/conf/eth0/arp_notify", "1"), ("ipv6/conf/eth0/ndisc_notify", "1")])?;
    follows_new_mac(&lab)
}

#[test]
fn a_backend_that_changes_its_mac_silently_goes_on_serving() -> Result<()> {
    let lab = Lab::new(3)?;
    // The kernel takes an address for good for half a minute, then asks; here
    // it asks sooner.
    for family in ["ipv4", "ipv6"] {
        let key = |name: &str| format!("{family}/neigh/l1/{name}");
        lab.balancer.sysctl(&[
            (&key("base_reachable_time_ms"), "500"),
            (&key("delay_first_probe_time"), "1"),
            (&key("retrans_time_ms"), "200"),
            (&key("interval_probe_time_ms"), "500"),
        ])?;
    }
    follows_new_mac(&lab)
}

/// Gives a backend a new address and wants new flows and old ones to work.
fn follows_new_mac(lab: &Lab) -> Result<()> {
    let agent = lab.start_agent(&lab.config(all_services(lab)))?;
    let mut flows = Vec::new();
    for vip in [NAT_V4, NAT_V6, DSR_V4, DSR_V6] {
        let sources = source_addresses(vip.is_ipv4());
        flows.push(Flows::open(&lab.client, &sources[..1], (vip, WEB).into(), 30)?);
    }
    change_mac(&lab.backends[0].netns)?;
    for (vip, _) in VIPS {
        let back = eventually(PATIENCE, || all_answer(lab, vip));
        assert!(back, "{vip}: {:?}\n{}", lab.pins().counters()?, agent.log());
    }
    for flows in &mut flows {
        assert_eq!(flows.survey(None).kept, 30);
    }
    Ok(())
}

fn change_mac(backend: &Netns) -> Result<()> {
    backend.ip("link set eth0 address 02:00:5e:10:00:01")
}

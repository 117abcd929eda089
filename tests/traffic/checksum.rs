//! tcpdump finds no wrong checksum in any mode.

use std::net::IpAddr;

use lb_tests::harness::{Capture, Config, Lab, Mode, Netns, Result, curl};

use super::{
    VIPS, WEB, all_answer, all_services, fullnat,
    tunnel::{tunnelled, unwrap_everywhere},
    url,
};

/// Asks every VIP, and reads what went over all links meanwhile; `clients`: those of the
/// client.
fn check(lab: &Lab, vips: &[IpAddr], clients: &[&str]) -> Result<()> {
    let backend = &lab.backends[0];
    let mut places = vec![(&lab.switch, backend.name.as_str()), (&backend.netns, "eth0")];
    places.extend(clients.iter().map(|interface| (&lab.client, *interface)));
    let start = |(netns, interface): &(&Netns, &str)| {
        Capture::whole(netns, interface, "ip or ip6", &lab.path(&format!("{interface}.pcap")))
    };
    let captures: Vec<_> = places.iter().map(start).collect::<Result<_>>()?;
    for vip in vips {
        curl(&lab.client, &url(*vip, WEB, "/1k"))?;
        assert!(all_answer(lab, *vip), "at {vip}");
    }
    for (capture, (_, interface)) in captures.into_iter().zip(places) {
        let packets = capture.packets()?;
        let with = |words: &[&str]| {
            let has = |packet: &&String| words.iter().any(|word| packet.contains(word));
            packets.iter().filter(has).collect::<Vec<_>>()
        };
        let wrong = with(&["bad cksum", "incorrect", "bad udp", "bad length", "truncated"]);
        assert!(wrong.is_empty(), "at {interface}: {wrong:#?}");
        let right = with(&["(correct)", "sum ok"]).len();
        assert!(right > 40, "at {interface}: {right} of {}", packets.len());
    }
    Ok(())
}

#[test]
fn no_checksum_is_wrong_without_tunnels() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    check(&lab, &VIPS.map(|(vip, _)| vip), &["c0", "c1"])
}

#[test]
fn no_checksum_is_wrong_where_both_ends_are_rewritten() -> Result<()> {
    let lab = fullnat::lab(1)?;
    let _agent = lab.start_agent(&fullnat::config(&lab, ""))?;
    check(&lab, &fullnat::VIPS, &["c0"])
}

#[test]
fn no_checksum_is_wrong_where_syns_are_answered() -> Result<()> {
    let with_cookies = |mut config: Config| {
        for service in config.services.iter_mut().filter(|service| service.port() == WEB) {
            *service = service.clone().lines("syn_cookies_above = 0");
        }
        config
    };
    let lab = Lab::new(1)?;
    // Two of each VIP, those of mode `nat` first.
    let services = all_services(&lab).into_iter().take(4);
    let agent = lab.start_agent(&with_cookies(lab.config(services)))?;
    check(&lab, &[VIPS[0].0, VIPS[1].0], &["c0"])?;
    assert!(agent.terminate()?.success());
    let lab = fullnat::lab(1)?;
    let _agent = lab.start_agent(&with_cookies(fullnat::config(&lab, "")))?;
    check(&lab, &fullnat::VIPS, &["c0"])
}

#[test]
fn no_checksum_is_wrong_in_tunnels() -> Result<()> {
    let lab = Lab::new(1)?;
    unwrap_everywhere(&lab)?;
    for (outer_v4, echo) in [(true, Mode::Ipip), (false, Mode::Gue)] {
        let config: Config = tunnelled(&lab, outer_v4, echo);
        let _agent = lab.start_agent(&config)?;
        check(&lab, &[VIPS[2].0, VIPS[3].0], &["c0", "c1"])?;
    }
    Ok(())
}

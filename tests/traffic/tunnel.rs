//! Modes `ipip` and `gue`, with `lb decap` at the backends.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Config, DSR_V4, DSR_V6, Lab, Load, Mode, Protocol, Result, Service, curl, decap, eventually,
    run, spread, tunnel_sources, unwrap_for,
};

use super::{ECHO, WEB, all_answer, mtu::ask_at_length, names, url};

const PATIENCE: Duration = Duration::from_secs(10);
/// Port of the other web service.
const OTHER_WEB: u16 = 8443;
const VIPS: [IpAddr; 2] = [DSR_V4, DSR_V6];

/// Has all backends unwrap.
pub(super) fn unwrap_everywhere(lab: &Lab) -> Result<()> {
    lab.backends.iter().try_for_each(|backend| unwrap_for(&backend.netns, "eth0", &VIPS))
}

/// Web services of each mode and an echo service of one, at the backends' addresses of
/// one family, for VIPs of both.
pub(super) fn tunnelled(lab: &Lab, outer_v4: bool, echo: Mode) -> Config {
    let mut services = Vec::new();
    for vip in VIPS {
        for (protocol, port, mode) in [
            (Protocol::Tcp, WEB, Mode::Ipip),
            (Protocol::Tcp, OTHER_WEB, Mode::Gue),
            (Protocol::Udp, ECHO, echo),
        ] {
            let service = Service::new(vip, protocol, port, mode);
            services.push(lab.backends.iter().fold(service, |service, backend| {
                service.with_one(&backend.name, backend.address(outer_v4))
            }));
        }
    }
    Config { node: tunnel_sources(), ..lab.config(services) }
}

/// What `lb decap` counted at all backends, by its name.
fn counted(lab: &Lab, name: &str) -> Result<u64> {
    lab.backends.iter().try_fold(0, |sum, backend| {
        let shown = run(decap(&backend.netns).arg("--json"), PATIENCE)?.stdout;
        let shown: serde_json::Value = shown.parse().expect("JSON");
        Ok(sum + shown["packets"][name].as_u64().expect("a count"))
    })
}

#[test]
fn clients_are_served_through_tunnels() -> Result<()> {
    let lab = Lab::new(2)?;
    unwrap_everywhere(&lab)?;
    let mut agent = None;
    for (outer_v4, echo) in
        [(true, Mode::Ipip), (true, Mode::Gue), (false, Mode::Ipip), (false, Mode::Gue)]
    {
        // One agent after the other: the data plane of the first goes on.
        drop(agent.take());
        agent = Some(lab.start_agent(&tunnelled(&lab, outer_v4, echo))?);
        for vip in VIPS {
            for (port, name) in [(WEB, "ipip"), (OTHER_WEB, "gue")] {
                let what = format!("{name} at {vip}, outer IPv4 {outer_v4}");
                let before = counted(&lab, name)?;
                let answers = spread(&lab.client, &url(vip, port, "/"), 40)?;
                assert_eq!(answers.into_keys().collect::<BTreeSet<_>>(), names(&lab), "{what}");
                assert_eq!(curl(&lab.client, &url(vip, port, "/1k"))?.len(), 1024);
                // SYN, ACK, request.
                assert!(counted(&lab, name)? >= before + 3 * 41, "{what}");
            }
            assert!(all_answer(&lab, vip), "{echo} at {vip}: {:?}", lab.pins().counters()?);
        }
    }
    for fault in ["bad_source", "malformed", "congestion"] {
        assert_eq!(counted(&lab, fault)?, 0, "{fault}");
    }
    Ok(())
}

#[test]
fn load_causes_no_socket_errors() -> Result<()> {
    let lab = Lab::new(2)?;
    unwrap_everywhere(&lab)?;
    let _agent = lab.start_agent(&tunnelled(&lab, true, Mode::Gue))?;
    for vip in VIPS {
        for port in [WEB, OTHER_WEB] {
            for close in [false, true] {
                let load = Load { close, ..Load::new(url(vip, port, "/1k")) };
                let report = load.run(&lab.client)?;
                assert!(report.is_clean(), "{vip}, port {port}, {close}: {}", report.text);
            }
        }
    }
    Ok(())
}

/// The links carry 1500 bytes, and so long are a client's packets at first: with a
/// second header they do not fit.
#[test]
fn clients_learn_what_tunnels_have_room_for() -> Result<()> {
    let lab = Lab::new(1)?;
    unwrap_everywhere(&lab)?;
    let _agent = lab.start_agent(&tunnelled(&lab, false, Mode::Ipip))?;
    for vip in VIPS {
        for (port, overhead) in [(WEB, 40), (OTHER_WEB, 48)] {
            // What the client learnt of the other service's tunnel is of the same VIP.
            lab.client.ip("route flush cache\n-6 route flush cache")?;
            let told = || lab.pins().counter(Counter::TooBig).unwrap_or_default();
            let before = told();
            let learns = || ask_at_length(&lab, vip, port).is_ok() && told() > before;
            assert!(eventually(PATIENCE, learns), "{vip}: {:?}", lab.pins().counters()?);
            let known = told();
            ask_at_length(&lab, vip, port)?;
            assert_eq!(told(), known, "{vip}, port {port}");
            let route = ["route", "get", &vip.to_string()];
            let route = run(lab.client.command("ip").args(route), PATIENCE)?.stdout;
            assert!(route.contains(&format!("mtu {}", 1500 - overhead)), "{route}");
        }
    }
    Ok(())
}

/// Whoever the balancer sends to has only the tunnel: without the program that unwraps
/// nothing is served, with it again all is, and the agent need not know.
#[test]
fn unwrapping_goes_on_by_itself_and_ends_when_told_to() -> Result<()> {
    let lab = Lab::new(1)?;
    unwrap_everywhere(&lab)?;
    let _agent = lab.start_agent(&tunnelled(&lab, true, Mode::Gue))?;
    let url = url(DSR_V4, OTHER_WEB, "/");
    curl(&lab.client, &url)?;
    run(decap(&lab.backends[0].netns).arg("--detach"), PATIENCE)?;
    assert!(curl(&lab.client, &url).is_err());
    unwrap_everywhere(&lab)?;
    curl(&lab.client, &url)?;
    // Given again, it takes nothing from packets on their way.
    let load = Load::new(url).start(&lab.client)?;
    for _ in 0..10 {
        unwrap_everywhere(&lab)?;
    }
    let report = load.report()?;
    assert!(report.is_clean(), "{}", report.text);
    Ok(())
}

/// The backend is a hop further, behind a link that carries less: its router tells the
/// balancer, which tells clients.
#[test]
fn routers_on_the_way_to_backends_are_heeded() -> Result<()> {
    let lab = Lab::new(2)?;
    let [far, router] = [&lab.backends[0].netns, &lab.backends[1].netns];
    router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    router.ip(&format!(
        "link add near mtu 1400 numrxqueues 2 numtxqueues 2 type veth \
         peer name far mtu 1400 numrxqueues 2 numtxqueues 2 netns {}
         link set near up
         addr add 10.9.0.2/24 dev near
         addr add fd00:9::2/64 dev near nodad",
        far.name()
    ))?;
    far.ip("link set far up
         addr add 10.9.0.1/24 dev far
         addr add fd00:9::1/64 dev far nodad")?;
    router.offload("near", &["tx", "off"])?;
    far.offload("far", &["tx", "off"])?;
    lab.balancer.ip("route add 10.9.0.0/24 via 10.2.0.12
         -6 route add fd00:9::/64 via fd00:2::12")?;
    unwrap_for(far, "far", &VIPS)?;
    for (outer, overhead) in [("10.9.0.1", 28), ("fd00:9::1", 48)] {
        let services = VIPS.map(|vip| {
            let service = Service::new(vip, Protocol::Tcp, WEB, Mode::Gue);
            service.with_one("far", outer.parse().expect("an address"))
        });
        let config = Config { node: tunnel_sources(), ..lab.config(services) };
        let _agent = lab.start_agent(&config)?;
        for vip in VIPS {
            let learns = || ask_at_length(&lab, vip, WEB).is_ok();
            assert!(eventually(PATIENCE, learns), "{vip}: {:?}", lab.pins().counters()?);
            let route = ["route", "get", &vip.to_string()];
            let route = run(lab.client.command("ip").args(route), PATIENCE)?.stdout;
            assert!(route.contains(&format!("mtu {}", 1400 - overhead)), "{vip}: {route}");
        }
        assert!(lab.pins().counter(Counter::TunnelError)? > 0);
    }
    Ok(())
}

//! Probes of services in mode `dsr` are for the VIP.

use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::harness::{
    Agent, DSR_V4, DSR_V6, Echo, Lab, Mode, Netns, Protocol, Result, Service, TcPass, eventually,
};

use super::{ECHO, WEB, health::becomes};

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Port of the DNS server.
const DNS: u16 = 53;
/// A port where nobody listens.
const CLOSED: u16 = 81;
/// What a probe says that nobody answered.
const LACKS_IT: &str = "is it configured there?";

/// A service at all backends that are probed like this.
fn probed(lab: &Lab, vip: std::net::IpAddr, protocol: Protocol, port: u16, kind: &str) -> Service {
    let lines = format!(
        "[service.health]\ninterval = \"200ms\"\ntimeout = \"150ms\"\nrise = 1\nfall = 1\n{kind}"
    );
    Service::new(vip, protocol, port, Mode::Dsr).with(&lab.backends).lines(&lines)
}

/// Services that both backends of a lab serve, with every kind of probe.
fn served(lab: &Lab) -> Vec<Service> {
    let (http, echo) =
        ("kind = \"http\"\npath = \"/1k\"", "kind = \"udp\"\nsend = \"hi\"\nexpect = \"b\"");
    let of = |vip| {
        [
            probed(lab, vip, Protocol::Tcp, WEB, http),
            probed(lab, vip, Protocol::Tcp, 8080, "kind = \"tcp\""),
            probed(lab, vip, Protocol::Udp, ECHO, echo),
            probed(lab, vip, Protocol::Udp, DNS, "kind = \"dns\"\nname = \"web.test\""),
        ]
    };
    [of(DSR_V4), of(DSR_V6)].into_iter().flatten().collect()
}

/// A DNS server for both VIPs at every backend.
fn dns(lab: &Lab) -> Result<Vec<Echo>> {
    // Any answer that repeats the question with the bit QR set is one.
    let answer = |query: &[u8]| {
        query.iter().enumerate().map(|(i, b)| if i == 2 { b | 0x80 } else { *b }).collect()
    };
    let server = |netns: &Netns| Echo::answering(netns, &[DSR_V4, DSR_V6], DNS, answer);
    lab.backends.iter().map(|backend| server(&backend.netns)).collect()
}

/// Adds the VIPs to a host's loopback interface, or deletes them.
fn vips(netns: &Netns, order: &str) -> Result<()> {
    netns.ip(&format!(
        "addr {order} {DSR_V4}/32 dev lo
         addr {order} {DSR_V6}/128 dev lo{}",
        if order == "add" { " nodad" } else { "" }
    ))
}

/// A backend loses its VIPs and gets them back.
fn lose_and_regain(lab: &Lab, agent: &Agent, services: &[Service]) -> Result<()> {
    for backend in ["b1", "b2"] {
        services.iter().for_each(|s| drop(becomes(lab, agent, s.name(), backend, "up")));
    }
    vips(&lab.backends[1].netns, "del")?;
    for service in services {
        let reason = becomes(lab, agent, service.name(), "b2", "down");
        assert!(reason.contains(LACKS_IT), "{}: {reason}", service.name());
        becomes(lab, agent, service.name(), "b1", "up");
    }
    vips(&lab.backends[1].netns, "add")?;
    services.iter().for_each(|s| drop(becomes(lab, agent, s.name(), "b2", "up")));
    Ok(())
}

#[test]
fn a_dsr_backend_without_the_vip_is_found_out() -> Result<()> {
    let lab = Lab::new(2)?;
    let _dns = dns(&lab)?;
    let services = served(&lab);
    let agent = lab.start_agent(&lab.config(services.clone()))?;
    lose_and_regain(&lab, &agent, &services)?;
    // Where the balancer has the VIP, an answer seems to come from itself.
    vips(&lab.balancer, "add")?;
    lose_and_regain(&lab, &agent, &services)
}

#[test]
fn a_guarded_host_gets_the_answers_to_its_probes() -> Result<()> {
    let lab = Lab::new(2)?;
    let _dns = dns(&lab)?;
    lab.balancer.sysctl(&[("ipv4/conf/all/rp_filter", "1")])?;
    let services = served(&lab);
    let mut config = lab.config(services.clone());
    config.firewall = "host = \"drop\"".into();
    let agent = lab.start_agent(&config)?;
    lose_and_regain(&lab, &agent, &services)
}

#[test]
fn who_has_the_vip_but_does_not_serve_there_says_so() -> Result<()> {
    let lab = Lab::new(1)?;
    let cases = [
        (Protocol::Tcp, "kind = \"tcp\"", "connection refused"),
        (Protocol::Udp, "kind = \"udp\"\nsend = \"hi\"", "port unreachable"),
    ];
    let cases = [DSR_V4, DSR_V6].into_iter().flat_map(|vip| {
        cases.map(|(protocol, kind, found)| {
            let expected = format!("{found} for the VIP {vip}");
            (probed(&lab, vip, protocol, CLOSED, kind), expected)
        })
    });
    let cases: Vec<_> = cases.collect();
    let agent = lab.start_agent(&lab.config(cases.iter().map(|(service, _)| service.clone())))?;
    for (service, expected) in cases {
        assert_eq!(becomes(&lab, &agent, service.name(), "b1", "down"), expected);
    }
    Ok(())
}

#[test]
fn no_other_backend_answers_for_one_that_forwards() -> Result<()> {
    let lab = Lab::new(2)?;
    let services =
        [DSR_V4, DSR_V6].map(|vip| probed(&lab, vip, Protocol::Tcp, WEB, "kind = \"tcp\""));
    let forwarder = &lab.backends[1].netns;
    forwarder.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    vips(forwarder, "del")?;
    let agent = lab.start_agent(&lab.config(services.clone()))?;
    for service in &services {
        becomes(&lab, &agent, service.name(), "b1", "up");
        // What it sends on has no hop left, and the balancer drops it.
        let reason = becomes(&lab, &agent, service.name(), "b2", "down");
        assert!(reason.contains("for the VIP"), "{reason}");
    }
    Ok(())
}

/// Names of the programs of traffic control at an interface of the balancer's,
/// in the order in which packets come to them; others' have none.
fn programs(lab: &Lab, interface: &str) -> [Vec<String>; 2] {
    let names = |direction| {
        let (_, programs) = SchedClassifier::query_tcx(interface, direction).unwrap_or_default();
        programs
            .iter()
            .map(|program| program.name_as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let both = || [TcAttachType::Ingress, TcAttachType::Egress].map(names);
    lab.balancer.within(both).expect("the namespace exists")
}

#[test]
fn traffic_control_is_used_only_while_such_probes_are_made() -> Result<()> {
    let lab = Lab::new(1)?;
    let add = || {
        let queues = "numrxqueues 2 numtxqueues 2";
        lab.balancer.ip(&format!(
            "link add a0 {queues} type veth peer name a0p {queues}
             link set a0 up"
        ))
    };
    add()?;
    let mut config = lab.config([probed(&lab, DSR_V4, Protocol::Tcp, WEB, "kind = \"tcp\"")]);
    config.interfaces.push("a0".into());
    let service = config.services[0].name().to_owned();
    let _foreign = TcPass::attach(&lab.balancer, "l1")?;
    let ours_first = || {
        let alone = [["lb_probe_in"], ["lb_probe_out"]];
        programs(&lab, "l1") == [["lb_probe_in", ""], ["lb_probe_out", ""]]
            && ["l0", "a0"].iter().all(|name| programs(&lab, name) == alone)
    };
    let ours_gone = || {
        programs(&lab, "l1") == [[""], [""]]
            && ["l0", "a0"].iter().all(|name| programs(&lab, name).iter().all(Vec::is_empty))
    };
    let agent = lab.start_agent(&config)?;
    assert!(ours_first(), "{}", agent.log());
    becomes(&lab, &agent, &service, "b1", "up");

    lab.balancer.ip("link del a0")?;
    assert!(eventually(PATIENCE, || agent.log().contains("waiting for it")), "{}", agent.log());
    add()?;
    assert!(eventually(PATIENCE, ours_first), "{}", agent.log());

    lab.done(&["service", "set", &service, "health.kind=none"])?;
    assert!(ours_gone(), "{}", agent.log());
    lab.done(&["service", "set", &service, "health.kind=tcp"])?;
    assert!(ours_first(), "{}", agent.log());

    agent.kill()?;
    assert!(eventually(PATIENCE, ours_gone), "left behind");
    let agent = lab.start_agent(&config)?;
    assert!(ours_first(), "{}", agent.log());
    Ok(())
}

#[test]
fn without_traffic_control_backends_are_probed_at_their_own_addresses() -> Result<()> {
    let lab = Lab::new(1)?;
    vips(&lab.backends[0].netns, "del")?;
    // As many as an interface takes, which is less than this.
    let all: Vec<_> = (0..100).map_while(|_| TcPass::attach(&lab.balancer, "l1").ok()).collect();
    let config = lab.config([probed(&lab, DSR_V4, Protocol::Tcp, WEB, "kind = \"tcp\"")]);
    let service = config.services[0].name();
    let agent = lab.start_agent(&config)?;
    becomes(&lab, &agent, service, "b1", "up");
    let complaints = agent.log().matches("is not found out").count();
    assert_eq!(complaints, 1, "{}", agent.log());
    drop(all);
    becomes(&lab, &agent, service, "b1", "down");
    Ok(())
}

//! A balancer whose interfaces are ports of a bridge (IEEE 802.1D): its addresses are the
//! bridge's, and what stations behind the ports have to tell each other is none of its business.

use std::{fs, time::Duration};

use lb_common::stats::Counter;
use lb_tests::harness::{
    Agent, Config, DSR_V4, DSR_V6, Lab, Load, Mode, NAT_V4, Protocol, Result, Service, XdpPass,
    ask_udp, curl, decap, eventually, finish, run, unwrap_for,
};

use super::{ECHO, VIPS, WEB, all_answer, all_services, url};

/// How long an agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A lab whose balancer's `l0` and `l1` are ports of its bridge `br0`, which has its addresses.
fn lab(backends: usize) -> Result<Lab> {
    let lab = Lab::new(backends)?;
    // Else both of the client's interfaces answer for each address: they are on one network.
    lab.client.sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")])?;
    lab.balancer.ip("link add br0 type bridge
         addr flush dev l0
         addr flush dev l1
         link set l0 master br0
         link set l1 master br0
         link set br0 up
         addr add 10.1.0.1/24 dev br0
         addr add fd00:1::1/64 dev br0 nodad
         addr add 10.2.0.1/24 dev br0
         addr add fd00:2::1/64 dev br0 nodad")?;
    for table in ["iptables", "ip6tables", "arptables"] {
        let setting = format!("bridge/bridge-nf-call-{table}");
        if fs::exists(format!("/proc/sys/net/{setting}")).unwrap_or(false) {
            lab.balancer.sysctl(&[(&setting, "0")])?;
        }
    }
    Ok(lab)
}

/// Whether one request is forwarded by the data plane alone, and its answer too.
fn all_alone(lab: &Lab, (vip, mode): (std::net::IpAddr, Mode)) -> Result<bool> {
    let pins = lab.pins();
    let (handed, before) = (pins.counter(Counter::HandedOver)?, pins.traffic()?);
    curl(&lab.client, &url(vip, WEB, "/"))?;
    let after = pins.traffic()?;
    // SYN, ACK, request; SYN-ACK, answer.
    let replies = if mode == Mode::Nat { 2 } else { 0 };
    Ok(after.packets >= before.packets + 3
        && after.replies >= before.replies + replies
        && pins.counter(Counter::HandedOver)? == handed)
}

/// Fails unless that becomes true of all services.
fn all_alone_soon(lab: &Lab, agent: &Agent) {
    for way in VIPS {
        let alone = || all_alone(lab, way).unwrap_or(false);
        assert!(
            eventually(PATIENCE, alone),
            "{way:?}: {:?}\n{}",
            lab.pins().counters(),
            agent.log()
        );
    }
}

#[test]
fn the_data_plane_forwards_from_port_to_port() -> Result<()> {
    let lab = lab(3)?;
    let agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    all_alone_soon(&lab, &agent);
    for (vip, mode) in VIPS {
        assert!(all_answer(&lab, vip), "at {vip}: {:?}", lab.pins().counters()?);
        let load = Load { close: true, ..Load::new(url(vip, WEB, "/1k")) };
        let report = load.run(&lab.client)?;
        assert!(report.is_clean(), "{mode} at {vip}: {}", report.text);
    }
    let explained = lab.json(&["explain", "10.1.0.2:5555", "203.0.113.10:80", "--syn"])?;
    assert!(explained.to_string().contains("l1, to "), "{explained}");
    // In by a port, and out by the same.
    lab.client.ip("route replace 203.0.113.0/24 via 10.2.0.1 src 10.1.0.2
         -6 route replace 2001:db8::/64 via fd00:2::1 src fd00:1::2")?;
    all_alone_soon(&lab, &agent);
    Ok(())
}

#[test]
fn what_others_tell_each_other_passes() -> Result<()> {
    let lab = lab(1)?;
    let vips = [DSR_V4, DSR_V6];
    let services = vips.map(|vip| Service::new(vip, Protocol::Tcp, WEB, Mode::Dsr));
    let mut config = lab.config(services.map(|service| service.with(&lab.backends)));
    // What is for the host itself does not pass: not even that is asked about others' packets.
    config.firewall = "host = \"drop\"\n".into();
    let agent = lab.start_agent(&config)?;
    for vip in vips {
        assert_eq!(curl(&lab.client, &url(vip, WEB, "/"))?, "b1\n");
    }
    // The server has these addresses, too: the client sends to it by itself.
    lab.client.ip(&format!(
        "route add {DSR_V4} via 10.2.0.11 dev c0 onlink
         -6 route add fd00:2::11 dev c0
         -6 route add {DSR_V6} via fd00:2::11 dev c0"
    ))?;
    let before = (lab.pins().traffic()?.packets, lab.pins().counter(Counter::HostProtected)?);
    for vip in vips {
        assert_eq!(curl(&lab.client, &url(vip, WEB, "/"))?, "b1\n", "{}", agent.log());
    }
    // A port that is no service's.
    assert!(curl(&lab.client, &url(DSR_V4, 7, "/")).is_err());
    let after = (lab.pins().traffic()?.packets, lab.pins().counter(Counter::HostProtected)?);
    assert_eq!(after, before);
    Ok(())
}

#[test]
fn who_is_not_seen_any_more_or_moves_is_found_again() -> Result<()> {
    let lab = lab(3)?;
    lab.link_to_switch("l2", "balancer2")?;
    let _pass = XdpPass::attach(&lab.switch, "balancer2")?;
    let mut config = lab.config(all_services(&lab));
    config.interfaces.push("l2".into());
    let agent = lab.start_agent(&config)?;
    all_alone_soon(&lab, &agent);

    // As if the bridge had aged them all; the neighbours are known still.
    for port in ["l0", "l1"] {
        lab.balancer.ip(&format!("link set {port} type bridge_slave fdb_flush"))?;
    }
    all_alone_soon(&lab, &agent);

    // All servers are behind another port, and the agent is not asked to do anything.
    lab.balancer.ip("link set l1 nomaster
         link set l2 master br0")?;
    all_alone_soon(&lab, &agent);

    // Another agent finds the same, and what another one left of a port that is none now.
    agent.kill()?;
    lab.balancer.ip("link set l2 nomaster
         link set l1 master br0")?;
    let agent = lab.start_agent(&config)?;
    all_alone_soon(&lab, &agent);
    Ok(())
}

#[test]
fn the_bridge_itself_is_attached_to_alone_or_with_a_port() -> Result<()> {
    let lab = lab(1)?;
    let mut config = lab.config(all_services(&lab));
    config.interfaces = vec!["br0".into()];
    let text = |config: &Config| config.to_string().replace("\"native\"", "\"auto\"");
    let file = lab.write(&config)?;
    fs::write(&file, text(&config)).expect("the file was written before");
    let agent = Agent::start(&lb_tests::harness::lb_binary(), &lab.balancer, &file)?;
    let shown = run(lab.balancer.command("ip").args(["link", "show", "dev", "br0"]), PATIENCE)?;
    assert!(shown.stdout.contains("xdpgeneric"), "{}", shown.stdout);
    let answer = |agent: &Agent| {
        for (vip, _) in VIPS {
            assert!(eventually(PATIENCE, || all_answer(&lab, vip)), "{vip}: {}", agent.log());
        }
    };
    answer(&agent);
    // A port's program would come too late for the kernel.
    config.interfaces.push("l1".into());
    fs::write(&file, text(&config)).expect("the file was written before");
    agent.reload()?;
    let told = || agent.log().contains("`l1` is a part of one that has an XDP program");
    assert!(eventually(PATIENCE, told), "{}", agent.log());
    answer(&agent);
    agent.kill()?;
    let output = finish(lab.lb().arg("detach").arg("--config").arg(&file), PATIENCE)?;
    assert!(output.status.success(), "{}", output.stderr);
    // The other way round both are served, and frames leave by ports.
    config.interfaces = ["l0", "l1", "br0"].map(Into::into).to_vec();
    fs::write(&file, text(&config)).expect("the file was written before");
    let agent = Agent::start(&lb_tests::harness::lb_binary(), &lab.balancer, &file)?;
    all_alone_soon(&lab, &agent);
    Ok(())
}

#[test]
fn a_port_that_spanning_tree_blocks_is_left_to_the_bridge() -> Result<()> {
    let lab = lab(1)?;
    lab.link_to_switch("l2", "balancer2")?;
    let _pass = XdpPass::attach(&lab.switch, "balancer2")?;
    let mut config = lab.config(all_services(&lab));
    config.interfaces.push("l2".into());
    let agent = lab.start_agent(&config)?;
    // Two ways to one switch: frames would go round for ever.
    lab.balancer.ip("link set br0 type bridge stp_state 1 forward_delay 200
         link set l2 master br0")?;
    let blocks = || {
        let shown = run(lab.balancer.command("bridge").args(["link", "show"]), PATIENCE);
        shown.is_ok_and(|shown| shown.stdout.contains("state blocking"))
    };
    assert!(eventually(PATIENCE, blocks), "no port is blocked");
    all_alone_soon(&lab, &agent);
    // The switch gives frames for the balancer to both.
    for port in ["balancer", "balancer2"] {
        lab.switch.ip(&format!("link set {port} type bridge_slave learning off"))?;
        lab.switch.ip(&format!("link set {port} type bridge_slave fdb_flush"))?;
    }
    let before = lab.pins().traffic()?.replies;
    let asked = 20;
    for _ in 0..asked {
        ask_udp(&lab.client, (NAT_V4, ECHO).into(), "once").expect("an answer");
    }
    assert_eq!(lab.pins().traffic()?.replies, before + asked, "{}", agent.log());
    Ok(())
}

#[test]
fn decap_takes_the_bridge_and_not_its_port() -> Result<()> {
    let lab = lab(0)?;
    let refused = unwrap_for(&lab.balancer, "l1", &[DSR_V4]).expect_err("others' tunnels");
    let expected = "interface `l1` is a port of the bridge `br0`";
    assert!(refused.to_string().contains(expected), "{refused}");
    unwrap_for(&lab.balancer, "br0", &[DSR_V4])?;
    run(decap(&lab.balancer).arg("--detach"), PATIENCE)?;
    Ok(())
}

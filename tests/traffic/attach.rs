//! To which interfaces the program is attached, and how.

use std::{fs, time::Duration};

use lb_tests::harness::{
    Agent, Config, DSR_V4, Lab, NAT_V4, Netns, Result, eventually, finish, lb_binary, run,
};

use super::{VIPS, all_answer, all_services};

/// How long an agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the lab's.
const QUEUES: &str = "numrxqueues 2 numtxqueues 2";

/// A peer whose frames do not fit one page, which native XDP refuses.
const TOO_MUCH: &str = "mtu 9000 numrxqueues 2 numtxqueues 2";

/// What `ip` says of an interface.
fn show(netns: &Netns, interface: &str) -> Result<String> {
    let output = run(netns.command("ip").args(["link", "show", "dev", interface]), PATIENCE)?;
    Ok(output.stdout)
}

fn is_native(netns: &Netns, interface: &str) -> bool {
    show(netns, interface).is_ok_and(|text| text.contains(" xdp "))
}

fn is_generic(netns: &Netns, interface: &str) -> bool {
    show(netns, interface).is_ok_and(|text| text.contains(" xdpgeneric "))
}

/// Writes the configuration with another `node.xdp_mode` than the lab's.
fn write_with_mode(lab: &Lab, config: &Config, mode: &str) -> Result<()> {
    let text = config.to_string().replace("\"native\"", &format!("\"{mode}\""));
    fs::write(lab.write(config)?, text).expect("the file was written before");
    Ok(())
}

#[test]
fn another_xdp_mode_attaches_anew() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = lab.config(all_services(&lab));
    let agent = lab.start_agent(&config)?;
    assert!(is_native(&lab.balancer, "l0"));

    write_with_mode(&lab, &config, "generic")?;
    agent.reload()?;
    let generic = || ["l0", "l1"].iter().all(|name| is_generic(&lab.balancer, name));
    assert!(eventually(PATIENCE, generic), "{}", agent.log());
    assert!(eventually(PATIENCE, || all_answer(&lab, DSR_V4)), "{}", agent.log());

    write_with_mode(&lab, &config, "auto")?;
    let generation = lab.pins().generation()?;
    agent.reload()?;
    assert!(eventually(PATIENCE, || lab.pins().generation().is_ok_and(|now| now > generation)));
    assert!(generic(), "`auto` keeps what is there");

    agent.kill()?;
    let agent = lab.start_agent(&config)?;
    assert!(["l0", "l1"].iter().all(|name| is_native(&lab.balancer, name)), "{}", agent.log());
    Ok(())
}

#[test]
fn a_link_of_another_network_namespace_is_not_adopted() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = lab.config([]);
    lab.start_agent(&config)?.kill()?;

    let other = Netns::create(format!("{}-other", lab.name()))?;
    for name in &config.interfaces {
        let text = show(&lab.balancer, name)?;
        let index = text.split(':').next().unwrap_or_default();
        other.ip(&format!(
            "link add {name} index {index} {QUEUES} type veth peer name {name}p index 10{index} {QUEUES}
             link set {name} up
             link set {name}p up"
        ))?;
    }
    let agent = Agent::start(&lb_binary(), &other, &lab.write(&config)?)?;
    for name in &config.interfaces {
        assert!(is_native(&other, name), "{}", agent.log());
        let gone = || !is_native(&lab.balancer, name);
        assert!(eventually(PATIENCE, gone), "two interfaces with one pin");
    }
    Ok(())
}

#[test]
fn a_restart_that_cannot_attach_changes_nothing() -> Result<()> {
    let lab = Lab::new(3)?;
    let mut config = lab.config(all_services(&lab));
    lab.start_agent(&config)?.kill()?;
    let before = lab.pins().generation()?;

    lab.balancer.ip(&format!("link add bad {QUEUES} type veth peer name badp {TOO_MUCH}"))?;
    config.interfaces.push("bad".into());
    config.services.clear();
    let file = lab.write(&config)?;
    let output = finish(lab.lb().arg("agent").arg("--config").arg(&file), PATIENCE)?;
    assert!(!output.status.success());
    assert!(output.stderr.contains("`bad`"), "{}", output.stderr);
    assert_eq!(lab.pins().generation()?, before);
    for (vip, _) in VIPS {
        assert!(all_answer(&lab, vip), "{vip}: {}", output.stderr);
    }
    Ok(())
}

#[test]
fn an_interface_away_or_in_trouble_stands_in_nobodys_way() -> Result<()> {
    let lab = Lab::new(3)?;
    let add = |name: &str, peer: &str| {
        lab.balancer.ip(&format!(
            "link add {name} {QUEUES} type veth peer name {name}p {peer}
             link set {name} up"
        ))
    };
    add("a0", QUEUES)?;
    add("a1", QUEUES)?;
    let mut config = lab.config(all_services(&lab));
    config.interfaces = ["a0", "l0", "l1", "a1"].map(Into::into).to_vec();
    let agent = lab.start_agent(&config)?;

    lab.balancer.ip("link del a0")?;
    let waits = || agent.log().contains("waiting for it");
    assert!(eventually(PATIENCE, waits), "{}", agent.log());
    let before = lab.pins().generation()?;
    agent.reload()?;
    let reloaded = || lab.pins().generation().is_ok_and(|now| now > before);
    assert!(eventually(PATIENCE, reloaded), "{}", agent.log());

    lab.balancer.ip("link del a1")?;
    add("a0", TOO_MUCH)?;
    add("a1", QUEUES)?;
    let back = eventually(PATIENCE, || is_native(&lab.balancer, "a1"));
    assert!(back && !is_native(&lab.balancer, "a0"), "{}", agent.log());
    let told = || agent.log().contains("MTU of interface `a0`");
    assert!(eventually(PATIENCE, told), "{}", agent.log());
    assert!(all_answer(&lab, NAT_V4));
    Ok(())
}

#[test]
fn forwarding_that_is_off_is_told_where_mode_nat_needs_it() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.balancer.sysctl(&[("ipv6/conf/all/forwarding", "0")])?;
    let mut config = lab.config(all_services(&lab));
    let agent = lab.start_agent(&config)?;
    assert!(agent.log().contains("`net.ipv6.conf.all.forwarding` is 0"), "{}", agent.log());
    assert!(!agent.log().contains("`net.ipv4.ip_forward`"), "{}", agent.log());
    agent.kill()?;

    // Those of the first VIP, which is of IPv4.
    config.services.truncate(2);
    let agent = lab.start_agent(&config)?;
    assert!(!agent.log().contains("forwarding` is 0"), "{}", agent.log());
    Ok(())
}

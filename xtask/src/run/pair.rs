//! Two balancers in a lab, of which one dies under load.

use std::{path::Path, thread, time::Duration};

use anyhow::ensure;
use lb_tests::harness::{
    Agent, DSR_V4, Load, Mode, NAT_V4, PairLab, Prober, Protocol, Service, eventually,
    source_addresses,
};

use super::{Interruption, url};

/// Backends of the lab.
const BACKENDS: usize = 3;
/// Port of the echo service.
const ECHO: u16 = 7;
/// How long wrk runs, and what happens meanwhile: the first node dies, is there
/// again, and is handed the addresses back.
const LOAD: Duration = Duration::from_secs(10);
const DEATH: Duration = Duration::from_secs(3);
/// How long something may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pair's one group.
const GROUP: &str = "all";

/// Makes a lab, kills who serves under load, and waits to be interrupted.
/// Nothing of it is left afterwards.
pub(super) fn demonstrate(binary: &Path, interruption: Interruption) -> anyhow::Result<()> {
    eprintln!("making a lab: client, router, two balancers, {BACKENDS} backends with nginx");
    let lab = PairLab::new(BACKENDS)?.with_binary(binary);
    lab.make_key()?;
    let services = || {
        let web = |vip, mode| Service::new(vip, Protocol::Tcp, 80, mode);
        let echo = Service::new(NAT_V4, Protocol::Udp, ECHO, Mode::Nat);
        let services = [web(NAT_V4, Mode::Nat), web(DSR_V4, Mode::Dsr), echo];
        services.map(|service| service.with(&lab.backends))
    };
    let start = |node: usize| lab.nodes[node].start_agent(&lab.config(node, services()));
    let mut agents = [start(0)?, start(1)?];
    wait_for(&lab, 0)?;
    let names = lab.nodes.each_ref().map(|node| node.name);
    println!("\n{} serves, {} stands by and knows its connections.\n", names[0], names[1]);

    let load = |vip| {
        let load = Load::new(url(vip) + "1k");
        Load { duration: LOAD, ..load }.start(&lab.client)
    };
    let loads = [("nat", load(NAT_V4)?), ("dsr", load(DSR_V4)?)];
    let prober = Prober::start(&lab.client, source_addresses(true)[0], (NAT_V4, ECHO).into())?;
    thread::sleep(DEATH);
    let [first, second] = agents;
    first.kill()?;
    lab.unplug(0)?;
    println!("  {} is killed, its cables are pulled", names[0]);
    wait_for_role(&lab, 1)?;
    println!("  {} serves", names[1]);
    lab.replug(0)?;
    agents = [start(0)?, second];
    wait_for(&lab, 1)?;
    println!("  {} is back and knows all connections", names[0]);
    lab.nodes[1].done(&["ha", "failover"])?;
    wait_for(&lab, 0)?;
    println!("  {} was handed the addresses back", names[0]);
    for (mode, load) in loads {
        let report = load.report()?;
        let (requests, errors) = (report.requests, report.socket_errors + report.bad_answers);
        println!("  wrk, {mode}: {requests} requests over kept connections, {errors} errors");
        ensure!(report.is_clean(), "connections broke:\n{}", report.text);
    }
    println!("  longest time without an answer: {} ms", prober.stop()?.gap.as_millis());
    suggest(&lab, binary);
    interruption.wait();

    println!("\nremoving the lab");
    agents.into_iter().try_for_each(|agent: Agent| agent.terminate().map(drop))?;
    Ok(())
}

/// Waits until a node serves, and the other knows its connections.
fn wait_for(lab: &PairLab, active: usize) -> anyhow::Result<()> {
    wait_for_role(lab, active)?;
    let peer = &lab.nodes[1 - active];
    let status = || peer.json(&["ha", "status"]);
    let knows = || status().is_ok_and(|status| status["sync"]["heard"]["complete"] == true);
    ensure!(eventually(PATIENCE, knows), "{} does not hear of all connections", peer.name);
    Ok(())
}

fn wait_for_role(lab: &PairLab, active: usize) -> anyhow::Result<()> {
    let node = &lab.nodes[active];
    let role = || node.groups_by("role").ok()?.remove(GROUP);
    let serves = || role().is_some_and(|role| role == "active");
    ensure!(eventually(PATIENCE, serves), "{} does not serve", node.name);
    Ok(())
}

fn suggest(lab: &PairLab, binary: &Path) {
    let client = lab.client.enter();
    let lb = binary.display();
    let ask = |node: usize, words: &str| {
        let node = &lab.nodes[node];
        format!("{} {lb} --socket {} {words}", node.netns.enter(), node.socket().display())
    };
    println!(
        "
Try, in another terminal (as root):
  {client} curl {nat}
  {client} wrk -c 64 -d 20 {nat}1k
  {status}
  {failover}
  {peer}

Ctrl-C ends the lab and removes all of it.",
        nat = url(NAT_V4),
        status = ask(0, "ha status"),
        failover = ask(0, "ha failover"),
        peer = ask(1, "ha status"),
    );
}

//! The balancer at work: in a lab, or on real interfaces.

mod pair;

use std::{
    collections::BTreeMap,
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use lb_tests::harness::{DSR_V4, Lab, Mode, NAT_V4, NAT_V6, Protocol, Service, spread, sweep};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    setup::{Purpose, setup},
    shell, test,
};

/// Backends of the lab.
const BACKENDS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Attach to real interfaces, as this configuration says
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Attach to this interface instead of those the configuration names
    #[arg(long = "iface", value_name = "NAME", requires = "config")]
    interfaces: Vec<String>,
    /// Make a lab of two balancers, and kill the one that serves under load
    #[arg(long, conflicts_with = "config")]
    pair: bool,
    /// Everything is installed and built: this is the balancer's binary
    #[arg(long, value_name = "PATH", hide = true)]
    built: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = match &arguments.config {
        // We change the directory.
        Some(file) => Some(
            std::path::absolute(file)
                .with_context(|| format!("cannot make `{}` absolute", file.display()))?,
        ),
        None => None,
    };
    let binary = if let Some(binary) = &arguments.built {
        binary.clone()
    } else {
        setup(if config.is_some() { Purpose::Build } else { Purpose::Run })?;
        test::build()?
    };
    if let Some(config) = config {
        return attach(&binary, &config, &arguments.interfaces);
    }
    if shell::is_root() {
        demonstrate(&binary, arguments.pair)
    } else {
        again_as_root(&binary, arguments.pair)
    }
}

/// Becomes the agent on real interfaces.
fn attach(binary: &Path, config: &Path, interfaces: &[String]) -> anyhow::Result<()> {
    let mut words = shell::as_root(&[])?;
    words.extend([binary.into(), "agent".into(), "--config".into(), config.into()]);
    for interface in interfaces {
        words.extend(["--interface".into(), interface.into()]);
    }
    let mut agent = shell::command(&words[0]);
    agent.args(&words[1..]);
    eprintln!("the agent runs until Ctrl-C; forwarding goes on after that until:");
    eprintln!("  {} detach --config {}", binary.display(), config.display());
    Err(agent.exec()).with_context(|| format!("cannot start `{}`", binary.display()))
}

/// Runs this program again with root's rights for what needs them, so that
/// whatever was built belongs to the user.
fn again_as_root(binary: &Path, pair: bool) -> anyhow::Result<()> {
    let mut words = shell::as_root(&[])?;
    let this = env::current_exe().context("cannot find this program")?;
    words.extend([this.into(), "run".into(), "--built".into(), binary.into()]);
    words.extend(pair.then(|| "--pair".into()));
    let mut command = shell::command(&words[0]);
    Err(command.args(&words[1..]).exec()).context("cannot start sudo")
}

/// Makes a lab, sends requests through it, and waits to be interrupted.
/// Nothing of it is left afterwards.
fn demonstrate(binary: &Path, pair: bool) -> anyhow::Result<()> {
    for lab in sweep()? {
        eprintln!("removed what an earlier run left: {lab}");
    }
    // From here on an interruption is noted and ends the wait below, instead
    // of ending us with a lab half made.
    let interruption = Interruption::listen()?;
    if pair {
        return pair::demonstrate(binary, interruption);
    }

    eprintln!("making a lab: client, balancer, {BACKENDS} backends with nginx");
    let lab = Lab::new(BACKENDS)?.with_binary(binary);
    let web = |vip, mode| Service::new(vip, Protocol::Tcp, 80, mode).with(&lab.backends);
    let services = [web(NAT_V4, Mode::Nat), web(NAT_V6, Mode::Nat), web(DSR_V4, Mode::Dsr)];
    let config = lab.config(services);
    let agent = lab.start_agent(&config)?;
    println!("\nlb is attached to l0 and l1 of the balancer, in native mode.\n");
    send(&lab).with_context(|| format!("the agent says:\n{}", agent.log()))?;
    suggest(&lab, &lab.write(&config)?, binary);
    interruption.wait();

    println!("\nremoving the lab");
    agent.terminate()?;
    Ok(())
}

/// Sends requests to every service and shows who answered.
fn send(lab: &Lab) -> anyhow::Result<()> {
    let services = [(NAT_V4, "nat, IPv4", 12), (NAT_V6, "nat, IPv6", 6), (DSR_V4, "dsr, IPv4", 12)];
    let mut silent: BTreeMap<_, _> = lab.backends.iter().map(|b| (b.name.clone(), ())).collect();
    for (vip, what, requests) in services {
        let url = url(vip);
        let answers =
            spread(&lab.client, &url, requests).with_context(|| format!("{what}: {url}"))?;
        let shares: Vec<_> = answers.iter().map(|(name, n)| format!("{name} x {n}")).collect();
        println!("  {requests:>2} requests to {url:<25} ({what}):  {}", shares.join(", "));
        silent.retain(|name, ()| !answers.contains_key(name));
    }
    if !silent.is_empty() {
        bail!("never answered: {:?}", silent.into_keys().collect::<Vec<_>>());
    }
    Ok(())
}

fn suggest(lab: &Lab, config: &Path, binary: &Path) {
    let (client, balancer) = (lab.client.enter(), lab.balancer.enter());
    let (config, lb) = (config.display(), binary.display());
    println!(
        "
Try, in another terminal (as root):
  {client} curl {nat}
  {client} curl --globoff '{nat_v6}'
  {client} wrk -c 64 -d 5 {nat}1k
  {client} wrk -c 64 -d 5 -H 'Connection: close' {dsr}1k
  {client} ping -c 3 {vip}
  {balancer} ip link show l0

  cat {config}
  {lb} check {config}
  {balancer} {lb} detach --config {config}

Ctrl-C ends the lab and removes all of it.",
        nat = url(NAT_V4),
        nat_v6 = url(NAT_V6),
        dsr = url(DSR_V4),
        vip = NAT_V4,
    );
}

fn url(vip: std::net::IpAddr) -> String {
    if vip.is_ipv6() { format!("http://[{vip}]/") } else { format!("http://{vip}/") }
}

/// SIGINT, SIGTERM or SIGHUP, since [`Interruption::listen`].
struct Interruption {
    runtime: tokio::runtime::Runtime,
    signals: [Signal; 3],
}

impl Interruption {
    fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        drop(guard);
        Ok(Self { runtime, signals })
    }

    fn wait(mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                _ = hangup.recv() => (),
            }
        });
    }
}

//! Who is compared, and how each is started.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, DevMap},
    programs::{Xdp, XdpMode},
};
use lb_bench::{BACKENDS, Bare, Hop};
use lb_tests::harness::{Agent, DSR_V4, Lab, Mode, NAT_V4, Process, Protocol, Service, run};

use super::PORT;
use crate::bench::link::{self, Link};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who spreads connections over backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// This project's balancer.
    Lb(Mode),
    /// An XDP program that rewrites and redirects.
    Bare(Mode),
    /// Destination NAT by nftables, forwarded by the kernel.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
}

/// All but this project's.
pub(super) const RIVALS: [Contender; 4] = [
    Contender::Bare(Mode::Nat),
    Contender::Bare(Mode::Dsr),
    Contender::Nftables,
    Contender::Haproxy,
];

impl Contender {
    /// Everybody.
    pub(super) const ALL: [Self; 6] = [
        Self::Lb(Mode::Nat),
        Self::Lb(Mode::Dsr),
        Self::Bare(Mode::Nat),
        Self::Bare(Mode::Dsr),
        Self::Nftables,
        Self::Haproxy,
    ];

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> String {
        match self {
            Self::Lb(mode) => format!("lb {mode}"),
            Self::Bare(mode) => format!("bare XDP {mode}"),
            Self::Nftables => "nftables DNAT".into(),
            Self::Haproxy => "HAProxy TCP".into(),
        }
    }

    /// Whether it is what this project makes.
    pub(super) fn is_lb(self) -> bool {
        matches!(self, Self::Lb(_))
    }

    /// Where clients connect to.
    pub(super) fn vip(self) -> IpAddr {
        match self {
            Self::Lb(Mode::Dsr) | Self::Bare(Mode::Dsr) => DSR_V4,
            _ => NAT_V4,
        }
    }

    /// Starts it in the balancer's namespace.
    pub(super) fn start(self, lab: &Lab, object: &[u8]) -> Result<Running> {
        match self {
            Self::Lb(mode) => start_lb(lab, mode, self.vip()),
            Self::Bare(mode) => {
                lab.balancer.within(|| start_bare(lab, object, mode, self.vip()))?
            }
            Self::Nftables => start_nftables(lab),
            Self::Haproxy => start_haproxy(lab),
        }
    }
}

/// A contender at work.
pub(super) enum Running {
    /// The agent; the data plane would outlive it.
    Lb(Agent),
    /// The programs stay attached as long as this.
    Bare(Ebpf),
    /// Rules of the kernel.
    Nftables,
    /// A process and the VIP, which it holds.
    Haproxy(Process),
}

impl Running {
    /// Leaves the lab as it was. Without it (after an error, that is) the lab
    /// itself goes, and all this with it.
    pub(super) fn stop(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Lb(agent) => {
                let status = agent.terminate()?;
                ensure!(status.success(), "the agent ended with {status}");
                let mut detach = lab.lb();
                detach.args(["detach", "--pin-dir"]).arg(lab.config([]).pin_dir);
                run(&mut detach, PATIENCE)?;
            }
            Self::Bare(programs) => drop(programs),
            Self::Nftables => {
                run(lab.balancer.command("nft").args(["flush", "ruleset"]), PATIENCE)?;
            }
            Self::Haproxy(process) => {
                drop(process);
                lab.balancer.ip(&format!("addr del {NAT_V4}/32 dev lo"))?;
            }
        }
        Ok(())
    }
}

fn start_lb(lab: &Lab, mode: Mode, vip: IpAddr) -> Result<Running> {
    let service = Service::new(vip, Protocol::Tcp, PORT, mode).with(&lab.backends);
    Ok(Running::Lb(lab.start_agent(&lab.config([service]))?))
}

/// To be called in the balancer's namespace: interfaces are looked up there.
fn start_bare(lab: &Lab, object: &[u8], mode: Mode, vip: IpAddr) -> Result<Running> {
    let l0 = link::of(&lab.balancer, "l0")?;
    let l1 = link::of(&lab.balancer, "l1")?;
    let hop = |to: Link, from: Link, addr: Ipv4Addr| {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&to.mac);
        macs[6..].copy_from_slice(&from.mac);
        Hop { macs, addr: lb_common::addr::v4_word(addr) }
    };
    let client = hop(link::of(&lab.client, "c0")?, l0, Ipv4Addr::UNSPECIFIED);
    let mut backends = [client; BACKENDS];
    for (backend, slot) in lab.backends.iter().zip(&mut backends) {
        *slot = hop(link::of(&backend.netns, "eth0")?, l1, v4(backend.address(true))?);
    }
    let bare = Bare {
        backends,
        client,
        vip: lb_common::addr::v4_word(v4(vip)?),
        port: PORT.to_be(),
        backend_port: PORT.to_be(),
    };

    let mut ebpf = Ebpf::load(object).context("load the bare forwarder")?;
    let map = ebpf.map_mut("BARE").context("no map `BARE`")?;
    let bytes: [u8; size_of::<Bare>()] = bytemuck::cast(bare);
    Array::<_, [u8; size_of::<Bare>()]>::try_from(map)?.set(0, bytes, 0)?;
    let mut ports = DevMap::try_from(ebpf.map_mut("PORTS").context("no map `PORTS`")?)?;
    for index in 0..=BACKENDS as u32 {
        let link = if index < BACKENDS as u32 { l1 } else { l0 };
        ports.set(index, link.ifindex, None, 0)?;
    }
    let name = if mode == Mode::Nat { "bare_nat" } else { "bare_dsr" };
    let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
    program.load().with_context(|| format!("load `{name}`"))?;
    for interface in ["l0", "l1"] {
        program.attach(interface, XdpMode::Driver)?;
    }
    Ok(Running::Bare(ebpf))
}

fn start_nftables(lab: &Lab) -> Result<Running> {
    let backends: Vec<_> = lab
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| format!("{index} : {}", backend.address(true)))
        .collect();
    let rules = format!(
        "table ip lb {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {NAT_V4} tcp dport {PORT} dnat to jhash ip saddr . tcp sport mod {BACKENDS} \
         map {{ {} }}
    }}
}}
",
        backends.join(", ")
    );
    let file = write(lab, "rules.nft", &rules)?;
    run(lab.balancer.command("nft").arg("-f").arg(file), PATIENCE)?;
    Ok(Running::Nftables)
}

fn start_haproxy(lab: &Lab) -> Result<Running> {
    let mut text = format!(
        "global
    nbthread 2
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen lb
    bind {NAT_V4}:{PORT}
    balance roundrobin
"
    );
    for backend in &lab.backends {
        writeln!(text, "    server {} {}:{PORT}", backend.name, backend.address(true))?;
    }
    let file = write(lab, "haproxy.cfg", &text)?;
    lab.balancer.ip(&format!("addr add {NAT_V4}/32 dev lo"))?;
    let mut process =
        Process::start(lab.balancer.command("haproxy").args(["-db", "-f"]).arg(file))?;
    process.wait_for("listening socket", PATIENCE, |_| {
        let connect = || TcpStream::connect((NAT_V4, PORT)).is_ok();
        lab.balancer.within(connect).unwrap_or(false)
    })?;
    Ok(Running::Haproxy(process))
}

/// Writes a file into the lab's directory, which goes with the lab.
fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.write(&lab.config([]))?.with_file_name(name);
    fs::write(&path, text).with_context(|| format!("write `{}`", path.display()))?;
    Ok(path)
}

fn v4(addr: IpAddr) -> Result<Ipv4Addr> {
    match addr {
        IpAddr::V4(addr) => Ok(addr),
        IpAddr::V6(addr) => bail!("`{addr}`: expected an IPv4 address"),
    }
}

//! The standard lab:
//!
//! ```text
//! client c0 ──────── l0 balancer l1 ───┐
//!   10.1.0.2      10.1.0.1  10.2.0.1   │ sw, a bridge
//!   fd00:1::2    fd00:1::1  fd00:2::1  ├────── eth0 b1  10.2.0.11, fd00:2::11
//! client c1 ───────────────────────────┤       ...
//!   10.2.0.100, fd00:2::100            └────── eth0 bN
//! ```
//!
//! The client's way to all VIPs is the balancer. The backends' way back is the
//! balancer (mode `nat`), but from a VIP of mode `dsr`, which they hold on
//! their loopback interface, it is the client's second interface.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    thread,
};

use super::{
    Agent, Config, Echo, Error, Netns, Nginx, Pins, Result, Service, XdpPass, lb_binary,
    owner::{Claim, STATE},
};

/// VIPs for services of mode `nat`.
pub const NAT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// See [`NAT_V4`].
pub const NAT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// More of them, for two services at the same backends.
pub const OTHER_NAT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11));
/// See [`OTHER_NAT_V4`].
pub const OTHER_NAT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11));
/// VIPs for services of mode `dsr`; the backends hold them too.
pub const DSR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20));
/// See [`DSR_V4`].
pub const DSR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20));
/// The client's address on its way to the balancer.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
/// See [`CLIENT_V4`].
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2));

/// Further addresses of the client's, per family, for many flows.
const SOURCES: u8 = 8;
/// First of them, as the last part of the address in decimal digits.
const FIRST_SOURCE: u8 = 20;
/// Port of the UDP echo servers.
const ECHO_PORT: u16 = 7;
/// Receive and transmit queues of every interface: a native program can be
/// attached only where there are as many of the one as the peer has of the other.
const QUEUES: &str = "numrxqueues 2 numtxqueues 2";

/// Settings of every namespace, of interfaces yet to come.
const EVERYWHERE: [(&str, &str); 8] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Routers solicit neighbours from their link-local address, which would be
    // tentative for more than a second.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
];

/// A server.
#[derive(Debug)]
pub struct Backend {
    /// `b1`, `b2`, …
    pub name: String,
    // Servers go before the namespace they live in.
    _nginx: Nginx,
    _echo: Echo,
    /// Where it lives; its interface is `eth0`.
    pub netns: Netns,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// A lab with its servers running. No balancer runs in it yet.
#[derive(Debug)]
pub struct Lab {
    _links: [XdpPass; 2],
    /// The servers.
    pub backends: Vec<Backend>,
    /// The client's namespace.
    pub client: Netns,
    /// The balancer's namespace.
    pub balancer: Netns,
    /// The bridge's namespace.
    pub switch: Netns,
    binary: PathBuf,
    claim: Claim,
}

impl Lab {
    /// Makes a lab with `backends` servers (at most 80), each with [`Nginx`]
    /// and a UDP [`Echo`] on port 7.
    ///
    /// # Errors
    /// We are not privileged, or a tool is missing.
    pub fn new(backends: usize) -> Result<Self> {
        allow_files()?;
        let claim = Claim::new()?;
        let netns = |role| make_netns(&claim, role);
        let (client, balancer, switch) = (netns("client")?, netns("balancer")?, netns("sw")?);
        make_switch(&switch)?;
        plug(&balancer, "l1", &switch, "balancer")?;
        plug(&client, "c1", &switch, "client")?;
        link(&client, "c0", &balancer, "l0")?;
        make_balancer(&balancer)?;
        make_client(&client)?;
        let links = [XdpPass::attach(&client, "c0")?, XdpPass::attach(&switch, "balancer")?];
        let backends = Backend::make_all(backends, &switch, &claim)?;
        Ok(Self { _links: links, backends, client, balancer, switch, binary: lb_binary(), claim })
    }

    /// Joins a further interface of the balancer's and a port of the switch.
    ///
    /// # Errors
    /// Those names are taken.
    pub fn link_to_switch(&self, here: &str, port: &str) -> Result<()> {
        plug(&self.balancer, here, &self.switch, port)
    }

    /// Another `lb` than [`lb_binary`]'s.
    #[must_use]
    pub fn with_binary(self, binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), ..self }
    }

    /// A command of `lb` inside the balancer's namespace.
    #[must_use]
    pub fn lb(&self) -> Command {
        self.balancer.command(&self.binary)
    }

    /// The agent's admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.claim.dir.join("lb.sock")
    }

    /// The lab's name, which all its parts begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.claim.name
    }

    /// The balancer's pins.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins::new(&self.claim.pin_dir)
    }

    /// A configuration for the lab's balancer.
    #[must_use]
    pub fn config(&self, services: impl IntoIterator<Item = Service>) -> Config {
        Config {
            name: "lab".into(),
            hash_seed: None,
            interfaces: vec!["l0".into(), "l1".into()],
            pin_dir: self.claim.pin_dir.clone(),
            state_dir: self.claim.dir.join(STATE),
            socket: self.socket(),
            group: None,
            http: None,
            flows: 65_536,
            node: String::new(),
            firewall: String::new(),
            ha: None,
            services: services.into_iter().collect(),
        }
    }

    /// A path in the lab's directory, which goes with the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.claim.dir.join(name)
    }

    /// Writes the balancer's configuration file.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&self, config: &Config) -> Result<PathBuf> {
        let path = self.claim.dir.join("lb.toml");
        fs::write(&path, config.to_string())
            .map_err(Error::io(format!("write `{}`", path.display())))?;
        Ok(path)
    }

    /// Writes the configuration and starts the agent with it and further `words`.
    ///
    /// # Errors
    /// Those of [`Agent::start`].
    pub fn start_agent_with(&self, config: &Config, words: &[&str]) -> Result<Agent> {
        Agent::start_with(&self.binary, &self.balancer, &self.write(config)?, words)
    }

    /// Writes the configuration and starts the agent with it.
    ///
    /// # Errors
    /// Those of [`Agent::start`].
    pub fn start_agent(&self, config: &Config) -> Result<Agent> {
        self.start_agent_with(config, &[])
    }
}

impl Backend {
    /// Its address of one family.
    #[must_use]
    pub fn address(&self, v4: bool) -> IpAddr {
        if v4 { self.v4.into() } else { self.v6.into() }
    }

    /// Makes `count` backends, at ports of the switch that are named like them.
    pub(super) fn make_all(count: usize, switch: &Netns, claim: &Claim) -> Result<Vec<Self>> {
        thread::scope(|scope| {
            let makers: Vec<_> = (1..=count)
                .map(|number| {
                    scope.spawn(move || {
                        let name = format!("b{number}");
                        Self::make(make_netns(claim, &name)?, name, number, switch, claim)
                    })
                })
                .collect();
            let join = |maker: thread::ScopedJoinHandle<'_, _>| {
                maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            makers.into_iter().map(join).collect()
        })
    }

    fn make(
        netns: Netns,
        name: String,
        number: usize,
        switch: &Netns,
        claim: &Claim,
    ) -> Result<Self> {
        // 10.2.0.11 and fd00:2::11 belong together, so the last part of the
        // IPv6 address is read as hexadecimal digits.
        let last = 10 + number;
        let v4 = format!("10.2.0.{last}");
        let v6 = format!("fd00:2::{last}");
        plug(&netns, "eth0", switch, &name)?;
        netns.sysctl(&[
            // The balancer alone answers for the VIPs (mode `dsr`).
            ("ipv4/conf/all/arp_ignore", "1"),
            ("ipv4/conf/all/arp_announce", "2"),
        ])?;
        netns.ip(&format!(
            "addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             addr add {DSR_V4}/32 dev lo
             addr add {DSR_V6}/128 dev lo nodad
             route add default via 10.2.0.1
             route add 10.2.0.0/24 dev eth0 table 100
             route add default via 10.2.0.100 table 100
             rule add from {DSR_V4} lookup 100
             -6 route add default via fd00:2::1
             -6 route add fd00:2::/64 dev eth0 table 100
             -6 route add default via fd00:2::100 table 100
             -6 rule add from {DSR_V6} lookup 100"
        ))?;
        let address = |text: &str| Error::Unexpected { what: "address".into(), found: text.into() };
        let v4: Ipv4Addr = v4.parse().map_err(|_| address(&v4))?;
        let v6: Ipv6Addr = v6.parse().map_err(|_| address(&v6))?;
        let nginx = Nginx::start(&netns, &name, &claim.dir.join(&name))?;
        let echo = Echo::start(&netns, &name, &[v4.into(), v6.into(), DSR_V4, DSR_V6], ECHO_PORT)?;
        Ok(Self { name, _nginx: nginx, _echo: echo, netns, v4, v6 })
    }
}

/// Makes the namespace of one part of a lab.
pub(super) fn make_netns(claim: &Claim, role: &str) -> Result<Netns> {
    let netns = Netns::create(format!("{}-{role}", claim.name))?;
    netns.sysctl(&EVERYWHERE)?;
    Ok(netns)
}

/// Lets us and the servers open as many files as the system allows: tests hold
/// thousands of connections.
pub(super) fn allow_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let failed = || Error::io("raise the limit of open files");
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(failed()(io::Error::last_os_error()));
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid; the call changes nothing but the limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(failed()(io::Error::last_os_error()));
    }
    Ok(())
}

/// Addresses that the client may use for many flows, of one family.
#[must_use]
pub fn source_addresses(v4: bool) -> Vec<IpAddr> {
    let source = |i| -> IpAddr {
        let last = FIRST_SOURCE + i;
        if v4 {
            Ipv4Addr::new(10, 1, 0, last).into()
        } else {
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last.into()).into()
        }
    };
    (0..SOURCES).map(source).collect()
}

/// Joins interface `here` of one namespace and `there` of another.
pub(super) fn link(netns: &Netns, here: &str, peer: &Netns, there: &str) -> Result<()> {
    netns.ip(&format!(
        "link add {here} {QUEUES} type veth peer name {there} {QUEUES} netns {}
         link set {here} up",
        peer.name()
    ))?;
    peer.ip(&format!("link set {there} up"))
}

/// Joins interface `here` of a namespace and a new port of the switch.
pub(super) fn plug(netns: &Netns, here: &str, switch: &Netns, port: &str) -> Result<()> {
    link(netns, here, switch, port)?;
    switch.ip(&format!("link set {port} master br0"))?;
    // A veth leaves checksums to whoever receives the frame, and a program that
    // rewrites it cannot know: ends of the lab complete them, as a NIC does.
    netns.offload(here, &["tx", "off"])
}

pub(super) fn make_switch(switch: &Netns) -> Result<()> {
    switch.ip("link add br0 type bridge
         link set br0 up")?;
    // The filter of bridged packets drops what is malformed, which some tests
    // send on purpose. The settings exist only where its module is loaded.
    let settings = ["iptables", "ip6tables", "arptables"]
        .map(|table| format!("bridge/bridge-nf-call-{table}"));
    for setting in &settings {
        if fs::exists(format!("/proc/sys/net/{setting}")).unwrap_or(false) {
            switch.sysctl(&[(setting, "0")])?;
        }
    }
    Ok(())
}

fn make_balancer(balancer: &Netns) -> Result<()> {
    balancer.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    balancer.ip("addr add 10.1.0.1/24 dev l0
         addr add fd00:1::1/64 dev l0 nodad
         addr add 10.2.0.1/24 dev l1
         addr add fd00:2::1/64 dev l1 nodad")
}

pub(super) fn make_client(client: &Netns) -> Result<()> {
    client.sysctl(&[("ipv4/ip_local_port_range", "1024 65535")])?;
    client.offload("c0", &["tx", "off", "gro", "on"])?;
    let mut lines = format!(
        "addr add {CLIENT_V4}/24 dev c0
         addr add {CLIENT_V6}/64 dev c0 nodad
         addr add 10.2.0.100/24 dev c1
         addr add fd00:2::100/64 dev c1 nodad
         route add 203.0.113.0/24 via 10.1.0.1
         -6 route add 2001:db8::/64 via fd00:1::1\n"
    );
    for (v4, v6) in source_addresses(true).into_iter().zip(source_addresses(false)) {
        // Deprecated addresses are not chosen for connections that name none
        // (RFC 6724, section 5, rule 3), nor are an IPv4 network's later ones.
        lines += &format!("addr add {v4}/24 dev c0\n");
        lines += &format!("addr add {v6}/64 dev c0 nodad preferred_lft 0\n");
    }
    client.ip(&lines)
}

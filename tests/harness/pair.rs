//! The lab for pairs:
//!
//! ```text
//!                     front, a bridge                 back, a bridge
//! client c0 ── r0 router r1 ──┬── l0 lb-a l1 ──┬── eth0 b1  10.2.0.11
//!   10.1.0.2     10.3.0.254   │   10.3.0.2     │       ...
//!                             │   10.2.0.2     └── eth0 bN
//!                             └── l0 lb-b l1 ──┬
//! client c1 ────────────────────── 10.3.0.3 ───┘
//!   10.2.0.100                     10.2.0.3
//! ```
//!
//! IPv6 addresses are alike: `fd00:3::2` is `lb-a` in the front network. The
//! VIPs are in the front network, so the router asks there who has one. The
//! backends' way back (mode `nat`) is 10.2.0.1 and `fd00:2::1`, which nobody has
//! but who serves. From VIPs of mode `dsr` it is the client's second interface.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Backend, Capture, Config, DSR_V4, DSR_V6, Error, Group, Ha, Mac, NAT_V4, NAT_V6, Netns, Node,
    OTHER_NAT_V4, OTHER_NAT_V6, Prober, Process, Result, Seen, Service, XdpPass,
    lab::{allow_files, link, make_client, make_netns, make_switch, plug},
    lb_binary,
    owner::{Claim, STATE},
    run,
};

/// The backends' way back, which moves with the VIPs of mode `nat`.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1));
/// See [`GATEWAY_V4`].
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1));

/// Equal on both nodes, so that they give a flow the same backend.
const SEED: &str = "000102030405060708090a0b0c0d0e0f";
/// Name of the pair.
const PAIR: &str = "lab";
/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// What a captured frame to a backend comes from.
const CLIENTS: &str = "src net 10.1.0.0/24 or src net fd00:1::/64";
/// How long a tool may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network that both balancers are in; each is a way for their heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// With the router.
    Front,
    /// With the backends.
    Back,
}

/// Two balancers with a router before and servers behind them.
#[derive(Debug)]
pub struct PairLab {
    _links: [XdpPass; 4],
    /// The servers.
    pub backends: Vec<Backend>,
    /// The balancers, `lb-a` and `lb-b`.
    pub nodes: [Node; 2],
    /// The client's namespace.
    pub client: Netns,
    /// The router's namespace.
    pub router: Netns,
    /// Namespace of the bridge between the router and the balancers.
    pub front: Netns,
    /// Namespace of the bridge between the balancers and the backends.
    pub back: Netns,
    claim: Claim,
}

/// A capture of what the balancers send to the backends.
#[derive(Debug)]
pub struct Watch {
    capture: Capture,
    names: BTreeMap<Mac, &'static str>,
}

/// Frames that one balancer sent while the other sent none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The balancer's name.
    pub node: &'static str,
    /// When the first frame was seen, since 1970.
    pub first: Duration,
    /// When the last one was.
    pub last: Duration,
    /// How many there were.
    pub frames: usize,
}

impl PairLab {
    /// Makes a lab with `backends` servers (at most 80).
    ///
    /// # Errors
    /// We are not privileged, or a tool is missing.
    pub fn new(backends: usize) -> Result<Self> {
        allow_files()?;
        let claim = Claim::new()?;
        let netns = |role| make_netns(&claim, role);
        let (client, router, front, back) =
            (netns("client")?, netns("router")?, netns("front")?, netns("back")?);
        make_network(&front)?;
        make_network(&back)?;
        link(&client, "c0", &router, "r0")?;
        plug(&client, "c1", &back, "client")?;
        make_client(&client)?;
        plug(&router, "r1", &front, "router")?;
        make_router(&router)?;
        let node = |name, last| make_node(name, last, &front, &back, &claim);
        let nodes = [node("lb-a", 2)?, node("lb-b", 3)?];
        nodes.iter().try_for_each(|node| steer(node, &client, &router))?;
        let pass = |switch, node: &Node| XdpPass::attach(switch, node.name);
        let [a, b] = &nodes;
        let links = [pass(&front, a)?, pass(&front, b)?, pass(&back, a)?, pass(&back, b)?];
        let backends = Backend::make_all(backends, &back, &claim)?;
        Ok(Self { _links: links, backends, nodes, client, router, front, back, claim })
    }

    /// The same with another binary of `lb`.
    #[must_use]
    pub fn with_binary(mut self, binary: &Path) -> Self {
        self.nodes.iter_mut().for_each(|node| node.binary = binary.into());
        self
    }

    /// A configuration of node 0 or 1, without `[ha]`.
    #[must_use]
    pub fn lone_config(&self, node: usize, services: impl IntoIterator<Item = Service>) -> Config {
        let node = &self.nodes[node];
        Config {
            name: node.name.into(),
            hash_seed: Some(SEED.into()),
            interfaces: vec!["l0".into(), "l1".into()],
            pin_dir: node.pin_dir.clone(),
            state_dir: node.path(STATE),
            socket: node.socket(),
            group: None,
            http: None,
            flows: 65_536,
            node: String::new(),
            firewall: String::new(),
            ha: None,
            services: services.into_iter().collect(),
        }
    }

    /// A configuration of node 0 or 1 as one of a pair, in which node 0 has the
    /// higher priority and one group has all VIPs and the gateways.
    #[must_use]
    pub fn config(&self, node: usize, services: impl IntoIterator<Item = Service>) -> Config {
        let ha = Ha {
            pair: PAIR.into(),
            peer: self.nodes[1 - node].listens(),
            listen: self.nodes[node].listens(),
            key_file: self.key_file(),
            priority: [150, 100][node],
            heartbeat: HEARTBEAT,
            preempt: false,
            replicate: false,
            fence: None,
            witness: None,
            groups: vec![Group {
                name: "all".into(),
                prefer: None,
                addresses: [Self::nat_addresses(), Self::dsr_addresses()].concat(),
            }],
        };
        Config { ha: Some(ha), ..self.lone_config(node, services) }
    }

    /// What has to move together in mode `nat`: the VIPs and the gateways.
    #[must_use]
    pub fn nat_addresses() -> Vec<(IpAddr, &'static str)> {
        let vips = [NAT_V4, NAT_V6, OTHER_NAT_V4, OTHER_NAT_V6].map(|vip| (vip, "l0"));
        vips.into_iter().chain([GATEWAY_V4, GATEWAY_V6].map(|gateway| (gateway, "l1"))).collect()
    }

    /// The VIPs of mode `dsr`.
    #[must_use]
    pub fn dsr_addresses() -> Vec<(IpAddr, &'static str)> {
        [DSR_V4, DSR_V6].map(|vip| (vip, "l0")).to_vec()
    }

    /// Has `lb` make the key that [`Self::config`] names.
    ///
    /// # Errors
    /// `lb ha keygen` fails.
    pub fn make_key(&self) -> Result<()> {
        let mut keygen = self.nodes[0].lb();
        run(keygen.args(["ha", "keygen"]).arg(self.key_file()), PATIENCE).map(drop)
    }

    /// Where the key is that [`Self::make_key`] makes.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.path("pair.key")
    }

    /// A path in the lab's directory, which goes with the lab.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.claim.dir.join(name)
    }

    /// Starts the witness that [`Self::witness_address`] names, at the router.
    ///
    /// # Errors
    /// It cannot be started, or does not answer in time; with its log.
    pub fn start_witness(&self) -> Result<Process> {
        let mut command = self.router.command(&self.nodes[0].binary);
        command.args(["witness", "--pair", PAIR, "--listen"]);
        command.arg(Self::witness_address().to_string()).arg("--key-file").arg(self.key_file());
        let mut witness = Process::start(&mut command)?;
        let ready = "the witness answers";
        witness.wait_for(ready, PATIENCE, |log| log.contains(ready))?;
        Ok(witness)
    }

    /// Where the witness is asked: the router, as the nodes see it in front.
    #[must_use]
    pub fn witness_address() -> SocketAddr {
        ([10, 3, 0, 254], 4791).into()
    }

    /// Loses the questions that node `from` sends to the witness.
    ///
    /// # Errors
    /// nft fails.
    pub fn cut_witness(&self, from: usize) -> Result<()> {
        let from = self.nodes[from].name;
        let port = Self::witness_address().port();
        nft(
            &self.front,
            &format!("add rule bridge cut forward iifname {from} udp dport {port} drop"),
        )
    }

    /// Loses the IPv4 packets that node `from` sends to the other by one network,
    /// without any sign at the interfaces. The way to all others stays, and so
    /// does ARP: a node whose neighbour cannot answer would not send either.
    ///
    /// # Errors
    /// nft fails.
    pub fn cut(&self, network: Network, from: usize) -> Result<()> {
        let (from, to) = (self.nodes[from].name, self.nodes[1 - from].name);
        let switch = if network == Network::Front { &self.front } else { &self.back };
        nft(
            switch,
            &format!("add rule bridge cut forward iifname {from} oifname {to} ether type ip drop"),
        )
    }

    /// Loses the IPv4 packets between the nodes, in both directions of both networks: of
    /// the latter at once.
    ///
    /// # Errors
    /// nft fails.
    pub fn part(&self) -> Result<()> {
        let [a, b] = [0, 1].map(|node| self.nodes[node].name);
        let rule = |from, to| {
            format!("add rule bridge cut forward iifname {from} oifname {to} ether type ip drop")
        };
        let both = format!("{}; {}", rule(a, b), rule(b, a));
        [&self.front, &self.back].into_iter().try_for_each(|switch| nft(switch, &both))
    }

    /// Loses all that the nodes say over connections; heartbeats go on.
    ///
    /// # Errors
    /// nft fails.
    pub fn cut_sync(&self) -> Result<()> {
        let [a, b] = [0, 1].map(|node| self.nodes[node].name);
        [&self.front, &self.back].into_iter().try_for_each(|switch| {
            let rule = |from, to, port| {
                format!("add rule bridge cut forward iifname {from} oifname {to} tcp {port} drop")
            };
            [(a, b), (b, a)].into_iter().try_for_each(|(from, to)| {
                nft(switch, &rule(from, to, "dport 4790"))?;
                nft(switch, &rule(from, to, "sport 4790"))
            })
        })
    }

    /// Loses so many of a hundred IPv4 packets between the nodes, in both directions of
    /// both networks, each by chance.
    ///
    /// # Errors
    /// nft fails.
    pub fn lose(&self, percent: u8) -> Result<()> {
        let [a, b] = [0, 1].map(|node| self.nodes[node].name);
        for (from, to) in [(a, b), (b, a)] {
            let way = format!("iifname {from} oifname {to} ether type ip");
            let rule = format!("{way} numgen random mod 100 < {percent} counter drop");
            for switch in [&self.front, &self.back] {
                nft(switch, &format!("add rule bridge cut forward {rule}"))?;
            }
        }
        Ok(())
    }

    /// Packets that [`Self::lose`] has lost, by network.
    ///
    /// # Errors
    /// nft fails.
    pub fn lost(&self) -> Result<[u64; 2]> {
        let of = |switch: &Netns| -> Result<u64> {
            let mut list = switch.command("nft");
            let text =
                run(list.args(["list", "chain", "bridge", "cut", "forward"]), PATIENCE)?.stdout;
            let counts = text.split("counter packets ").skip(1);
            Ok(counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum())
        };
        Ok([of(&self.front)?, of(&self.back)?])
    }

    /// Ends every [`Self::cut`] and [`Self::lose`].
    ///
    /// # Errors
    /// nft fails.
    pub fn heal(&self) -> Result<()> {
        [&self.front, &self.back]
            .into_iter()
            .try_for_each(|s| nft(s, "flush chain bridge cut forward"))
    }

    /// Pulls all cables of a node: what is gone for good looks like that.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn unplug(&self, node: usize) -> Result<()> {
        self.switch_ports(node, "down")
    }

    /// Puts them in again.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn replug(&self, node: usize) -> Result<()> {
        self.switch_ports(node, "up")
    }

    fn switch_ports(&self, node: usize, state: &str) -> Result<()> {
        let line = format!("link set {} {state}", self.nodes[node].name);
        [&self.front, &self.back].into_iter().try_for_each(|switch| switch.ip(&line))
    }

    /// Offers datagrams for a service to both nodes at once, whoever has the
    /// VIP: who forwards them serves.
    ///
    /// # Errors
    /// Those of [`Prober::start`].
    pub fn offer(&self, vip: IpAddr, port: u16) -> Result<[Prober; 2]> {
        let [a, b] = &self.nodes;
        let offer = |node: &Node| Prober::start(&self.client, node.steered(), (vip, port).into());
        Ok([offer(a)?, offer(b)?])
    }

    /// Captures what the balancers send to the backends for clients, until
    /// [`Watch::turns`] is called.
    ///
    /// # Errors
    /// Those of [`Capture::start`].
    pub fn watch(&self) -> Result<Watch> {
        let capture = Capture::start(&self.back, "br0", CLIENTS, &self.path("watch.pcap"))?;
        Ok(Watch {
            capture,
            names: self.nodes.iter().map(|node| (node.mac(), node.name)).collect(),
        })
    }
}

impl Watch {
    /// Who sent, by turns: balancers that never send at the same time have one
    /// turn each, and one more for each time that the other takes over.
    ///
    /// # Errors
    /// Those of [`Capture::frames`].
    pub fn turns(self) -> Result<Vec<Turn>> {
        let mut turns: Vec<Turn> = Vec::new();
        for Seen { at, source } in self.capture.frames()? {
            let Some(&node) = self.names.get(&source) else { continue };
            match turns.last_mut() {
                Some(turn) if turn.node == node => (turn.last, turn.frames) = (at, turn.frames + 1),
                _ => turns.push(Turn { node, first: at, last: at, frames: 1 }),
            }
        }
        Ok(turns)
    }
}

fn nft(netns: &Netns, words: &str) -> Result<()> {
    run(netns.command("nft").arg(words), PATIENCE).map(drop)
}

fn make_router(router: &Netns) -> Result<()> {
    router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    router.ip("addr add 10.1.0.1/24 dev r0
         addr add fd00:1::1/64 dev r0 nodad
         addr add 10.3.0.254/24 dev r1
         addr add fd00:3::fe/64 dev r1 nodad
         route add 203.0.113.0/24 dev r1
         -6 route add 2001:db8::/64 dev r1")
}

/// Makes a bridge in which [`PairLab::cut`] can lose something.
fn make_network(switch: &Netns) -> Result<()> {
    make_switch(switch)?;
    nft(switch, "add table bridge cut")?;
    nft(switch, "add chain bridge cut forward { type filter hook forward priority 0; }")
}

fn make_node(
    name: &'static str,
    last: u8,
    front: &Netns,
    back: &Netns,
    claim: &Claim,
) -> Result<Node> {
    let (dir, pin_dir) = (claim.dir.join(name), claim.pin_dir.join(name));
    let failed = Error::io(format!("make directory `{}`", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    let netns = make_netns(claim, name)?;
    let node = Node { name, netns, last, binary: lb_binary(), dir, pin_dir };
    for (interface, switch) in [("l0", front), ("l1", back)] {
        plug(&node.netns, interface, switch, name)?;
        // A switch floods what is for an address that it does not know; a NIC
        // would drop that, but a veth does not look at addresses.
        switch.ip(&format!("link set {name} type bridge_slave flood off"))?;
    }
    node.netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    let mac = node.mac().map(|byte| format!("{byte:02x}")).join(":");
    // What the data plane does not take the kernel would send back to the router.
    node.netns.ip(&format!(
        "link set l1 address {mac}
         addr add 10.3.0.{last}/24 dev l0
         addr add fd00:3::{last}/64 dev l0 nodad
         addr add 10.2.0.{last}/24 dev l1
         addr add fd00:2::{last}/64 dev l1 nodad
         route add default via 10.3.0.254
         route add blackhole 203.0.113.0/24
         -6 route add default via fd00:3::fe
         -6 route add blackhole 2001:db8::/64"
    ))?;
    Ok(node)
}

/// See [`Node::steered`].
fn steer(node: &Node, client: &Netns, router: &Netns) -> Result<()> {
    let (table, steered, front) = (node.last, node.steered(), node.front());
    client.ip(&format!("addr add {steered}/24 dev c0"))?;
    router.ip(&format!(
        "route add 203.0.113.0/24 via {front} table {table}
         rule add from {steered} lookup {table}"
    ))
}

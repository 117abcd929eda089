//! Frames at the port of heartbeats that are not the peer's.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use lb_tests::harness::{
    Agent, Error, NAT_V4, Node, Result, eventually, private_memory, processor_time, run,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{ECHO, PATIENCE, Pair, assert_kept};

/// Listens to heartbeats in the front network, then sends them again: as they
/// were, the other way round, damaged, cut, too long, and with anything in them;
/// all with the addresses of the peer.
const REPLAY: &str = "
import random
from scapy.all import IP, UDP, Raw, conf, sniff
wanted = lambda frame: UDP in frame and frame[UDP].dport == 4790
heard = sniff(iface='br0', lfilter=wanted, count=40, timeout=30)
assert len(heard) == 40, heard
out = conf.L2socket(iface='br0')
def damaged(said):
    at = random.randrange(len(said))
    return said[:at] + bytes([said[at] ^ 1 << random.randrange(8)]) + said[at + 1:]
changes = [
    lambda said: said,
    damaged,
    lambda said: said[:random.randrange(len(said))],
    lambda said: said + random.randbytes(1 + random.randrange(1400 - len(said))),
    lambda said: random.randbytes(random.randrange(1400)),
]
for change in changes * 5:
    heard = heard[::-1]
    for frame in heard:
        forged = frame.copy()
        said = change(bytes(frame[UDP].payload))
        forged[UDP].remove_payload()
        forged[UDP].add_payload(Raw(said))
        for layer, field in [(IP, 'len'), (IP, 'chksum'), (UDP, 'len'), (UDP, 'chksum')]:
            delattr(forged[layer], field)
        out.send(forged)
";
/// Datagrams of noise for each node from somebody else.
const NOISE: usize = 20_000;
/// How long noise goes on that seems to be the peer's, and how much there is: so many
/// datagrams for each node every few milliseconds.
const LONG: Duration = Duration::from_mins(1);
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);
/// Time between heartbeats: an attack is under way for long, and a busy machine may
/// stand still for a moment, which is none of its effects.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Callers that hang on at the same time.
const CALLERS: usize = 200;
/// Memory that an agent may take beside what it had, in bytes: buffers of its own.
const MORE: u64 = 4 << 20;
/// Share of a core that it may take.
const BUSY: f64 = 0.5;

/// How many frames a node has refused.
fn refused(pair: &Pair, node: usize) -> Result<u64> {
    Ok(pair.refused(node)?.into_values().sum())
}

/// Lets an attack happen: but for a counter it has no effect.
fn withstand(attack: impl Fn(&Pair) -> Result<()>, at_least: u64) -> Result<()> {
    let pair = Pair::with(2, |config| {
        if let Some(ha) = &mut config.ha {
            ha.heartbeat = HEARTBEAT;
        }
    })?;
    pair.settles("all", 0);
    let mut flows = pair.open()?;
    let terms =
        || -> Result<Vec<_>> { pair.lab.nodes.iter().map(|node| node.groups_by("term")).collect() };
    let before = (terms()?, refused(&pair, 0)?, refused(&pair, 1)?);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    attack(&pair)?;
    pair.goes_on(&offered[0]);
    pair.settles("all", 0);
    drop(offered);
    assert_eq!(terms()?, before.0);
    assert_eq!(watch.turns()?.len(), 1);
    for (node, before) in [(0, before.1), (1, before.2)] {
        let found = refused(&pair, node)? - before;
        assert!(found >= at_least, "{found} at node {node}: {}", pair.words());
    }
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn replayed_and_forged_heartbeats_have_no_effect() -> Result<()> {
    let replay = |pair: &Pair| {
        // Debian's scapy belongs to Debian's Python.
        let mut python = pair.lab.front.command("/usr/bin/python3");
        run(python.args(["-c", REPLAY]), Duration::from_secs(60)).map(drop)
    };
    // Both directions were heard, each in a quarter of the frames at least.
    withstand(replay, 250)
}

/// Bytes that look drawn by lot (xorshift).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 as u8
        };
        (0..length).map(|_| next()).collect()
    }
}

#[test]
fn noise_at_the_port_has_no_effect() -> Result<()> {
    let noise = |pair: &Pair| {
        let sent = pair.lab.router.within(|| -> io::Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let mut random = Random::new();
            for number in 0..NOISE {
                let bytes = random.bytes(number % 1400);
                for node in &pair.lab.nodes {
                    socket.send_to(&bytes, (node.front(), node.listens()[0].port()))?;
                }
            }
            Ok(())
        })?;
        sent.map_err(Error::io("send noise"))
    };
    // It is not the peer's address: the kernel keeps it from the agent.
    withstand(noise, 0)
}

/// An IPv4 packet (RFC 791) with a datagram (RFC 768) from one node to the other,
/// for a socket to which the kernel gives identification and checksum of the header.
fn datagram(from: SocketAddr, to: SocketAddr, said: &[u8]) -> Vec<u8> {
    let address = |at: SocketAddr| match at.ip() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("heartbeats of the lab are IPv4's"),
    };
    let length = (20 + 8 + said.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(address(from));
    packet.extend(address(to));
    // Without a checksum, which IPv4 allows.
    for word in [from.port(), to.port(), length - 20, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(said);
    packet
}

/// Sends noise to both nodes, each from the other's address, for a minute.
fn noise_of_the_peer(pair: &Pair) -> Result<()> {
    let heads = [&b""[..], b"lbHA", b"lbHA\x01", b"lbHA\x02"];
    let sent = pair.lab.router.within(|| -> io::Result<()> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let (mut random, end) = (Random::new(), Instant::now() + LONG);
        let ways = pair.lab.nodes.each_ref().map(|node: &Node| node.listens()[0]);
        while Instant::now() < end {
            for number in 0..BURST {
                let [length, ..] = random.bytes(1)[..] else { continue };
                let noise = random.bytes(usize::from(length) * 5);
                let said = [heads[number % heads.len()], &noise].concat();
                for (from, to) in [(ways[0], ways[1]), (ways[1], ways[0])] {
                    raw.send_to(&datagram(from, to, &said), &to.into())?;
                }
            }
            // Whoever sends without a pause measures the machine.
            let _ = eventually(PAUSE, || false);
        }
        Ok(())
    })?;
    sent.map_err(Error::io("send noise as the peer"))
}

#[test]
fn a_minute_of_noise_from_the_peers_address_takes_neither_memory_nor_time() -> Result<()> {
    let measured = |pair: &Pair| {
        let agents = || pair.agents.iter().flatten().map(Agent::id);
        let memory = || agents().map(private_memory).collect::<Result<Vec<_>>>();
        let time = || agents().map(processor_time).collect::<Result<Vec<_>>>();
        let (memory_before, time_before) = (memory()?, time()?);
        noise_of_the_peer(pair)?;
        for (before, after) in memory_before.into_iter().zip(memory()?) {
            println!("memory: {} KiB, then {}", before >> 10, after >> 10);
            assert!(after <= before + MORE, "{before} bytes, then {after}");
        }
        for (before, after) in time_before.into_iter().zip(time()?) {
            println!("processor time in {LONG:?}: {:?}", after - before);
            assert!((after - before).div_duration_f64(LONG) < BUSY, "{before:?}, then {after:?}");
        }
        Ok(())
    };
    withstand(measured, 1000)
}

/// Calls node 0 from the address of node 1 every few milliseconds, says nothing, and
/// hangs on, until `done`, which is told the number of calls.
fn call_and_say_nothing(
    pair: &Pair,
    mut done: impl FnMut(usize) -> Result<bool> + Send,
) -> Result<()> {
    let [a, b] = &pair.lab.nodes;
    let call = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(b.front(), 0).into())?;
        socket.set_nonblocking(true)?;
        // It goes on by itself.
        let _ = socket.connect(&a.listens()[0].into());
        Ok(socket)
    };
    b.netns.within(|| {
        let mut calls = VecDeque::new();
        for number in 0.. {
            if done(number)? {
                break;
            }
            calls.push_back(call().map_err(Error::io("call without a word"))?);
            if calls.len() > CALLERS {
                calls.pop_front();
            }
            let _ = eventually(PAUSE / 2, || false);
        }
        Ok(())
    })?
}

#[test]
fn callers_from_the_peers_address_that_say_nothing_do_not_keep_it_out() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.is_told(0);
    let log = || pair.log(0);
    let heard = || log().matches("flows of the peer are heard").count();
    let (before, end) = (heard(), Instant::now() + PATIENCE);
    call_and_say_nothing(&pair, |calls| {
        if calls == CALLERS {
            // The peer has to call, too.
            pair.lab.nodes[0].done(&["ha", "resync"])?;
        }
        Ok(heard() > before || Instant::now() > end)
    })?;
    assert!(heard() > before, "{}", pair.words());
    pair.is_told(0);
    pair.settles("all", 0);
    Ok(())
}

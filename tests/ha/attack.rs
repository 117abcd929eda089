//! Frames at the port of heartbeats that are not the peer's.

use std::{net::UdpSocket, time::Duration};

use lb_tests::harness::{Error, NAT_V4, Result, run};

use super::{ECHO, Pair, assert_kept};

/// Listens to heartbeats in the front network, then sends them again: as they
/// were, damaged, cut, too long, and with anything in them; all with the
/// addresses of the peer.
const REPLAY: &str = "
import random
from scapy.all import IP, UDP, Raw, conf, sniff
wanted = lambda frame: UDP in frame and frame[UDP].dport == 4790
heard = sniff(iface='br0', lfilter=wanted, count=40, timeout=10)
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
    for frame in heard:
        forged = frame.copy()
        said = change(bytes(frame[UDP].payload))
        forged[UDP].remove_payload()
        forged[UDP].add_payload(Raw(said))
        for layer, field in [(IP, 'len'), (IP, 'chksum'), (UDP, 'len'), (UDP, 'chksum')]:
            delattr(forged[layer], field)
        out.send(forged)
";
/// Datagrams of noise for each node.
const NOISE: usize = 20_000;

/// How many frames a node has refused.
fn refused(pair: &Pair, node: usize) -> Result<u64> {
    let status = pair.lab.nodes[node].json(&["ha", "status"])?;
    let reasons = status["refused"].as_object().into_iter().flatten();
    Ok(reasons.filter_map(|(_, count)| count.as_u64()).sum())
}

/// Lets an attack happen: but for a counter it has no effect.
fn withstand(attack: impl Fn(&Pair) -> Result<()>, at_least: u64) -> Result<()> {
    let pair = Pair::new(2)?;
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

#[test]
fn noise_at_the_port_has_no_effect() -> Result<()> {
    let noise = |pair: &Pair| {
        let sent = pair.lab.router.within(|| -> std::io::Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            for number in 0..NOISE {
                let bytes: Vec<u8> = (0..number % 1400)
                    .map(|_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state as u8
                    })
                    .collect();
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

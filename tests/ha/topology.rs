//! The lab itself: `lb` knows nothing of a pair here, keepalived moves the
//! addresses. What fails here is no fault of `lb`'s heartbeats.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use lb_tests::harness::{
    Agent, Keepalived, Network, Node, PairLab, Prober, Result, ask_udp, curl, eventually,
    source_addresses,
};

use super::{ECHO, ENOUGH, PATIENCE, VIPS, WEB, assert_kept, nodes, services};

/// A lab in which keepalived moves the addresses; node 0 has them.
fn kept_alive(backends: usize) -> Result<(PairLab, [Keepalived; 2], [Agent; 2])> {
    let pair = PairLab::new(backends)?;
    let agent = |node: usize| {
        pair.nodes[node].start_agent(&pair.lone_config(node, services(&pair.backends)))
    };
    let agents = [agent(0)?, agent(1)?];
    let start = |node| Keepalived::start(&pair, node, Duration::from_millis(50));
    let first = start(0)?;
    let serves = || VIPS.iter().all(|(vip, _)| asks(&pair, *vip));
    assert!(eventually(PATIENCE, serves), "{}", first.log());
    let second = start(1)?;
    Ok((pair, [first, second], agents))
}

fn asks(pair: &PairLab, vip: IpAddr) -> bool {
    ask_udp(&pair.client, (vip, ECHO).into(), "hello").is_ok()
}

#[test]
fn what_dies_under_keepalived_is_replaced() -> Result<()> {
    let (pair, [first, _second], agents) = kept_alive(2)?;
    let sources = |vip: IpAddr| source_addresses(vip.is_ipv4());
    let probers =
        VIPS.map(|(vip, _)| Prober::start(&pair.client, sources(vip)[0], (vip, ECHO).into()));
    let probers: Vec<_> = probers.into_iter().collect::<Result<_>>()?;
    let mut flows = super::open(&pair)?;
    let go_on = || {
        let enough: Vec<_> = probers.iter().map(|prober| prober.answers() + ENOUGH).collect();
        let all = || probers.iter().zip(&enough).all(|(prober, all)| prober.answers() >= *all);
        assert!(eventually(PATIENCE, all), "{:?}", agents[1].log());
    };
    go_on();
    let watch = pair.watch()?;
    go_on();
    first.kill()?;
    pair.unplug(0)?;
    go_on();
    for (prober, (vip, mode)) in probers.into_iter().zip(VIPS) {
        let probes = prober.stop()?;
        println!("{mode} at {vip} under keepalived: {probes:?}");
        assert_eq!(probes.repeated, 0);
    }
    let turns = watch.turns()?;
    assert_eq!(nodes(&turns), ["lb-a", "lb-b"]);
    assert_kept(&mut flows);
    Ok(())
}

#[test]
fn both_balancers_are_offered_what_one_is_to_serve() -> Result<()> {
    let (pair, _keepalived, _agents) = kept_alive(1)?;
    // Neither has a lease here, so both forward: the capture tells.
    let watch = pair.watch()?;
    let offered = pair.offer(VIPS[0].0, ECHO)?;
    let seen = || offered.iter().all(|prober| prober.answers() > ENOUGH);
    assert!(eventually(PATIENCE, seen));
    drop(offered);
    let turns = watch.turns()?;
    assert!(turns.len() > ENOUGH, "{} turns", turns.len());
    Ok(())
}

/// Whether a datagram gets from one node to an address of the other.
fn arrives(from: &Node, to: (&Node, IpAddr)) -> bool {
    let sent = || -> io::Result<()> {
        let inside = |node: &Node, address: IpAddr| {
            node.netns.within(|| UdpSocket::bind((address, 0))).map_err(io::Error::other)?
        };
        let (sender, receiver) = (inside(from, [0; 4].into())?, inside(to.0, to.1)?);
        receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        sender.send_to(b"hello", receiver.local_addr()?)?;
        receiver.recv(&mut [0; 8]).map(drop)
    };
    sent().is_ok()
}

#[test]
fn what_is_cut_is_lost_one_way_and_between_balancers_only() -> Result<()> {
    let pair = PairLab::new(1)?;
    let [a, b] = &pair.nodes;
    let ways = || {
        [
            arrives(a, (b, b.front())),
            arrives(b, (a, a.front())),
            arrives(a, (b, b.back())),
            arrives(b, (a, a.back())),
        ]
    };
    assert_eq!(ways(), [true; 4]);
    pair.cut(Network::Back, 0)?;
    assert_eq!(ways(), [true, true, false, true]);
    pair.cut(Network::Front, 1)?;
    assert_eq!(ways(), [true, false, false, true]);
    // Both reach the backends still.
    let backend = pair.backends[0].address(true);
    let url = format!("http://{backend}:{WEB}/");
    for node in &pair.nodes {
        assert_eq!(curl(&node.netns, &url)?, "b1\n");
    }
    pair.heal()?;
    assert_eq!(ways(), [true; 4]);
    pair.unplug(0)?;
    assert_eq!(ways(), [false; 4]);
    assert!(curl(&a.netns, &url).is_err());
    assert_eq!(curl(&b.netns, &url)?, "b1\n");
    pair.replug(0)?;
    assert!(eventually(PATIENCE, || ways() == [true; 4]));
    Ok(())
}

//! The addresses of groups, and the interfaces that have them.

use std::net::IpAddr;

use lb_tests::harness::{DSR_V6, NAT_V4, Node, Result, eventually, run};
use serde_json::Value;

use super::{PATIENCE, Pair, VIPS};

impl Pair {
    /// Waits until a node says that this is wrong with its addresses; `None`:
    /// that nothing is.
    fn has_trouble(&self, node: usize, trouble: Option<&str>) {
        let has = || {
            let found = self.lab.nodes[node].groups_by("trouble");
            let found = found.as_ref().ok().and_then(|found| found.get("all"));
            match trouble {
                Some(trouble) => found.and_then(Value::as_str).is_some_and(|f| f.contains(trouble)),
                None => found.is_some_and(Value::is_null),
            }
        };
        assert!(eventually(PATIENCE, has), "{trouble:?} at {node}: {}", self.words());
    }

    /// Has the router believe that a VIP is at a node.
    fn mislead_router(&self, vip: IpAddr, node: usize) -> Result<()> {
        let mac = mac(&self.lab.nodes[node])?;
        self.lab.router.ip(&format!("neigh replace {vip} lladdr {mac} dev r1 nud stale"))
    }

    /// Waits until it knows better.
    fn router_finds(&self, vip: IpAddr, node: usize) -> Result<()> {
        let mac = mac(&self.lab.nodes[node])?;
        let finds = || {
            let mut ip = self.lab.router.command("ip");
            let shown = run(ip.args(["neigh", "show", &vip.to_string(), "dev", "r1"]), PATIENCE);
            shown.is_ok_and(|shown| shown.stdout.contains(&mac))
        };
        assert!(eventually(PATIENCE, finds), "{vip} not at {node}: {}", self.words());
        Ok(())
    }

    /// Has a node hand over, once its peer is there, as it may not be for a
    /// moment on a busy machine.
    fn hands_over(&self, node: usize) {
        let done = || self.lab.nodes[node].done(&["ha", "failover"]).is_ok();
        assert!(eventually(PATIENCE, done), "{}", self.words());
        self.settles("all", 1 - node);
    }
}

/// Ethernet address of a node's interface `l0`.
fn mac(node: &Node) -> Result<String> {
    let mut ip = node.netns.command("ip");
    let output = run(ip.args(["-j", "link", "show", "dev", "l0"]), PATIENCE)?;
    let links: Value = serde_json::from_str(&output.stdout).expect("ip prints JSON");
    Ok(links[0]["address"].as_str().expect("an Ethernet address").to_owned())
}

/// What iproute2 says of an address at a node.
fn shown(node: &Node, address: IpAddr) -> Result<Option<Value>> {
    let mut ip = node.netns.command("ip");
    let output = run(ip.args(["-j", "address", "show", "to", &address.to_string()]), PATIENCE)?;
    let links: Value = serde_json::from_str(&output.stdout).expect("ip prints JSON");
    let mut infos = links.as_array().into_iter().flatten();
    Ok(infos.find_map(|link| link["addr_info"].get(0)).cloned())
}

#[test]
fn a_group_leaves_an_interface_that_carries_nothing() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    for (index, node) in pair.lab.nodes.iter().enumerate() {
        pair.has_trouble(index, None);
        pair.lab.front.ip(&format!("link set {} down", node.name))?;
        pair.has_trouble(index, Some("interface `l0` has no carrier"));
        // The back network is a way for heartbeats still.
        pair.settles("all", 1 - index);
        pair.lab.front.ip(&format!("link set {} up", node.name))?;
        pair.has_trouble(index, None);
    }
    let prober = pair.prober(NAT_V4)?;
    assert_eq!(prober.stop()?.repeated, 0);
    let active = &pair.lab.nodes[0];
    active.netns.ip("link set l0 down")?;
    pair.has_trouble(0, Some("interface `l0` is down"));
    pair.settles("all", 1);
    active.netns.ip("link set l0 up")?;
    pair.has_trouble(0, None);
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_told_and_not_fatal() -> Result<()> {
    let pair = Pair::with(1, |config| {
        if let Some(ha) = &mut config.ha {
            ha.groups[0].addresses.push(([192, 0, 2, 1].into(), "l9"));
        }
    })?;
    for node in [0, 1] {
        pair.has_trouble(node, Some("interface `l9` does not exist"));
        pair.lab.nodes[node].netns.ip("link add l9 type veth peer name l8")?;
        pair.has_trouble(node, Some("interface `l9` is down"));
        pair.lab.nodes[node].netns.ip("link set l9 up\n link set l8 up")?;
        pair.has_trouble(node, None);
    }
    Ok(())
}

#[test]
fn an_agent_that_ends_leaves_no_address_behind() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    // The first hands over, the second has nobody to.
    for node in [0, 1] {
        pair.serves("all", node);
        let held = || {
            VIPS.iter().all(|(vip, _)| matches!(shown(&pair.lab.nodes[node], *vip), Ok(Some(_))))
        };
        assert!(eventually(PATIENCE, held), "{}", pair.words());
        assert!(pair.agent(node).terminate()?.success());
        for (vip, _) in VIPS {
            assert_eq!(shown(&pair.lab.nodes[node], vip)?, None, "{vip}");
        }
    }
    Ok(())
}

#[test]
fn an_address_that_the_operator_has_changed_is_told_and_left_alone() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    let node = &pair.lab.nodes[0];
    for vip in [NAT_V4, DSR_V6] {
        let held = || matches!(shown(node, vip), Ok(Some(_)));
        assert!(eventually(PATIENCE, held), "{}", pair.words());
        let forever = "valid_lft forever preferred_lft forever";
        node.netns.ip(&format!("address change {vip} dev l0 {forever}"))?;
        pair.has_trouble(0, Some("is configured at interface `l0`"));
        let theirs = shown(node, vip)?;
        pair.hands_over(0);
        pair.has_trouble(0, Some("is configured at interface `l0`"));
        assert_eq!(shown(node, vip)?, theirs);
        pair.hands_over(1);
        node.netns.ip(&format!("address del {vip} dev l0"))?;
        pair.has_trouble(0, None);
        assert!(eventually(PATIENCE, held), "{}", pair.words());
    }
    Ok(())
}

#[test]
fn neighbours_that_asked_a_frozen_node_learn_of_its_successor() -> Result<()> {
    let pair = Pair::new(1)?;
    pair.settles("all", 0);
    let frozen = pair.agents[0].as_ref().expect("it runs");
    frozen.freeze()?;
    pair.serves("all", 1);
    for (vip, _) in VIPS {
        // The kernel there answers until the address goes.
        pair.mislead_router(vip, 0)?;
    }
    for (vip, _) in VIPS {
        pair.router_finds(vip, 1)?;
    }
    frozen.thaw()
}

//! The network around the balancer. Clients and backends exist as permanent
//! neighbours only, and their namespaces are silent, so that no frame but the
//! tests' own is ever counted.

use std::{net::IpAddr, time::Duration};

use lb_tests::harness::{CLIENT_V4, CLIENT_V6, Lab, Netns, Result, run};

use super::frame::Mac;

/// Addresses of the balancer's interfaces.
pub(crate) const L0: Mac = [2, 0, 0, 0, 0x10, 1];
/// See [`L0`].
pub(crate) const L1: Mac = [2, 0, 0, 0, 0x20, 1];
/// The client, which is also the next hop to everybody in 10.64.0.0/10 and
/// fd00:64::/64.
pub(crate) const CLIENT: Mac = [2, 0, 0, 0, 0x10, 2];
/// Backends that have a neighbour entry; nobody is at the addresses of others.
pub(crate) const BACKENDS: u8 = 9;
/// Address of backend `number`, from 1 on.
pub(crate) fn backend(v4: bool, number: u8) -> IpAddr {
    if v4 {
        IpAddr::from([10, 2, 0, 10 + number])
    } else {
        IpAddr::from([0xfd00, 2, 0, 0, 0, 0, 0, 0x10 + u16::from(number)])
    }
}

/// Ethernet address of backend `number`.
pub(crate) fn backend_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0x20, 0x10 + number]
}

/// Gives the balancer its addresses and neighbours and silences everybody
/// else. Returns the indexes of `l0` and `l1`.
pub(crate) fn quiet(lab: &Lab) -> Result<[u32; 2]> {
    for netns in [&lab.client, &lab.switch] {
        netns.sysctl(&[("ipv6/conf/all/disable_ipv6", "1")])?;
    }
    // A bridge reports its own group memberships.
    lab.switch.ip("link set br0 down")?;
    // Some tests speak with the client itself.
    lab.client.ip(&format!("link set c0 address {}", mac(CLIENT)))?;
    let mut lines = format!(
        "link set l0 address {}
         link set l1 address {}
         route add 10.64.0.0/10 via {CLIENT_V4}
         -6 route add fd00:64::/64 via {CLIENT_V6}\n",
        mac(L0),
        mac(L1)
    );
    let mut neighbour = |address: IpAddr, at: Mac, interface: &str| {
        lines += &format!("neigh add {address} lladdr {} dev {interface} nud permanent\n", mac(at));
    };
    neighbour(CLIENT_V4, CLIENT, "l0");
    neighbour(CLIENT_V6, CLIENT, "l0");
    for number in 1..=BACKENDS {
        neighbour(backend(true, number), backend_mac(number), "l1");
        neighbour(backend(false, number), backend_mac(number), "l1");
    }
    lab.balancer.ip(&lines)?;
    Ok([ifindex(&lab.balancer, "l0")?, ifindex(&lab.balancer, "l1")?])
}

fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ifindex(netns: &Netns, interface: &str) -> Result<u32> {
    let mut command = netns.command("ip");
    let output =
        run(command.args(["-o", "link", "show", "dev", interface]), Duration::from_secs(10))?;
    let number = output.stdout.split(':').next().and_then(|number| number.parse().ok());
    Ok(number.expect("`ip -o link` begins with the index"))
}

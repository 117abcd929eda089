//! Addresses held for a time.

use std::{net::UdpSocket, time::Duration};

use ipnet::IpNet;
use lb_tests::harness::{Lab, Netns, Result, eventually, run};
use lb_user::sys::address::{Addresses, Error};
use serde_json::Value;

use super::{VIPS, inside};

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// [`VIPS`] by themselves, and in networks.
const NETS: [&str; 4] =
    ["203.0.113.10/32", "2001:db8::10/128", "203.0.113.10/24", "2001:db8::10/64"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

/// What iproute2 shows of an address at an interface, if it is there.
fn shown(netns: &Netns, interface: &str, address: &str) -> Result<Option<Value>> {
    let mut command = netns.command("ip");
    let output = run(command.args(["-j", "address", "show", "dev", interface]), PATIENCE)?;
    let links: Value = serde_json::from_str(&output.stdout).expect("ip prints JSON");
    let net = net(address);
    let is_it = |info: &&Value| {
        info["local"] == net.addr().to_string() && info["prefixlen"] == net.prefix_len()
    };
    Ok(links[0]["addr_info"].as_array().expect("addresses").iter().find(is_it).cloned())
}

fn seconds_left(info: &Value) -> u64 {
    info["valid_life_time"].as_u64().expect("a lifetime")
}

/// Holds an address by means of nothing that happened before.
fn hold(netns: &Netns, interface: &str, address: &str, valid: Duration) -> Result<Outcome> {
    inside(netns, async || Addresses::open()?.hold(interface, net(address), valid).await)
}

/// Releases one likewise.
fn release(netns: &Netns, interface: &str, address: &str) -> Result<Outcome> {
    inside(netns, async || Addresses::open()?.release(interface, net(address)).await)
}

type Outcome = std::result::Result<(), Error>;

#[test]
fn an_address_is_held_for_longer_and_released() -> Result<()> {
    let lab = Lab::new(0)?;
    inside(&lab.balancer, async || {
        let mut addresses = Addresses::open().unwrap();
        for address in NETS {
            let look = || shown(&lab.balancer, "l0", address).unwrap();
            addresses.hold("l0", net(address), MINUTE).await.unwrap();
            assert!((1..=60).contains(&seconds_left(&look().unwrap())), "{address}");
            addresses.hold("l0", net(address), MINUTE * 10).await.unwrap();
            assert!((61..=600).contains(&seconds_left(&look().unwrap())), "{address}");
            addresses.release("l0", net(address)).await.unwrap();
            assert_eq!(look(), None, "{address}");
            addresses.release("l0", net(address)).await.unwrap();
        }
    })
}

#[test]
fn an_address_that_is_not_held_for_longer_goes() -> Result<()> {
    let lab = Lab::new(0)?;
    for address in NETS {
        hold(&lab.balancer, "l0", address, Duration::from_millis(100))?.unwrap();
    }
    let gone = |address| shown(&lab.balancer, "l0", address).unwrap().is_none();
    assert!(eventually(PATIENCE, || NETS.into_iter().all(gone)));
    Ok(())
}

#[test]
fn what_an_earlier_run_held_is_taken_over() -> Result<()> {
    let lab = Lab::new(0)?;
    for address in NETS {
        hold(&lab.balancer, "l0", address, MINUTE)?.unwrap();
        hold(&lab.balancer, "l0", address, MINUTE * 10)?.unwrap();
        let info = shown(&lab.balancer, "l0", address)?.unwrap();
        assert!((61..=600).contains(&seconds_left(&info)), "{info}");
        release(&lab.balancer, "l0", address)?.unwrap();
        assert_eq!(shown(&lab.balancer, "l0", address)?, None);
    }
    Ok(())
}

#[test]
fn an_ipv6_address_is_usable_at_once_and_not_chosen_by_itself() -> Result<()> {
    let lab = Lab::new(0)?;
    lab.balancer.sysctl(&[("ipv6/conf/all/accept_dad", "1"), ("ipv6/conf/l0/accept_dad", "1")])?;
    // Without more, the kernel would look for another who has it.
    lab.balancer.ip("address add 2001:db8::99/64 dev l0")?;
    let bound = |address| lab.balancer.within(move || UdpSocket::bind((address, 1)).is_ok());
    assert!(!bound("2001:db8::99")?);
    hold(&lab.balancer, "l0", "2001:db8::10/64", MINUTE)?.unwrap();
    assert!(bound("2001:db8::10")?);
    let info = shown(&lab.balancer, "l0", "2001:db8::10/64")?.unwrap();
    assert_eq!(info["preferred_life_time"], 0, "{info}");
    Ok(())
}

#[test]
fn only_a_network_has_a_route() -> Result<()> {
    let lab = Lab::new(0)?;
    for address in NETS {
        hold(&lab.balancer, "l0", address, MINUTE)?.unwrap();
        let net = net(address);
        let family = if net.addr().is_ipv4() { "-4" } else { "-6" };
        let prefix = net.trunc().to_string();
        let mut command = lab.balancer.command("ip");
        let routes = run(command.args([family, "route", "show", "exact", &prefix]), PATIENCE)?;
        assert_eq!(
            routes.stdout.is_empty(),
            net.prefix_len() == net.max_prefix_len(),
            "{address}: {}",
            routes.stdout
        );
        release(&lab.balancer, "l0", address)?.unwrap();
    }
    Ok(())
}

#[test]
fn an_address_of_the_operator_is_refused_and_stays() -> Result<()> {
    let lab = Lab::new(0)?;
    // At the same interface, by another prefix, at another interface.
    for (interface, of, wanted) in [
        ("l0", ["203.0.113.10/32", "2001:db8::10/128"], ["203.0.113.10/32", "2001:db8::10/128"]),
        ("l0", ["203.0.113.10/24", "2001:db8::10/64"], ["203.0.113.10/32", "2001:db8::10/128"]),
        ("lo", ["203.0.113.10/32", "2001:db8::10/128"], ["203.0.113.10/24", "2001:db8::10/64"]),
    ] {
        for (theirs, wanted) in of.into_iter().zip(wanted) {
            lab.balancer.ip(&format!("address add {theirs} dev {interface}"))?;
            let before = shown(&lab.balancer, interface, theirs)?;
            let error = hold(&lab.balancer, "l0", wanted, MINUTE)?.unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{error}");
            let said = format!("`{theirs}` is configured at interface `{interface}`");
            assert!(error.to_string().starts_with(&said), "{error}");
            release(&lab.balancer, "l0", theirs)?.unwrap();
            assert_eq!(shown(&lab.balancer, interface, theirs)?, before);
            lab.balancer.ip(&format!("address del {theirs} dev {interface}"))?;
        }
    }
    Ok(())
}

#[test]
fn all_addresses_are_looked_at_before_any_is_held() -> Result<()> {
    let lab = Lab::new(0)?;
    let vips = VIPS.map(|vip| vip.parse().unwrap());
    let look = || inside(&lab.balancer, async || Addresses::open()?.refuse_foreign(&vips).await);
    hold(&lab.balancer, "l0", NETS[0], MINUTE)?.unwrap();
    look()?.unwrap();
    lab.balancer.ip(&format!("address add {} dev lo", NETS[1]))?;
    let error = look()?.unwrap_err();
    assert!(error.to_string().starts_with("`2001:db8::10/128` is configured"), "{error}");
    Ok(())
}

#[test]
fn an_interface_may_go_and_come_back() -> Result<()> {
    let lab = Lab::new(0)?;
    let make = || lab.balancer.ip("link add d0 type veth peer name d1\n link set d0 up");
    make()?;
    inside(&lab.balancer, async || {
        let mut addresses = Addresses::open().unwrap();
        // An interface has an IPv6 address only once, whatever its prefix.
        let hosts = [NETS[0], NETS[1]];
        for address in hosts {
            addresses.hold("d0", net(address), MINUTE).await.unwrap();
        }
        lab.balancer.ip("link del d0").unwrap();
        let error = addresses.hold("d0", net(NETS[0]), MINUTE).await.unwrap_err();
        assert!(error.to_string().starts_with("interface `d0` does not exist"), "{error}");
        addresses.release("d0", net(NETS[0])).await.unwrap();
        make().unwrap();
        for address in hosts {
            addresses.hold("d0", net(address), MINUTE).await.unwrap();
            assert!(shown(&lab.balancer, "d0", address).unwrap().is_some());
        }
    })
}

#[test]
fn an_address_that_was_taken_away_is_given_back() -> Result<()> {
    let lab = Lab::new(0)?;
    inside(&lab.balancer, async || {
        let mut addresses = Addresses::open().unwrap();
        for address in NETS {
            addresses.hold("l0", net(address), MINUTE).await.unwrap();
            lab.balancer.ip(&format!("address del {address} dev l0")).unwrap();
            addresses.hold("l0", net(address), MINUTE).await.unwrap();
            assert!(shown(&lab.balancer, "l0", address).unwrap().is_some());
            lab.balancer.ip(&format!("address del {address} dev l0")).unwrap();
            addresses.release("l0", net(address)).await.unwrap();
        }
    })
}

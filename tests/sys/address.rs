//! Addresses held for a time.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use lb_tests::harness::{Lab, Netns, Result, eventually, run};
use lb_user::sys::{
    address::{Addresses, Error},
    link,
};
use serde_json::Value;

use super::{VIPS, inside};

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

/// What iproute2 shows of an address at an interface, if it is there.
fn shown(netns: &Netns, interface: &str, address: &str) -> Result<Option<Value>> {
    let mut command = netns.command("ip");
    let output = run(command.args(["-j", "address", "show", "dev", interface]), PATIENCE)?;
    let links: Value = serde_json::from_str(&output.stdout).expect("ip prints JSON");
    let infos = links[0]["addr_info"].as_array().expect("addresses");
    Ok(infos.iter().find(|info| info["local"] == address).cloned())
}

fn seconds_left(info: &Value) -> u64 {
    info["valid_life_time"].as_u64().expect("a lifetime")
}

/// Holds an address, unless somebody else has it.
async fn hold(interface: &str, address: &str, valid: Duration) -> Outcome {
    let mut addresses = Addresses::open()?;
    let present = addresses.present().await?;
    addresses.refuse_foreign(&present, ip(address)).await?;
    let interface = link::by_name(interface).await.expect("an interface");
    addresses.hold(&interface, ip(address), valid).await
}

/// Releases an address wherever it is held.
async fn release(address: &str) -> Outcome {
    let mut addresses = Addresses::open()?;
    let present = addresses.present().await?;
    addresses.release(&present, ip(address)).await
}

type Outcome = std::result::Result<(), Error>;

#[test]
fn an_address_is_held_for_longer_and_released() -> Result<()> {
    let lab = Lab::new(0)?;
    inside(&lab.balancer, async || {
        for address in VIPS {
            let look = || shown(&lab.balancer, "l0", address).unwrap();
            hold("l0", address, MINUTE).await.unwrap();
            assert!((1..=60).contains(&seconds_left(&look().unwrap())), "{address}");
            hold("l0", address, MINUTE * 10).await.unwrap();
            assert!((61..=600).contains(&seconds_left(&look().unwrap())), "{address}");
            release(address).await.unwrap();
            assert_eq!(look(), None, "{address}");
            release(address).await.unwrap();
        }
    })
}

#[test]
fn what_is_held_where_is_known() -> Result<()> {
    let lab = Lab::new(0)?;
    inside(&lab.balancer, async || {
        let (l0, lo) = (link::by_name("l0").await.unwrap(), link::by_name("lo").await.unwrap());
        let mut addresses = Addresses::open().unwrap();
        for address in VIPS {
            hold("l0", address, MINUTE).await.unwrap();
            let present = addresses.present().await.unwrap();
            assert!(present.is_held(&l0, ip(address)) && !present.is_held(&lo, ip(address)));
            lab.balancer.ip(&format!("address del {address} dev l0")).unwrap();
            let present = addresses.present().await.unwrap();
            assert!(!present.is_held(&l0, ip(address)));
        }
    })
}

#[test]
fn an_address_that_is_not_held_for_longer_goes() -> Result<()> {
    let lab = Lab::new(0)?;
    inside(&lab.balancer, async || {
        for address in VIPS {
            hold("l0", address, Duration::from_millis(100)).await.unwrap();
        }
    })?;
    let gone = |address| shown(&lab.balancer, "l0", address).unwrap().is_none();
    assert!(eventually(PATIENCE, || VIPS.into_iter().all(gone)));
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
    inside(&lab.balancer, async || hold("l0", "2001:db8::10", MINUTE).await)?.unwrap();
    assert!(bound("2001:db8::10")?);
    let info = shown(&lab.balancer, "l0", "2001:db8::10")?.unwrap();
    assert_eq!(info["preferred_life_time"], 0, "{info}");
    Ok(())
}

#[test]
fn the_hosts_own_address_in_the_network_stays_when_one_is_released() -> Result<()> {
    let lab = Lab::new(0)?;
    lab.balancer.sysctl(&[("ipv4/conf/all/promote_secondaries", "0")])?;
    for (address, own) in [("203.0.113.10", "203.0.113.2"), ("2001:db8::10", "2001:db8::2")] {
        inside(&lab.balancer, async || hold("l0", address, MINUTE).await)?.unwrap();
        let length = if ip(own).is_ipv4() { 24 } else { 64 };
        lab.balancer.ip(&format!("address add {own}/{length} dev l0"))?;
        inside(&lab.balancer, async || release(address).await)?.unwrap();
        assert!(shown(&lab.balancer, "l0", own)?.is_some(), "{own}");
    }
    Ok(())
}

#[test]
fn an_address_of_the_operator_is_refused_and_stays() -> Result<()> {
    let lab = Lab::new(0)?;
    // At the same interface, with a network, at another interface.
    for (interface, lengths) in [("l0", [32, 128]), ("l0", [24, 64]), ("lo", [32, 128])] {
        for (wanted, length) in VIPS.into_iter().zip(lengths) {
            let theirs = format!("{wanted}/{length}");
            lab.balancer.ip(&format!("address add {theirs} dev {interface}"))?;
            let before = shown(&lab.balancer, interface, wanted)?;
            let error = inside(&lab.balancer, async || hold("l0", wanted, MINUTE).await)?;
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Foreign { .. }), "{error}");
            let said = format!("`{theirs}` is configured at interface `{interface}`");
            assert!(error.to_string().starts_with(&said), "{error}");
            inside(&lab.balancer, async || release(wanted).await)?.unwrap();
            assert_eq!(shown(&lab.balancer, interface, wanted)?, before);
            lab.balancer.ip(&format!("address del {theirs} dev {interface}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_address_that_the_operator_has_changed_is_the_operators() -> Result<()> {
    let lab = Lab::new(0)?;
    for address in VIPS {
        inside(&lab.balancer, async || hold("l0", address, MINUTE).await)?.unwrap();
        let change =
            format!("address change {address} dev l0 valid_lft forever preferred_lft forever");
        lab.balancer.ip(&change)?;
        let error = inside(&lab.balancer, async || hold("l0", address, MINUTE).await)?;
        assert!(matches!(error, Err(Error::Foreign { .. })), "{error:?}");
        inside(&lab.balancer, async || release(address).await)?.unwrap();
        assert!(shown(&lab.balancer, "l0", address)?.is_some());
    }
    Ok(())
}

#[test]
fn an_interface_may_go_and_come_back() -> Result<()> {
    let lab = Lab::new(0)?;
    let make = || lab.balancer.ip("link add d0 type veth peer name d1\n link set d0 up");
    make()?;
    inside(&lab.balancer, async || {
        let d0 = link::by_name("d0").await.unwrap();
        let mut addresses = Addresses::open().unwrap();
        for address in VIPS {
            addresses.hold(&d0, ip(address), MINUTE).await.unwrap();
        }
        let before = addresses.present().await.unwrap();
        lab.balancer.ip("link del d0").unwrap();
        let error = addresses.hold(&d0, ip(VIPS[0]), MINUTE).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot give interface `d0` the address `203.0.113.10`");
        addresses.release(&before, ip(VIPS[0])).await.unwrap();
        make().unwrap();
        for address in VIPS {
            hold("d0", address, MINUTE).await.unwrap();
            assert!(shown(&lab.balancer, "d0", address).unwrap().is_some());
        }
    })
}

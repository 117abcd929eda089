//! Values of `[ha]`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use toml::de::DeValue;

use super::text;
use crate::config::read::Wrong;

/// An address and a port.
pub fn socket_address(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    let text = text(value)?;
    let wrong = || {
        Wrong::new("must be an address and a port")
            .hint("such as \"10.0.0.2:4790\" or \"[2001:db8::2]:4790\"")
    };
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 {
        return Err(wrong());
    }
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(wrong()),
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => Err(Wrong::new("must not be IPv4 written as IPv6")
                .hint(format!("write \"{v4}:{}\"", v6.port()))),
            None => Ok(address),
        },
        SocketAddr::V4(_) => Ok(address),
    }
}

/// The address of an interface, with the length of its network's prefix.
pub fn interface_address(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    let text = text(value)?;
    let wrong = || Wrong::new("must be an address and the length of its network's prefix");
    let net: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(alone) => wrong().hint(format!("write \"{}\"", IpNet::from(alone))),
        Err(_) => wrong().hint("such as \"203.0.113.10/32\" or \"10.0.0.1/24\""),
    })?;
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(Wrong::new("must not be IPv4 written as IPv6"));
    }
    let address = net.addr();
    // Two addresses or one are hosts all (RFC 3021, RFC 6164).
    let has_special = net.max_prefix_len() - net.prefix_len() > 1;
    let kind = if has_special && address == net.network() {
        "the network itself"
    } else if has_special && address.is_ipv4() && address == net.broadcast() {
        "the network's broadcast address"
    } else {
        return Ok(net);
    };
    Err(Wrong::new("must be the address of one host").hint(format!("this is {kind}")))
}

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

/// Where `lb witness` runs.
pub fn witness(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    if text(value)?.parse::<IpAddr>().is_ok() {
        let hint = "that an address answers says nothing of whom it answers: both nodes would take \
                    over; run `lb witness` on a third host, such as \"10.0.0.9:4791\"";
        return Err(Wrong::new("must be an address and a port").hint(hint));
    }
    socket_address(value)
}

/// An address that moves: by itself, or with the length of a prefix that has
/// nothing else in it.
pub fn moving_address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    let text = text(value)?;
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Wrong::new("must be an address").hint("such as \"203.0.113.10/32\" or \"2001:db8::10/128\"")
    })?;
    let address = net.addr();
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(Wrong::new("must not be IPv4 written as IPv6"));
    }
    if net.prefix_len() != net.max_prefix_len() {
        let alone = IpNet::from(address);
        let hint =
            format!("write \"{alone}\": the network stays with an address that does not move");
        return Err(Wrong::new("must be an address without its network").hint(hint));
    }
    Ok(address)
}

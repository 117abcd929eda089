//! Next hops as the data plane needs them.

use std::{collections::BTreeMap, net::IpAddr};

/// A resolved next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface the frame leaves by.
    pub ifindex: u32,
    /// Ethernet address of the next hop.
    pub destination: [u8; 6],
    /// Ethernet address of that interface.
    pub source: [u8; 6],
}

/// What is known of the network around the host, kept current from netlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Next hop towards each watched address; absent: not resolved.
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    /// The host's own addresses.
    pub host_addresses: Vec<IpAddr>,
    /// Counts changes of routes, neighbours and links.
    pub epoch: u32,
}

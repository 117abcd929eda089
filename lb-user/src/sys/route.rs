//! Follows the kernel's links, addresses, routes and neighbours, and keeps the
//! next hops towards watched addresses resolved.
//!
//! The kernel decides where packets go (a lookup per watched address) and
//! resolves neighbours; it is asked to keep the ones in use resolved by itself
//! (`NTF_EXT_MANAGED`, Linux 5.16; older kernels are asked again and again).
//! Events come from the network namespace in which [`Watcher::start`] ran.

mod chore;
mod decode;
mod events;
mod follow;
mod limit;
mod request;

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub(super) use self::{
    decode::{OUR_PROTOCOL, address, mac, master},
    events::Events,
    request::{Requests, Which},
};
use self::{follow::Follower, request::Order};
use crate::core::nexthop::Network;

/// Findings that wait to be looked at; more are dropped, the packet path finds them
/// again.
const FINDINGS: usize = 256;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket for routes and neighbours")]
    Open(#[source] io::Error),
    /// A table could not be read.
    #[error("cannot read the kernel's links, addresses and neighbours")]
    Read(#[source] io::Error),
}

/// What the packet path found.
#[derive(Clone, Copy, Debug)]
enum Finding {
    /// The neighbour towards a client, seen on an interface, is not resolved.
    Unresolved { client: IpAddr, ifindex: u32 },
    /// The way to a watched address carries packets of so many bytes at most.
    Carries { address: IpAddr, mtu: u32 },
}

/// Follows the network until dropped.
#[derive(Debug)]
pub struct Watcher {
    wanted: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    findings: mpsc::Sender<Finding>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Reads links, addresses and neighbours and begins to follow them. The
    /// receiver holds the host's addresses from the start and sees a new
    /// [`Network`] whenever something in it changed.
    ///
    /// Should the kernel end the connection later, that is logged and it is
    /// opened again.
    ///
    /// # Errors
    /// If the sockets cannot be opened or the tables cannot be read.
    pub async fn start() -> Result<(Self, watch::Receiver<Arc<Network>>), Error> {
        let (wanted, wanted_receiver) = watch::channel(Arc::default());
        let (findings, findings_receiver) = mpsc::channel(FINDINGS);
        let (network, network_receiver) = watch::channel(Arc::default());
        // First subscribe, then read: what changes in between comes as an event.
        let events = Events::open(&events::NETWORK).map_err(Error::Open)?;
        let requests = Requests::open().map_err(Error::Open)?;
        let mut follower = Follower::new(wanted_receiver, findings_receiver, network);
        follower.read_tables(&requests).await.map_err(Error::Read)?;
        follower.publish();
        let task = tokio::spawn(follower.run(requests, events));
        Ok((Self { wanted, findings, task }, network_receiver))
    }

    /// Replaces the addresses whose next hops are kept resolved. Entries of
    /// the neighbour table that were kept for others are released.
    pub fn watch_addresses(&self, addresses: BTreeSet<IpAddr>) {
        self.wanted.send_replace(Arc::new(addresses));
    }

    /// Asks the kernel once to resolve the next hop towards a client, seen on
    /// interface `ifindex`. At most 100 addresses a second, each once a second;
    /// what is more is dropped.
    pub fn resolve(&self, client: IpAddr, ifindex: u32) {
        // Full or ended: the client's next packet asks again.
        let _ = self.findings.try_send(Finding::Unresolved { client, ifindex });
    }

    /// Takes a router's word for it that the way to a watched address carries packets of
    /// `mtu` bytes at most, for ten minutes (RFC 1191, section 6.3; RFC 8201, section 4).
    /// Less than every way has to carry is taken for that (552 bytes of IPv4, as Linux
    /// does; 1280 of IPv6).
    pub fn carries(&self, address: IpAddr, mtu: u32) {
        let _ = self.findings.try_send(Finding::Carries { address, mtu });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes the kernel stop keeping resolved what any [`Watcher`] in this network
/// namespace made it keep: for the removal of the data plane. Returns how many
/// entries that were; they go away in their own time.
///
/// # Errors
/// If the socket cannot be opened or the neighbour table cannot be read.
pub async fn release_all() -> Result<usize, Error> {
    let requests = Requests::open().map_err(Error::Open)?;
    let mut released = 0;
    for (hop, neighbour) in requests.neighbours().await.map_err(Error::Read)? {
        // An entry that is gone meanwhile is none to release.
        if neighbour.ours && requests.neighbour(hop, Order::Release).await.is_ok() {
            released += 1;
        }
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[tokio::test]
    async fn own_addresses_are_known_from_the_start() {
        let (_watcher, network) = Watcher::start().await.unwrap();
        let loopback = Ipv4Addr::LOCALHOST;
        let known = network.borrow().host_addresses.contains(&loopback.into());
        assert_eq!(known, UdpSocket::bind((loopback, 0)).is_ok());
    }

    #[tokio::test]
    async fn receiver_learns_that_the_watcher_is_gone() {
        let (watcher, mut network) = Watcher::start().await.unwrap();
        network.borrow_and_update();
        drop(watcher);
        while network.changed().await.is_ok() {}
    }
}

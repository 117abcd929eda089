//! Tells the neighbours at an interface that an address is there now, by frames
//! that they did not ask for.

mod frame;

use std::{io, net::IpAddr};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::{forwarding, link::Interface};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whether the host is a router there is not known.
    #[error("cannot read whether IPv6 is forwarded from interface `{interface}`")]
    Router {
        /// Which.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No packet socket.
    #[error("cannot open a packet socket at interface `{interface}`, which takes CAP_NET_RAW")]
    Open {
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A frame could not be sent.
    #[error("cannot announce `{address}` at interface `{interface}`")]
    Send {
        /// What.
        address: IpAddr,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Announces `addresses` once at `interface`, in the network namespace of the
/// calling thread: an IPv4 address by an ARP request and an ARP reply, since
/// some hosts learn by only one of the two, an IPv6 address by a neighbour
/// advertisement. At an interface that carries no Ethernet there is nobody to
/// tell.
///
/// # Errors
/// The first thing that went wrong; one address that cannot be announced keeps
/// no other back.
pub fn announce(interface: &Interface, addresses: &[IpAddr]) -> Result<(), Error> {
    let Some(mac) = interface.mac else { return Ok(()) };
    let name = || interface.name.clone();
    let router = addresses.iter().any(IpAddr::is_ipv6)
        && forwarding::is_router(&interface.name)
            .map_err(|source| Error::Router { interface: name(), source })?;
    let socket =
        open(interface.index).map_err(|source| Error::Open { interface: name(), source })?;
    let send =
        |&address: &IpAddr| {
            let mut frames = frame::announcements(address, mac, router).into_iter();
            frames
                .try_for_each(|frame| socket.send(&frame).map(drop))
                .map_err(|source| Error::Send { address, interface: name(), source })
        };
    addresses.iter().map(send).fold(Ok(()), Result::and)
}

/// A socket that sends frames at an interface, does not wait to, and receives
/// none: see packet(7) for protocol 0.
fn open(ifindex: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is the form of addresses of this family, plain
    // numbers, and no larger than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_ifindex = libc::c_int::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the storage holds a sockaddr_ll, whose family and size these are.
    let address =
        unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    socket.bind(&address)?;
    Ok(socket)
}

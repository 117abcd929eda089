//! Questions and orders to the kernel, over a socket of their own: a burst of
//! events cannot push an answer out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    time::Duration,
};

use futures_util::StreamExt as _;
use rtnetlink::{
    Handle, new_connection,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkAttribute, LinkMessage},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};
use tokio::{task::JoinHandle, time::timeout};

use super::decode::{self, OUR_PROTOCOL};
use crate::core::nexthop::{Hop, Link, Neighbour, Place, Route, Station};

/// The kernel answers at once; an answer for which there was no room never comes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a dump is repeated that changes of the table went into.
const DUMP_ATTEMPTS: u32 = 4;

/// What to do with a neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Resolve it and keep it resolved.
    Keep,
    /// Resolve it now.
    Resolve,
    /// Ask at once whether it is there still. The kernel no longer keeps it resolved then
    /// (`__neigh_update`, net/core/neighbour.c: a new state and that are two orders).
    Probe,
    /// Keep it no longer; goes away in its own time.
    Release,
}

/// A socket for requests.
#[derive(Debug)]
pub(in crate::sys) struct Requests {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Requests {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Whatever opening a socket meets.
    pub(in crate::sys) fn open() -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Whether the connection has ended: then it is of no use any more.
    pub(in crate::sys) fn is_lost(&self) -> bool {
        self.connection.is_finished()
    }

    /// All interfaces.
    pub(super) async fn links(&self) -> io::Result<HashMap<u32, Link>> {
        let links = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        Ok(links
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => decode::link(message),
                _ => None,
            })
            .collect())
    }

    /// One interface; an error of kind `NotFound` (ENODEV) if there is none.
    pub(in crate::sys) async fn link(&self, which: Which<'_>) -> io::Result<LinkMessage> {
        let mut request = LinkMessage::default();
        match which {
            Which::Index(index) => request.header.index = index,
            Which::Name(name) => request.attributes.push(LinkAttribute::IfName(name.to_owned())),
        }
        let answer = self.exchange(RouteNetlinkMessage::GetLink(request), 0).await?;
        answer
            .into_iter()
            .find_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => Some(message),
                _ => None,
            })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// All own addresses, with the indices of their interfaces.
    pub(super) async fn addresses(&self) -> io::Result<BTreeSet<(IpAddr, u32)>> {
        Ok(self.address_messages().await?.iter().filter_map(decode::address).collect())
    }

    /// All own addresses, as the kernel tells of them.
    pub(in crate::sys) async fn address_messages(&self) -> io::Result<Vec<AddressMessage>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.dump(request).await?.into_iter();
        Ok(messages
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => Some(message),
                _ => None,
            })
            .collect())
    }

    /// Adds an own address, or changes the one that is there.
    pub(in crate::sys) async fn set_address(&self, address: AddressMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(RouteNetlinkMessage::NewAddress(address), flags).await.map(drop)
    }

    /// Removes an own address.
    pub(in crate::sys) async fn delete_address(&self, address: AddressMessage) -> io::Result<()> {
        self.exchange(RouteNetlinkMessage::DelAddress(address), NLM_F_ACK).await.map(drop)
    }

    /// The neighbour tables of both families.
    pub(super) async fn neighbours(&self) -> io::Result<HashMap<Hop, Neighbour>> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        Ok(self
            .dump(request)
            .await?
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => decode::neighbour(message),
                _ => None,
            })
            .collect())
    }

    /// Whom bridges heard where.
    pub(super) async fn stations(&self) -> io::Result<BTreeMap<Station, Place>> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        let answer = self.dump(RouteNetlinkMessage::GetNeighbour(request)).await?;
        Ok(answer
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(message) => decode::station(message),
                _ => None,
            })
            .collect())
    }

    /// Where the kernel would send a packet to `destination` (leaving by
    /// interface `oif`, if given); `None`: nowhere that a frame could be sent to.
    pub(super) async fn route(
        &self,
        destination: IpAddr,
        oif: Option<u32>,
    ) -> io::Result<Option<Route>> {
        let mut request = RouteMessage::default();
        (request.header.address_family, request.header.destination_prefix_length) =
            match destination {
                IpAddr::V4(_) => (AddressFamily::Inet, 32),
                IpAddr::V6(_) => (AddressFamily::Inet6, 128),
            };
        request.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
        request.attributes.extend(oif.map(RouteAttribute::Oif));
        match self.exchange(RouteNetlinkMessage::GetRoute(request), 0).await {
            Ok(answer) => Ok(answer.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => decode::route(message, destination),
                _ => None,
            })),
            // No route, or one of type unreachable, prohibit or blackhole: the
            // lookup itself fails, each with its own error.
            Err(error) if error.raw_os_error().is_some() => Ok(None),
            Err(lost) => Err(lost),
        }
    }

    /// Carries out `order`. It must not meet an entry that somebody else set
    /// up: the kernel takes such an entry's permanence away on any of these.
    pub(super) async fn neighbour(&self, hop: Hop, order: Order) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        let (family, destination) = match hop.address {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        message.header.family = family;
        message.header.ifindex = hop.ifindex;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        let mut flags = NLM_F_ACK | NLM_F_REPLACE;
        if order == Order::Probe {
            message.header.state = NeighbourState::Probe;
        } else {
            message.header.flags = NeighbourFlags::Use;
        }
        if matches!(order, Order::Keep | Order::Resolve) {
            flags |= NLM_F_CREATE;
        }
        if order == Order::Keep {
            let mark = RouteProtocol::Other(OUR_PROTOCOL);
            message.attributes.push(NeighbourAttribute::Protocol(mark));
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        }
        self.exchange(RouteNetlinkMessage::NewNeighbour(message), flags).await.map(drop)
    }

    /// Reads a whole table; again if it changed underneath.
    async fn dump(&self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.exchange(request.clone(), NLM_F_DUMP).await {
                Err(error)
                    if error.kind() == io::ErrorKind::Interrupted && attempt < DUMP_ATTEMPTS => {}
                other => return other,
            }
        }
    }

    /// Sends a request and collects the answer. Errors without a number are
    /// not the kernel's answer. `BrokenPipe`, `TimedOut`: the socket is of no
    /// use any more; `Interrupted`: a dump is not one moment's state.
    async fn exchange(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        timeout(ANSWER_TIMEOUT, self.exchange_unbounded(request, flags))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn exchange_unbounded(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let mut answer = self.handle.clone().request(message).map_err(closed)?;
        let mut messages = Vec::new();
        while let Some(message) = answer.next().await {
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match message.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        if self.is_lost() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(messages)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Which interface.
#[derive(Clone, Copy, Debug)]
pub(in crate::sys) enum Which<'a> {
    /// The one of this index.
    Index(u32),
    /// The one of this name.
    Name(&'a str),
}

//! What the kernel tells unasked.

use std::{
    io, mem,
    os::fd::AsRawFd as _,
    task::{Poll, ready},
};

use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::decode::{self, Event};

/// All that next hops depend on.
pub(super) const NETWORK: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`, which the packet crate does not know.
const NEXTHOP_MESSAGES: [u16; 2] = [104, 105];

/// Bytes of events that may wait: some 4,000 changes at once.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// The longest datagram the kernel makes is 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// A socket that follows the kernel's tables.
pub(in crate::sys) struct Events {
    socket: TokioSocket,
    datagram: Vec<u8>,
}

impl Events {
    /// Opens the socket, in the network namespace of the calling thread, for events
    /// of these groups.
    ///
    /// # Errors
    /// Whatever opening a socket meets.
    pub(in crate::sys) fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        enlarge(&socket);
        let netlink = socket.socket_mut();
        netlink.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            netlink.add_membership(*group as u32)?;
        }
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for events and gives those that are there, in their order. May be
    /// cancelled without losing any.
    ///
    /// # Errors
    /// `ENOBUFS`: events were lost; what is read from the tables from now on is
    /// followed again. Others are final.
    pub(in crate::sys) async fn next(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        std::future::poll_fn(|context| {
            // Bounded, so that a flood cannot keep the caller from its work.
            for _ in 0..256 {
                self.datagram.clear();
                match self.socket.poll_recv_from(context, &mut self.datagram) {
                    Poll::Pending if !events.is_empty() => break,
                    polled => match ready!(polled) {
                        Ok(_) => {}
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                            self.drain()?;
                            return Poll::Ready(Err(error));
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                }
                read(&self.datagram, &mut events);
            }
            Poll::Ready(Ok(mem::take(&mut events)))
        })
        .await
    }

    /// Throws away what waits. After an overrun the kernel drops every further
    /// event, without another error, until the socket was empty once.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            self.datagram.clear();
            match self.socket.socket_ref().recv_from(&mut self.datagram, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads the messages of one datagram.
fn read(mut datagram: &[u8], events: &mut Vec<Event>) {
    while let Ok(buffer) = NetlinkBuffer::new_checked(datagram) {
        // Checked: at least a header, at most what is there (RFC 3549, section 2.2).
        let length = buffer.length() as usize;
        if NEXTHOP_MESSAGES.contains(&buffer.message_type()) {
            events.push(Event::Routes);
        } else {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
                Ok(message) => {
                    if let NetlinkPayload::InnerMessage(message) = &message.payload {
                        events.extend(decode::event(message));
                    }
                }
                Err(error) => tracing::debug!(%error, "netlink event not understood"),
            }
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Lets more events wait than the system's limit admits; without the right to
/// (`CAP_NET_ADMIN`), fewer may.
fn enlarge(socket: &TokioSocket) {
    let size = RECEIVE_BUFFER;
    // SAFETY: the option takes an int, which is what is passed, and the file
    // descriptor is open for as long as `socket` is borrowed.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_unknown_nexthop_object_concerns_all_routes() {
        let mut datagram = Vec::new();
        for (length, kind) in [(20_u32, 104_u16), (16, 105)] {
            datagram.extend(length.to_ne_bytes());
            datagram.extend(kind.to_ne_bytes());
            datagram.resize(datagram.len() + length as usize - 6, 0);
        }
        let mut events = Vec::new();
        read(&datagram, &mut events);
        assert_eq!(events, [Event::Routes, Event::Routes]);
    }

    #[test]
    fn truncated_datagram_ends_quietly() {
        let mut events = Vec::new();
        read(&[1, 2, 3], &mut events);
        read(&[200, 0, 0, 0, 104, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut events);
        assert!(events.is_empty());
    }
}

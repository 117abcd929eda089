//! Sockets of probes.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::reason::Reason;

/// Hops that a packet to a VIP may take: to the backend's host, and on inside
/// of it where it hands the VIP on, to a container say. A backend without the VIP
/// that forwards sends it on with a time to live of 1, which the packet path of
/// this host drops, as any router does, so that no other backend answers.
const HOPS: u32 = 2;

/// Where a probe goes, and how its packets are marked.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// `SO_MARK`; 0: none.
    pub(super) mark: u32,
    /// Where marked packets go, to be told.
    pub(super) vip: Option<IpAddr>,
}

impl Peer {
    /// Connects. The connection is reset when it is dropped: closing it in
    /// order would leave a socket in TIME-WAIT behind (RFC 9293, section
    /// 3.3.2), thousands of them where thousands of backends are probed.
    pub(super) async fn connect(self) -> Result<TcpStream, Reason> {
        let socket = self.stream().map_err(Reason::of_host)?;
        socket.connect(self.address).await.map_err(|error| self.unreached(error.into()))
    }

    /// Sends a datagram and waits for one, of which as much is read as
    /// `answer` has room for.
    pub(super) async fn exchange(self, send: &[u8], answer: &mut [u8]) -> Result<usize, Reason> {
        let socket = self.datagrams().await.map_err(Reason::of_host)?;
        // Only what comes from this address is received, ICMP errors too.
        socket.connect(self.address).await?;
        let received = match socket.send(send).await {
            Ok(_) => socket.recv(answer).await,
            Err(error) => Err(error),
        };
        received.map_err(|error| {
            self.unreached(match error.kind() {
                ErrorKind::ConnectionRefused => "port unreachable".into(),
                _ => error.into(),
            })
        })
    }

    /// A socket for a connection.
    fn stream(self) -> io::Result<TcpSocket> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_zero_linger()?;
        if self.mark != 0 {
            // All backends answer from the VIP, so a port must be of one probe
            // only. Ports that are chosen at connecting may be shared by
            // connections to different addresses.
            socket.bind(self.any())?;
            self.mark(SockRef::from(&socket))?;
        }
        Ok(socket)
    }

    /// A socket for datagrams.
    async fn datagrams(self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(self.any()).await?;
        if self.mark != 0 {
            self.mark(SockRef::from(&socket))?;
        }
        Ok(socket)
    }

    fn mark(self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_mark(self.mark)?;
        match self.address {
            SocketAddr::V4(_) => socket.set_ttl_v4(HOPS),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(HOPS),
        }
    }

    /// Any address and port of this host.
    fn any(self) -> SocketAddr {
        match self.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    /// The reason, and for which address.
    fn unreached(self, reason: Reason) -> Reason {
        reason.map(|text| match self.vip {
            None => text,
            Some(vip) => format!("{text} for the VIP {vip}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_has_the_mark() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        for mark in [0, 7] {
            match (Peer { address, mark, vip: None }).connect().await {
                Ok(stream) => {
                    let socket = SockRef::from(&stream);
                    assert_eq!(socket.mark().unwrap(), mark);
                    assert_eq!(socket.ttl_v4().unwrap() == HOPS, mark != 0);
                }
                // Only root may mark.
                Err(reason) => {
                    let not_permitted = Reason::Host("operation not permitted".into());
                    assert_eq!((reason, mark), (not_permitted, 7));
                }
            }
        }
    }

    #[tokio::test]
    async fn who_refuses_for_a_vip_is_told_from_who_refuses() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let vip = Some([203, 0, 113, 20].into());
        for (vip, expected) in
            [(None, "connection refused"), (vip, "connection refused for the VIP 203.0.113.20")]
        {
            let refused = Peer { address, mark: 0, vip }.connect().await;
            assert_eq!(refused.unwrap_err(), expected.into());
        }
    }
}

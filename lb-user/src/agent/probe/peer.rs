//! Sockets of probes.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::reason::Reason;

/// Hops that a packet to a VIP may take. A backend without the VIP that forwards
/// would send it on, maybe to this host, and another backend would answer.
const ONE_HOP: u32 = 1;

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
        socket.connect(self.address).await.map_err(|error| self.unreached(error.into()))
    }

    /// Sends a datagram and waits for one, of which as much is read as
    /// `answer` has room for.
    pub(super) async fn exchange(self, send: &[u8], answer: &mut [u8]) -> Result<usize, Reason> {
        let socket = UdpSocket::bind(self.any()).await?;
        if self.mark != 0 {
            self.mark(SockRef::from(&socket))?;
        }
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

    fn mark(self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_mark(self.mark)?;
        match self.address {
            SocketAddr::V4(_) => socket.set_ttl_v4(ONE_HOP),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(ONE_HOP),
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
    fn unreached(self, Reason(text): Reason) -> Reason {
        Reason(match self.vip {
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
                    assert_eq!(socket.ttl_v4().unwrap() == ONE_HOP, mark != 0);
                }
                // Only root may mark.
                Err(Reason(reason)) => {
                    assert_eq!((reason.as_str(), mark), ("operation not permitted", 7));
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
            assert_eq!(refused.unwrap_err().0, expected);
        }
    }
}

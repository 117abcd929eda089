//! Sockets of probes.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::reason::Reason;

/// Where a probe goes, and how its packets are marked.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// `SO_MARK`; 0: none.
    pub(super) mark: u32,
}

impl Peer {
    /// Connects. The connection is reset when it is dropped: closing it in
    /// order would leave a socket in TIME-WAIT behind (RFC 9293, section
    /// 3.3.2), thousands of them where thousands of backends are probed.
    pub(super) async fn connect(self) -> io::Result<TcpStream> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_zero_linger()?;
        self.mark(SockRef::from(&socket))?;
        socket.connect(self.address).await
    }

    /// Sends a datagram and waits for one, of which as much is read as
    /// `answer` has room for.
    pub(super) async fn exchange(self, send: &[u8], answer: &mut [u8]) -> Result<usize, Reason> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        self.mark(SockRef::from(&socket))?;
        // Only what comes from this address is received, ICMP errors too.
        socket.connect(self.address).await?;
        let received = match socket.send(send).await {
            Ok(_) => socket.recv(answer).await,
            Err(error) => Err(error),
        };
        received.map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => "port unreachable".into(),
            _ => error.into(),
        })
    }

    fn mark(self, socket: SockRef<'_>) -> io::Result<()> {
        if self.mark == 0 { Ok(()) } else { socket.set_mark(self.mark) }
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
            match (Peer { address, mark }).connect().await {
                Ok(stream) => assert_eq!(SockRef::from(&stream).mark().unwrap(), mark),
                // Only root may mark.
                Err(error) => assert_eq!((error.kind(), mark), (ErrorKind::PermissionDenied, 7)),
            }
        }
    }
}

//! Sockets at addresses of `ha.listen`, which the host may get later: an
//! interface that is down must cost one path, not the node.

use std::{io, net::SocketAddr};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::core::model::ha::Path;

/// Callers that the kernel keeps until they are taken.
const BACKLOG: i32 = 16;

/// The socket of a path. It is connected, so only the peer's frames come in,
/// also where `firewall.host` drops what nobody asked for.
pub(super) struct Way {
    path: Path,
    socket: UdpSocket,
    connected: bool,
}

impl Way {
    /// Opens the socket of a path. The address may be missing, and the route.
    ///
    /// # Errors
    /// The port is in use.
    pub(super) fn open(path: Path) -> io::Result<Self> {
        let socket = bind(path.listen, Type::DGRAM)?;
        let socket = UdpSocket::from_std(socket.into())?;
        let mut way = Self { path, socket, connected: false };
        if let Err(error) = way.connect() {
            let (listen, error) = (path.listen, error.to_string());
            tracing::warn!(%listen, error, "a path to the peer is not there yet");
        }
        Ok(way)
    }

    fn connect(&mut self) -> io::Result<()> {
        SockRef::from(&self.socket).connect(&self.path.peer.into())?;
        self.connected = true;
        Ok(())
    }

    /// Sends a frame to the peer, if that can be. One that is lost is followed
    /// by others.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if !self.connected && self.connect().is_ok() {
            tracing::info!(listen = %self.path.listen, "a path to the peer is there");
        }
        if self.connected {
            let _ = self.socket.try_send(frame);
        }
    }

    /// Takes in what has come, if anything has: its length.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        // An error is what an earlier frame of ours met on its way.
        self.socket.try_recv(buffer).ok()
    }

    /// Waits until something has come.
    pub(super) async fn readable(&self) {
        // The socket stays open: there is nothing else to wait for.
        let _ = self.socket.readable().await;
    }
}

/// Listens for connections of the peer.
///
/// # Errors
/// The port is in use.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(at, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    if at.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier run do not keep the port.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of networks for documentation: no host has them.
    const MISSING: [&str; 2] = ["192.0.2.77:0", "[2001:db8::77]:0"];

    #[tokio::test]
    async fn addresses_that_are_missing_keep_no_socket_from_being_opened() {
        for address in MISSING {
            let listen: SocketAddr = address.parse().expect("an address");
            let peer = SocketAddr::new(listen.ip(), 4790);
            assert!(super::listen(listen).is_ok(), "{address}");
            let mut way = Way::open(Path { listen, peer }).expect("a socket");
            way.send(b"frame");
            assert_eq!(way.receive(&mut [0; 8]), None);
        }
    }

    #[tokio::test]
    async fn frames_go_between_two_ends() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let peer = std::net::UdpSocket::bind(host).expect("a socket");
            let at = peer.local_addr().expect("its address");
            let listen = host.parse().expect("an address");
            let mut way = Way::open(Path { listen, peer: at }).expect("a socket");
            // Whether a new socket takes anything is known after a moment.
            way.socket.writable().await.expect("open");
            way.send(b"there");
            let mut buffer = [0; 8];
            let (length, from) = peer.recv_from(&mut buffer).expect("a frame");
            assert_eq!(&buffer[..length], b"there");
            peer.send_to(b"back", from).expect("sent");
            let length = loop {
                way.readable().await;
                if let Some(length) = way.receive(&mut buffer) {
                    break length;
                }
            };
            assert_eq!(&buffer[..length], b"back");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused() {
        let used = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let listen = used.local_addr().expect("its address");
        let peer = "127.0.0.1:4790".parse().expect("an address");
        let refused = Way::open(Path { listen, peer }).map(drop).expect_err("in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let used = super::listen("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let refused = super::listen(used.local_addr().expect("its address")).expect_err("in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}

//! Packets from addresses that nobody has, as fast as a thread sends them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use socket2::{Domain, Socket, Type};

use super::{Error, Netns, Result};

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP segments with SYN, each of another client.
    Syn,
    /// Datagrams, each of another client.
    Udp,
    /// Last fragments of datagrams whose first ones never come.
    Fragment,
    /// Echo requests.
    Ping,
}

/// A flood that goes on until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

impl Flood {
    /// Starts to send to `to` from inside `netns`, see [`anywhere`].
    ///
    /// # Errors
    /// The kernel gives no raw socket.
    pub fn start(netns: &Netns, kind: Kind, to: (Ipv4Addr, u16)) -> Result<Self> {
        let open = || {
            let raw = Type::from(libc::SOCK_RAW);
            Socket::new(Domain::IPV4, raw, Some(libc::IPPROTO_RAW.into()))
        };
        let socket = netns.within(open)?.map_err(Error::io("open a raw socket"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let address = SocketAddr::from((to.0, 0)).into();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                socket.send_to(&packet(kind, to, sent), &address)?;
                sent += 1;
            }
            Ok(sent.into())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it: how many packets were sent.
    ///
    /// # Errors
    /// The kernel did not send one.
    ///
    /// # Panics
    /// Its thread did.
    pub fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { unreachable!("it ends once") };
        let sent = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.map_err(Error::io("send without end"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One of 65,536 addresses that nobody has (of RFC 2544): another one for each of as many
/// numbers in a row.
#[must_use]
pub fn anywhere(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// The IPv4 packet with this number. The kernel fills in its length and checksum
/// (raw(7)); checksums of what it carries are left out: nobody is to answer.
fn packet(kind: Kind, (to, port): (Ipv4Addr, u16), number: u32) -> Vec<u8> {
    let client = (1024 + number % 60_000) as u16;
    let (protocol, fragment, body) = match kind {
        Kind::Syn => (libc::IPPROTO_TCP, 0, syn(client, port)),
        Kind::Udp => (libc::IPPROTO_UDP, 0, udp(client, port)),
        // At byte 1480 of its datagram.
        Kind::Fragment => (libc::IPPROTO_UDP, 185, vec![0; 8]),
        Kind::Ping => (libc::IPPROTO_ICMP, 0, ping(number as u16)),
    };
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend((number as u16).to_be_bytes());
    packet.extend(u16::to_be_bytes(fragment));
    packet.extend([64, protocol as u8, 0, 0]);
    packet.extend(anywhere(number).octets().into_iter().chain(to.octets()).chain(body));
    packet
}

/// A TCP header with SYN (RFC 9293, section 3.1).
fn syn(from: u16, to: u16) -> Vec<u8> {
    let mut header = [from, to].map(u16::to_be_bytes).concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP header without a checksum, and eight octets (RFC 768).
fn udp(from: u16, to: u16) -> Vec<u8> {
    [from, to, 16, 0].map(u16::to_be_bytes).concat().into_iter().chain([7; 8]).collect()
}

/// An echo request with its checksum (RFC 792, RFC 1071).
fn ping(sequence: u16) -> Vec<u8> {
    let sum = 0x0800 + u32::from(sequence);
    let folded = (sum & 0xffff) + (sum >> 16);
    let mut message = vec![8, 0];
    message.extend((!(folded as u16)).to_be_bytes());
    message.extend([0, 0]);
    message.extend(sequence.to_be_bytes());
    message
}

//! What an IP packet carries.

use std::net::IpAddr;

use super::{ICMP, ICMPV6, TCP, UDP, checksum, pseudo};

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
    Other(u8, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Udp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    /// Whether there is a checksum (RFC 768: 0 means none).
    pub(crate) checksum: bool,
    pub(crate) payload: Vec<u8>,
}

/// ICMP of the packet's version.
#[derive(Clone, Debug)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// Bytes 4 to 7: identifier and sequence number, MTU, or unused.
    pub(crate) rest: [u8; 4],
    pub(crate) payload: Vec<u8>,
}

impl Body {
    /// Protocol number and bytes.
    pub(super) fn bytes(&self, source: IpAddr, destination: IpAddr) -> (u8, Vec<u8>) {
        match self {
            Self::Tcp(tcp) => {
                let mut bytes = [tcp.source.to_be_bytes(), tcp.destination.to_be_bytes()].concat();
                bytes.extend(tcp.sequence.to_be_bytes());
                bytes.extend(tcp.acknowledged.to_be_bytes());
                bytes.extend([((20 + tcp.options.len()) * 4) as u8, tcp.flags]);
                bytes.extend(tcp.window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(&tcp.options);
                bytes.extend(&tcp.payload);
                let sum = checksum(&[&pseudo(source, destination, TCP, bytes.len()), &bytes]);
                bytes[16..18].copy_from_slice(&sum.to_be_bytes());
                (TCP, bytes)
            }
            Self::Udp(udp) => {
                let mut bytes = [udp.source.to_be_bytes(), udp.destination.to_be_bytes()].concat();
                bytes.extend(((8 + udp.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(&udp.payload);
                if udp.checksum {
                    let pseudo = pseudo(source, destination, UDP, bytes.len());
                    let sum = match checksum(&[&pseudo, &bytes]) {
                        0 => 0xffff,
                        sum => sum,
                    };
                    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
                }
                (UDP, bytes)
            }
            Self::Icmp(icmp) => {
                let mut bytes = vec![icmp.kind, icmp.code, 0, 0];
                bytes.extend(icmp.rest);
                bytes.extend(&icmp.payload);
                let (proto, pseudo) = if source.is_ipv4() {
                    (ICMP, Vec::new())
                } else {
                    (ICMPV6, pseudo(source, destination, ICMPV6, bytes.len()))
                };
                let sum = checksum(&[&pseudo, &bytes]);
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                (proto, bytes)
            }
            Self::Other(proto, bytes) => (*proto, bytes.clone()),
        }
    }

    pub(crate) fn source_port(&mut self) -> &mut u16 {
        match self {
            Self::Tcp(tcp) => &mut tcp.source,
            Self::Udp(udp) => &mut udp.source,
            _ => panic!("no ports in {self:?}"),
        }
    }

    pub(crate) fn destination_port(&mut self) -> &mut u16 {
        match self {
            Self::Tcp(tcp) => &mut tcp.destination,
            Self::Udp(udp) => &mut udp.destination,
            _ => panic!("no ports in {self:?}"),
        }
    }

    pub(crate) fn payload(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Tcp(tcp) => &mut tcp.payload,
            Self::Udp(udp) => &mut udp.payload,
            Self::Icmp(icmp) => &mut icmp.payload,
            Self::Other(_, bytes) => bytes,
        }
    }
}

impl Tcp {
    /// A segment with options and an odd number of bytes.
    pub(crate) fn body(source: u16, destination: u16, flags: u8) -> Body {
        Body::Tcp(Self {
            source,
            destination,
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            flags,
            window: 0x2000,
            options: vec![2, 4, 5, 180, 1, 3, 3, 7],
            payload: b"tcp payload".to_vec(),
        })
    }
}

impl Udp {
    /// A datagram with an odd number of bytes.
    pub(crate) fn body(source: u16, destination: u16) -> Body {
        Body::Udp(Self { source, destination, checksum: true, payload: b"udp payload".to_vec() })
    }
}

impl Icmp {
    /// An error about `quote`.
    pub(crate) fn error(kind: u8, code: u8, rest: [u8; 4], quote: Vec<u8>) -> Body {
        Body::Icmp(Self { kind, code, rest, payload: quote })
    }
}

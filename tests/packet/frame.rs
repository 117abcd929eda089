//! Frames as values. Encoding one computes every length and checksum from
//! scratch, so an expected frame is the sent one with some fields changed.

mod body;
mod extension;

use std::net::IpAddr;

pub(crate) use self::{
    body::{Body, Icmp, Tcp, Udp},
    extension::Extension,
};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// EtherTypes.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const QINQ: u16 = 0x88a8;

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Flags of [`Packet::fragment`] (RFC 791, section 3.1).
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;

/// Flags of [`Tcp::flags`] (RFC 9293, section 3.1).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// An Ethernet frame that carries IP.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// VLAN tags, outermost first: EtherType and control information.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) packet: Packet,
}

/// An IP packet; the addresses tell the version.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Time to live or hop limit.
    pub(crate) hops: u8,
    /// IPv4: DSCP and ECN.
    pub(crate) class: u8,
    /// IPv4: identification.
    pub(crate) identification: u16,
    /// IPv4: flags and fragment offset in units of 8 bytes.
    pub(crate) fragment: u16,
    /// IPv4: options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6: traffic class and flow label.
    pub(crate) label: u32,
    /// IPv6: extension headers.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) body: Body,
}

impl Frame {
    /// The same with a change.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut frame = self.clone();
        change(&mut frame);
        frame
    }

    /// The whole frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ethertype = if self.packet.source.is_ipv4() { IPV4 } else { IPV6 };
        ethernet(self.to, self.from, &self.tags, ethertype, &self.packet.bytes())
    }

    /// Position of the IP header.
    pub(crate) fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Position of the transport header.
    pub(crate) fn l4(&self) -> usize {
        self.l3() + self.packet.header_length()
    }
}

impl From<&Frame> for Vec<u8> {
    fn from(frame: &Frame) -> Self {
        frame.bytes()
    }
}

/// An Ethernet frame of anything.
pub(crate) fn ethernet(
    to: Mac,
    from: Mac,
    tags: &[(u16, u16)],
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    for (tag, control) in tags {
        bytes.extend(tag.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl Packet {
    pub(crate) fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source,
            destination,
            hops: 64,
            class: 0,
            identification: 0x1234,
            fragment: DONT_FRAGMENT,
            options: Vec::new(),
            label: 0x12_3456,
            extensions: Vec::new(),
            body,
        }
    }

    /// The same with a change.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut packet = self.clone();
        change(&mut packet);
        packet
    }

    /// Bytes before the transport header.
    pub(crate) fn header_length(&self) -> usize {
        if self.source.is_ipv4() {
            20 + self.options.len()
        } else {
            40 + self.extensions.iter().map(|extension| 1 + extension.rest.len()).sum::<usize>()
        }
    }

    /// The whole packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (proto, body) = self.body.bytes(self.source, self.destination);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = self.header_length();
                let mut bytes = vec![0x40 | (header / 4) as u8, self.class];
                bytes.extend(((header + body.len()) as u16).to_be_bytes());
                bytes.extend(self.identification.to_be_bytes());
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([self.hops, proto, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                let sum = checksum(&[&bytes]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                [bytes, body].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let kinds = self.extensions.iter().map(|extension| extension.kind);
                let mut kinds = kinds.chain([proto]);
                let length = self.header_length() - 40 + body.len();
                let mut bytes = (6 << 28 | self.label).to_be_bytes().to_vec();
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend(kinds.next());
                bytes.push(self.hops);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                for extension in &self.extensions {
                    bytes.extend(kinds.next());
                    bytes.extend(&extension.rest);
                }
                [bytes, body].concat()
            }
            _ => panic!("addresses of two families: {self:?}"),
        }
    }

    /// The first bytes of the packet, as ICMP errors quote it: all headers of
    /// IP and `length` bytes behind them at most.
    pub(crate) fn quote(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(self.header_length() + length);
        bytes
    }
}

/// The pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, proto: u8, length: usize) -> Vec<u8> {
    let octets = |addr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let length = (length as u32).to_be_bytes();
    [octets(source), octets(destination), length.to_vec(), vec![0, 0, 0, proto]].concat()
}

/// The Internet checksum (RFC 1071) of parts of even length but the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let sum: u64 = words.map(|word| u64::from(u16::from_be_bytes(word))).sum();
    // 2^16 is 1 modulo 2^16 - 1; a sum that is not 0 folds to 0xffff, never to 0.
    let folded = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
    !(folded as u16)
}

/// Lower-case digits, for messages.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The frames that the driver sends: complete except for the client's address
//! and port, which it fills in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_bench::FRAME;
use lb_common::{csum, tcp};

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
}

impl Transport {
    /// A segment in the middle of a connection.
    pub(super) const DATA: Self = Self::Tcp(tcp::ACK | 1 << 3);
    /// The first segment of a connection.
    pub(super) const SYN: Self = Self::Tcp(tcp::SYN);
    /// A bare acknowledgement.
    pub(super) const ACK: Self = Self::Tcp(tcp::ACK);

    fn protocol(self) -> u8 {
        match self {
            Self::Tcp(_) => 6,
            Self::Udp => 17,
        }
    }

    fn checksum_at(self) -> usize {
        match self {
            Self::Tcp(_) => 16,
            Self::Udp => 6,
        }
    }
}

/// Which end of a packet the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// It sends.
    Source,
    /// It receives.
    Destination,
}

/// Ethernet addresses of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Macs {
    /// The balancer.
    pub(super) to: [u8; 6],
    /// Whoever is in front of it.
    pub(super) from: [u8; 6],
}

/// A frame between the client (address and port left out) and `other`, whose
/// checksums are sums that the driver completes and inverts. `network` is an
/// IPv6 client's first 96 bits.
pub(super) fn template(
    macs: Macs,
    client: Client,
    network: Ipv6Addr,
    (other, port): (IpAddr, u16),
    transport: Transport,
) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&macs.to);
    frame[6..12].copy_from_slice(&macs.from);
    let (l4, addresses) = match other {
        IpAddr::V4(other) => {
            ipv4(&mut frame, client, other, transport.protocol());
            (34, 26..34)
        }
        IpAddr::V6(other) => {
            ipv6(&mut frame, client, network, other, transport.protocol());
            (54, 22..54)
        }
    };
    let pseudo = u32::from(csum::sum(&frame[addresses]));
    let segment = &mut frame[l4..];
    let length = u16::try_from(segment.len()).expect("the frame is short");
    let side = if client == Client::Source { 2..4 } else { 0..2 };
    segment[side].copy_from_slice(&port.to_be_bytes());
    match transport {
        Transport::Tcp(flags) => {
            segment[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
            segment[12] = 5 << 4;
            segment[13] = flags;
            segment[14..16].copy_from_slice(&0xfff0_u16.to_be_bytes());
        }
        Transport::Udp => segment[4..6].copy_from_slice(&length.to_be_bytes()),
    }
    let fixed = u16::from(transport.protocol()).to_be();
    let sum = pseudo + u32::from(csum::sum(segment)) + u32::from(fixed) + u32::from(length.to_be());
    let at = transport.checksum_at();
    segment[at..at + 2].copy_from_slice(&csum::fold(sum).to_ne_bytes());
    frame
}

/// An ARP request for `target`, as anybody on the link may send it.
pub(super) fn arp(macs: Macs, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&macs.from);
    // RFC 826: Ethernet, IPv4, address lengths, request.
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&macs.from);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// Whether a frame's checksums are right; those of anything but IP are.
pub(super) fn is_valid(frame: &[u8; FRAME]) -> bool {
    let (l4, addresses, protocol) = match [frame[12], frame[13]] {
        [0x08, 0x00] => (34, 26..34, frame[23]),
        [0x86, 0xdd] => (54, 22..54, frame[20]),
        _ => return true,
    };
    let ip = l4 == 54 || csum::sum(&frame[14..34]) == 0xffff;
    let length = FRAME as u16 - l4 as u16;
    let parts = [
        csum::sum(&frame[addresses]),
        csum::sum(&frame[l4..]),
        u16::from(protocol).to_be(),
        length.to_be(),
    ];
    ip && csum::fold(parts.into_iter().map(u32::from).sum()) == 0xffff
}

fn ipv4(frame: &mut [u8; FRAME], client: Client, other: Ipv4Addr, protocol: u8) {
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let header = &mut frame[14..34];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(FRAME as u16 - 14).to_be_bytes());
    // Do not fragment.
    header[6] = 0x40;
    header[8] = 64;
    header[9] = protocol;
    let side = if client == Client::Source { 16..20 } else { 12..16 };
    header[side].copy_from_slice(&other.octets());
    let sum = csum::sum(header);
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

fn ipv6(frame: &mut [u8; FRAME], client: Client, network: Ipv6Addr, other: Ipv6Addr, protocol: u8) {
    frame[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
    let header = &mut frame[14..54];
    header[0] = 6 << 4;
    header[4..6].copy_from_slice(&(FRAME as u16 - 54).to_be_bytes());
    header[6] = protocol;
    header[7] = 64;
    let (client_side, other_side) =
        if client == Client::Source { (8..24, 24..40) } else { (24..40, 8..24) };
    header[client_side].copy_from_slice(&network.octets());
    header[other_side].copy_from_slice(&other.octets());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what the driver does.
    fn complete(frame: &mut [u8; FRAME], client: [u8; 4], at: usize, sums: &[(usize, bool)]) {
        let port = 4242_u16;
        let (words, port_at) = (u32::from(csum::sum(&client)), if at == 34 { 54 } else { 34 });
        frame[at..at + 4].copy_from_slice(&client);
        frame[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        for &(at, with_port) in sums {
            let sum = u32::from(u16::from_ne_bytes([frame[at], frame[at + 1]])) + words;
            let sum = sum + if with_port { u32::from(port.to_be()) } else { 0 };
            frame[at..at + 2].copy_from_slice(&(!csum::fold(sum)).to_ne_bytes());
        }
    }

    #[test]
    fn templates_become_valid_frames() {
        let macs = Macs { to: [2; 6], from: [4; 6] };
        let v4 = (IpAddr::from([203, 0, 113, 10]), 80);
        let v6 = ("2001:db8::10".parse().unwrap(), 80);
        let network = "fd00:64::".parse().unwrap();
        for (transport, at) in [(Transport::DATA, 16), (Transport::SYN, 16), (Transport::Udp, 6)] {
            let mut frame = template(macs, Client::Source, network, v4, transport);
            assert!(!is_valid(&frame));
            complete(&mut frame, [10, 64, 3, 7], 26, &[(24, false), (34 + at, true)]);
            assert!(is_valid(&frame), "{transport:?} over IPv4");

            let mut frame = template(macs, Client::Source, network, v6, transport);
            complete(&mut frame, [0, 0, 3, 7], 34, &[(54 + at, true)]);
            assert!(is_valid(&frame), "{transport:?} over IPv6");
        }
    }
}

//! The synthetic packet: Ethernet, IPv4 or IPv6, TCP or UDP, no data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::StatusCode;
use lb_common::{csum, tcp};

use super::Protocol;
use crate::{agent::admin::Refused, api};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;
/// Time to live: as the first router leaves it.
const HOPS: u8 = 63;

/// What is asked about.
pub(super) struct Probe {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    protocol: Protocol,
    syn: bool,
}

impl Probe {
    pub(super) fn new(question: &api::Question) -> Result<Self, Refused> {
        let refuse = |error: &str| Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error);
        let protocol = match question.protocol.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(refuse(&format!("`{other}` is no protocol, expected tcp or udp"))),
        };
        if question.client.is_ipv4() != question.vip.is_ipv4() {
            return Err(refuse("client and VIP must be of one family"));
        }
        if question.syn && protocol == Protocol::Udp {
            return Err(refuse("only TCP has a SYN"));
        }
        Ok(Self {
            client: (question.client, question.client_port).into(),
            vip: (question.vip, question.vip_port).into(),
            protocol,
            syn: question.syn,
        })
    }

    /// The whole frame, checksums filled in.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut segment = self.segment();
        let (source, destination) = (bytes(self.client.ip()), bytes(self.vip.ip()));
        // The pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
        let mut pseudo = [&source[..], &destination[..]].concat();
        pseudo.extend([0, self.protocol.number()]);
        pseudo.extend((segment.len() as u16).to_be_bytes());
        let sum = !csum::sum(&[&pseudo[..], &segment[..]].concat());
        let at = if self.protocol == Protocol::Tcp { 16 } else { 6 };
        segment[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(if self.vip.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.header(segment.len() as u16, &source, &destination));
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = self.client.port().to_be_bytes().to_vec();
        segment.extend(self.vip.port().to_be_bytes());
        match self.protocol {
            Protocol::Tcp => {
                let flags = if self.syn { tcp::SYN } else { tcp::ACK };
                segment.extend([0, 0, 0, 1, 0, 0, 0, 0, (TCP as u8 / 4) << 4, flags]);
                segment.extend([0xff, 0xff, 0, 0, 0, 0]);
            }
            Protocol::Udp => segment.extend([0, UDP as u8, 0, 0]),
        }
        segment
    }

    fn header(&self, payload: u16, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let proto = self.protocol.number();
        if self.vip.is_ipv6() {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(payload.to_be_bytes());
            header.extend([proto, HOPS]);
            header.extend([source, destination].concat());
            return header;
        }
        let mut header = vec![0x45, 0];
        header.extend((IPV4 as u16 + payload).to_be_bytes());
        header.extend([0, 0, 0x40, 0, HOPS, proto, 0, 0]);
        header.extend([source, destination].concat());
        let sum = !csum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_ne_bytes());
        header
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Destination address and port of a frame like those of [`Probe::frame`].
pub(super) fn destination(frame: &[u8]) -> Option<SocketAddr> {
    let (address, l4) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let octets: [u8; 4] = frame.get(ETHERNET + 16..ETHERNET + 20)?.try_into().ok()?;
            (IpAddr::from(Ipv4Addr::from(octets)), ETHERNET + IPV4)
        }
        [0x86, 0xdd] => {
            let octets: [u8; 16] = frame.get(ETHERNET + 24..ETHERNET + 40)?.try_into().ok()?;
            (IpAddr::from(Ipv6Addr::from(octets)), ETHERNET + IPV6)
        }
        _ => return None,
    };
    let port = frame.get(l4 + 2..l4 + 4)?.try_into().ok()?;
    Some((address, u16::from_be_bytes(port)).into())
}

/// Ethernet destination of a frame.
pub(super) fn next_hop(frame: &[u8]) -> Option<String> {
    let octets = frame.get(..6)?;
    Some(octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(client: &str, vip: &str, protocol: &str) -> api::Question {
        api::Question {
            client: client.parse().unwrap(),
            client_port: 1234,
            vip: vip.parse().unwrap(),
            vip_port: 443,
            protocol: protocol.to_owned(),
            syn: false,
            interface: None,
        }
    }

    #[test]
    fn frames_are_whole_and_their_checksums_right() {
        for (client, vip) in [("192.0.2.1", "203.0.113.10"), ("2001:db8::1", "2001:db8::10")] {
            for (protocol, length) in [("tcp", TCP), ("udp", UDP)] {
                let probe = Probe::new(&question(client, vip, protocol)).unwrap();
                let frame = probe.frame();
                let header = if vip.contains(':') { IPV6 } else { IPV4 };
                assert_eq!(frame.len(), ETHERNET + header + length);
                assert_eq!(destination(&frame), Some(probe.vip));
                if header == IPV4 {
                    assert_eq!(csum::sum(&frame[ETHERNET..ETHERNET + IPV4]), 0xffff);
                }
                let addresses = [bytes(probe.client.ip()), bytes(probe.vip.ip())].concat();
                let pseudo = [0, probe.protocol.number(), 0, length as u8];
                let segment = &frame[ETHERNET + header..];
                assert_eq!(csum::sum(&[&addresses[..], &pseudo, segment].concat()), 0xffff);
            }
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        assert!(Probe::new(&question("192.0.2.1", "2001:db8::1", "tcp")).is_err());
        assert!(Probe::new(&question("192.0.2.1", "203.0.113.1", "sctp")).is_err());
        let syn = api::Question { syn: true, ..question("192.0.2.1", "203.0.113.1", "udp") };
        assert!(Probe::new(&syn).is_err());
    }
}

//! A strict reader of frames: every length and checksum, also of packets
//! inside others, and of those quoted in ICMP errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::tunnel::{GUE_PORT, IPV4_IN_IP, IPV6_IN_IP};

use super::frame::{ICMP, ICMPV6, IPV4, IPV6, QINQ, TCP, UDP, VLAN, checksum, hex, pseudo};

/// Fails unless everything in the frame of IP is as its receivers want it.
#[track_caller]
pub(crate) fn assert_valid(frame: &[u8]) {
    if let Err(wrong) = check(frame) {
        panic!("{wrong} in {}", hex(frame));
    }
}

type Checked<T = ()> = Result<T, String>;

/// What is wrong with a frame, if anything.
pub(crate) fn check(frame: &[u8]) -> Checked {
    let mut l3 = 14;
    while [VLAN, QINQ].contains(&number(frame, l3 - 2)?) {
        l3 += 4;
    }
    match number(frame, l3 - 2)? {
        IPV4 | IPV6 => ip(&frame[l3..], false),
        other => Err(format!("EtherType {other:#06x}")),
    }
}

/// A packet, or as much as an error quotes of it.
fn ip(packet: &[u8], quoted: bool) -> Checked {
    let version = packet.first().ok_or("no IP header")? >> 4;
    if version == 4 { ipv4(packet, quoted) } else { ipv6(packet, quoted) }
}

fn ipv4(packet: &[u8], quoted: bool) -> Checked {
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(number(packet, 2)?);
    if header < 20 || total < header || packet.len() < header {
        return Err(format!("IPv4 lengths {header} and {total}"));
    }
    if checksum(&[&packet[..header]]) != 0 {
        return Err("checksum of the IPv4 header".into());
    }
    let addr = |at| {
        let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap_or_default();
        IpAddr::V4(Ipv4Addr::from(octets))
    };
    let is_fragment = number(packet, 6)? & 0x3fff != 0;
    let Some(body) = whole(packet, header, total, quoted)? else { return Ok(()) };
    if is_fragment { Ok(()) } else { transport(addr(12), addr(16), packet[9], body) }
}

fn ipv6(packet: &[u8], quoted: bool) -> Checked {
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return Err("IPv6 header".into());
    }
    let addr = |at| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().unwrap_or_default();
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let total = 40 + usize::from(number(packet, 4)?);
    let (mut proto, mut header) = (packet[6], 40);
    while [0, 43, 44, 51, 60].contains(&proto) {
        let units = usize::from(*packet.get(header + 1).ok_or("extension header")?);
        let length = match proto {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        if proto == 44 && number(packet, header + 2)? & 0xfff9 != 0 {
            return Ok(());
        }
        proto = packet[header];
        header += length;
    }
    match whole(packet, header, total, quoted)? {
        Some(body) => transport(addr(8), addr(24), proto, body),
        None => Ok(()),
    }
}

/// What is behind the headers; nothing if it was cut off where that is right.
fn whole(packet: &[u8], header: usize, total: usize, quoted: bool) -> Checked<Option<&[u8]>> {
    match packet.get(header..total) {
        Some(body) => Ok(Some(body)),
        None if quoted => Ok(None),
        None => Err(format!("{} bytes of a packet of {total}", packet.len())),
    }
}

fn transport(source: IpAddr, destination: IpAddr, proto: u8, body: &[u8]) -> Checked {
    let sum = |proto| checksum(&[&pseudo(source, destination, proto, body.len()), body]);
    match proto {
        TCP if body.len() < 20 || sum(TCP) != 0 => Err("checksum of TCP".into()),
        UDP => {
            let (length, field) = (usize::from(number(body, 4)?), number(body, 6)?);
            let is_gue = number(body, 2)? == GUE_PORT;
            // In tunnels also over IPv6 (RFC 6935).
            let absent = field == 0 && (source.is_ipv4() || is_gue);
            if length != body.len() || (sum(UDP) != 0 && !absent) || (field == 0 && !absent) {
                return Err("length or checksum of UDP".into());
            }
            if is_gue { ip(&body[8..], false) } else { Ok(()) }
        }
        ICMP => {
            if body.is_empty() || checksum(&[body]) != 0 {
                return Err("checksum of ICMP".into());
            }
            if [3, 11, 12].contains(&body[0]) { ip(quote(body)?, true) } else { Ok(()) }
        }
        ICMPV6 => {
            if body.is_empty() || sum(ICMPV6) != 0 {
                return Err("checksum of ICMPv6".into());
            }
            if body[0] < 128 { ip(quote(body)?, true) } else { Ok(()) }
        }
        IPV4_IN_IP | IPV6_IN_IP => ip(body, false),
        _ => Ok(()),
    }
}

/// What an ICMP error has behind its header.
fn quote(message: &[u8]) -> Checked<&[u8]> {
    message.get(8..).ok_or_else(|| "ICMP header".into())
}

fn number(bytes: &[u8], at: usize) -> Checked<u16> {
    let bytes = bytes.get(at..at + 2).ok_or("the frame ends early")?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

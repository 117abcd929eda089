//! Announcements as bytes: whole Ethernet frames but for the check sequence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::csum;

type Mac = [u8; 6];

/// ARP operations (RFC 826).
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Protocol number.
const ICMPV6: u8 = 58;

/// All frames of one announcement of an address that is at `mac`, of a router
/// or of another host.
pub(super) fn announcements(address: IpAddr, mac: Mac, router: bool) -> Vec<Vec<u8>> {
    match address {
        // What is asked for is not known to who asks.
        IpAddr::V4(v4) => vec![arp(REQUEST, v4, mac, [0; 6]), arp(REPLY, v4, mac, mac)],
        IpAddr::V6(v6) => vec![advertisement(v6, mac, router)],
    }
}

/// An ARP packet (RFC 826) by which a node tells all others unasked: sender and
/// target are the same address. As a request it is the announcement of RFC
/// 5227, section 2.3; both forms are in RFC 5944, section 4.6.
fn arp(operation: u16, address: Ipv4Addr, mac: Mac, target: Mac) -> Vec<u8> {
    const BROADCAST: Mac = [0xff; 6];
    /// EtherType; then hardware and protocol (Ethernet, IPv4) with the lengths
    /// of their addresses.
    const HEAD: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4];
    let (operation, address) = (operation.to_be_bytes(), address.octets());
    [&BROADCAST[..], &mac, &HEAD, &operation, &mac, &address, &target, &address].concat()
}

/// An unsolicited neighbour advertisement (RFC 4861, sections 4.4 and 7.2.6):
/// to all nodes, to replace what they know, with the Ethernet address.
fn advertisement(address: Ipv6Addr, mac: Mac, router: bool) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    /// Where multicast to [`ALL_NODES`] goes (RFC 2464, section 7).
    const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    /// IP version 6, no traffic class, no flow label.
    const VERSION: [u8; 4] = [0x60, 0, 0, 0];
    /// Proof that no router has forwarded it (RFC 4861, section 7.1.2).
    const HOP_LIMIT: u8 = 255;
    const TYPE: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    /// Option "target link-layer address", one unit of 8 bytes long.
    const LINK_LAYER: [u8; 2] = [2, 1];

    let flags = OVERRIDE | u8::from(router) << 7;
    let (source, destination) = (address.octets(), ALL_NODES.octets());
    let mut message = [&[TYPE, 0, 0, 0, flags, 0, 0, 0], &source[..], &LINK_LAYER, &mac].concat();
    let length = message.len() as u16;
    // The pseudo-header of RFC 8200, section 8.1.
    let [high, low] = length.to_be_bytes();
    let pseudo = [&source[..], &destination, &[0, 0, high, low, 0, 0, 0, ICMPV6]].concat();
    let checksum = !csum::sum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
    let head = [high, low, ICMPV6, HOP_LIMIT];
    [&ALL_NODES_MAC[..], &mac, &ETHERTYPE, &VERSION, &head, &source, &destination, &message]
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn an_ipv4_address_is_announced_by_request_and_reply() {
        let head = |operation| {
            [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &MAC].concat()
        };
        let address = [203, 0, 113, 10];
        let request = [&head(1)[..], &address, &[0; 6], &address].concat();
        let reply = [&head(2)[..], &address, &MAC, &address].concat();
        assert_eq!(announcements(address.into(), MAC, true), [request, reply]);
    }

    #[test]
    fn an_ipv6_address_is_announced_by_an_advertisement() {
        let address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        // The checksums are computed by other means than the code's.
        for (router, flags, checksum) in [(false, 0x20, [0xf9, 0x0c]), (true, 0xa0, [0x79, 0x0c])] {
            let expected = [
                &[0x33, 0x33, 0, 0, 0, 1][..],
                &MAC,
                &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
                &address,
                &to,
                &[136, 0],
                &checksum,
                &[flags, 0, 0, 0],
                &address,
                &[2, 1],
                &MAC,
            ];
            assert_eq!(announcements(address.into(), MAC, router), [expected.concat()]);
        }
    }
}

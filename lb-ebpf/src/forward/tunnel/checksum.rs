//! The UDP checksum around a packet that has checksums of its own. What these cover
//! adds up to what they say, so the sum of the whole packet follows from its headers
//! alone (Linux: Documentation/networking/checksum-offloads.rst, "Local Checksum
//! Offload").

use lb_common::csum;

use crate::{
    family::Family,
    packet::{Frame, load, number16},
    parse::{TCP, UDP},
};

/// ICMP, whose checksum covers nothing but itself.
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

/// Checksum of a UDP header of 8 bytes in front of the packet at `inner`. `ports`: sum
/// of its ports; `ends`: addresses of the packet around. 0, "none": it does not follow
/// from the packet, which has no checksum itself, is a fragment, or has extension
/// headers; receivers of tunnels accept that (RFC 6935).
#[inline(always)]
pub(super) fn around<Outer: Family, F: Family>(
    frame: Frame,
    inner: usize,
    length: u16,
    ports: u32,
    ends: (Outer::Addr, Outer::Addr),
) -> u16 {
    let Some(packet) = sum::<F>(frame, inner) else {
        return 0;
    };
    // The length is in the pseudo header as well (RFC 8200, section 8.1).
    let lengths = 2 * u32::from(length.to_be());
    let pseudo = addresses::<Outer>(ends) + u32::from(u16::from(UDP).to_be()) + lengths;
    match !csum::fold(pseudo + ports + u32::from(packet)) {
        0 => 0xffff,
        sum => sum,
    }
}

#[inline(always)]
fn addresses<F: Family>((source, destination): (F::Addr, F::Addr)) -> u32 {
    let (source, destination) = (F::words(source), F::words(destination));
    csum::sum64(source[0])
        + csum::sum64(source[1])
        + csum::sum64(destination[0])
        + csum::sum64(destination[1])
}

/// Sum of all words of a packet.
#[inline(always)]
fn sum<F: Family>(frame: Frame, l3: usize) -> Option<u16> {
    let addresses = addresses::<F>((F::source(l3), F::destination(l3)));
    if F::EXACT {
        let header = usize::from(load::<u8>(l3) & 0x0f) * 4;
        if load::<u16>(l3 + 6) & 0x3fffu16.to_be() != 0 {
            return None;
        }
        let length = number16(l3 + 2) - header as u16;
        // With its checksum the header itself adds nothing.
        transport(frame, l3 + header, load(l3 + 9), length, addresses)
    } else {
        let header = csum::sum32(load(l3)) + csum::sum32(load(l3 + 4)) + addresses;
        let behind = transport(frame, l3 + F::HEADER, load(l3 + 6), number16(l3 + 4), addresses)?;
        Some(csum::fold(header + u32::from(behind)))
    }
}

/// Sum of what is behind the header: with the pseudo header it would be nothing.
#[inline(always)]
fn transport(frame: Frame, l4: usize, proto: u8, length: u16, addresses: u32) -> Option<u16> {
    match proto {
        TCP | ICMPV6 => {}
        UDP if frame.holds(l4, 8) && load::<u16>(l4 + 6) != 0 => {}
        ICMPV4 => return Some(0),
        _ => return None,
    }
    let pseudo = addresses + u32::from(u16::from(proto).to_be()) + u32::from(length.to_be());
    Some(!csum::fold(pseudo))
}

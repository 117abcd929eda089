//! From bytes to a packet: IP, the first bytes of TCP or UDP.
//!
//! Checksums are not verified: they are only ever updated by differences, so a
//! bad one stays bad and the receiver drops the packet.

use aya_ebpf::bindings::xdp_md;
use lb_common::stats::Counter;
use network_types::{tcp::TcpHdr, udp::UdpHdr};

pub(crate) use crate::link::{IPV4, IPV6, LONGEST as LONGEST_LINK, UDP, link};
use crate::{
    extension,
    family::{Family, V4, V6},
    packet::{Frame, load, number16},
};

/// Protocol number.
pub(crate) const TCP: u8 = 6;

/// A packet with its headers found.
#[derive(Clone, Copy)]
pub(crate) struct Packet<F: Family> {
    /// The frame it lies in.
    pub frame: Frame,
    /// Position of the IP header.
    pub l3: usize,
    /// Position of the transport header.
    pub l4: usize,
    /// Source address.
    pub source: F::Addr,
    /// Destination address.
    pub destination: F::Addr,
    /// Source port in the low, destination port in the high half, each as it
    /// lies in the frame; 0 without ports.
    pub ports: u32,
    /// Protocol number.
    pub proto: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Bytes of the IP payload from `l4` on.
    pub length: usize,
    /// [`WHOLE`], [`FIRST_FRAGMENT`], or the number of the [`Counter`] for
    /// which it is dropped should it be ours: its ports cannot be had.
    pub obstacle: u32,
}

/// See [`Packet::obstacle`].
pub(crate) const WHOLE: u32 = 0;
/// See [`Packet::obstacle`]: it has ports, but the fragments behind it do not.
pub(crate) const FIRST_FRAGMENT: u32 = 1;

impl<F: Family> Packet<F> {
    /// Source port, network byte order.
    #[inline(always)]
    pub(crate) fn source_port(&self) -> u16 {
        self.ports as u16
    }

    /// Destination port, network byte order.
    #[inline(always)]
    pub(crate) fn destination_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Bytes of the IP packet.
    #[inline(always)]
    pub(crate) fn ip_length(&self) -> u32 {
        self.frame.left(self.l3) as u32
    }
}

/// Whether the frame is for more than one station: the first bit on the wire
/// of its destination (IEEE 802.3, section 3.2.3).
#[inline(always)]
pub(crate) fn to_group(frame: Frame) -> bool {
    frame.holds(frame.start, 1) && load::<u8>(frame.start) & 1 != 0
}

/// IPv4, options accepted (RFC 791, section 3.1). `Err`: no valid packet;
/// nobody can want it.
#[inline(always)]
pub(crate) fn ipv4(frame: Frame, l3: usize) -> Result<Packet<V4>, Counter> {
    if !frame.holds(l3, V4::HEADER) {
        return Err(Counter::Truncated);
    }
    let version_length: u8 = load(l3);
    let header = usize::from(version_length & 0x0f) * 4;
    let total = usize::from(number16(l3 + 2));
    if version_length >> 4 != 4 || header < V4::HEADER || total < header {
        return Err(Counter::Malformed);
    }
    if total > frame.left(l3) {
        return Err(Counter::Truncated);
    }
    // More fragments, and the offset.
    let fragment = load::<u16>(l3 + 6) & 0x3fffu16.to_be();
    let obstacle = if fragment == 0 {
        WHOLE
    } else if fragment == 0x2000u16.to_be() {
        FIRST_FRAGMENT
    } else {
        Counter::Fragment as u32
    };
    Ok(Packet {
        frame,
        l3,
        l4: l3 + header,
        source: V4::source(l3),
        destination: V4::destination(l3),
        ports: 0,
        proto: load(l3 + 9),
        tcp_flags: 0,
        length: total - header,
        obstacle,
    })
}

/// IPv6, extension headers walked (RFC 8200, section 4). `Err`: no valid
/// packet; nobody can want it.
#[inline(always)]
pub(crate) fn ipv6(ctx: *mut xdp_md, frame: Frame, l3: usize) -> Result<Packet<V6>, Counter> {
    if !frame.holds(l3, V6::HEADER) {
        return Err(Counter::Truncated);
    }
    if load::<u8>(l3) >> 4 != 6 {
        return Err(Counter::Malformed);
    }
    let payload = usize::from(number16(l3 + 4));
    if payload + V6::HEADER > frame.left(l3) {
        return Err(Counter::Truncated);
    }
    let mut packet = Packet {
        frame,
        l3,
        l4: l3 + V6::HEADER,
        source: V6::source(l3),
        destination: V6::destination(l3),
        ports: 0,
        proto: load(l3 + 6),
        tcp_flags: 0,
        length: payload,
        obstacle: WHOLE,
    };
    if extension::is_extension(packet.proto) {
        let walked = extension::skip(ctx, packet.l4 - frame.start, packet.proto);
        if walked.length > payload {
            packet.obstacle = Counter::Malformed as u32;
        } else {
            packet.obstacle = walked.obstacle;
            packet.proto = walked.proto;
            packet.l4 += walked.length;
            packet.length = payload - walked.length;
        }
    }
    Ok(packet)
}

/// Reads the ports and flags of TCP.
#[inline(always)]
pub(crate) fn tcp<F: Family>(packet: Packet<F>) -> Result<Packet<F>, Counter> {
    if !packet.frame.holds(packet.l4, TcpHdr::LEN) || packet.length < TcpHdr::LEN {
        return Err(Counter::Truncated);
    }
    // The data offset counts 32-bit words (RFC 9293, section 3.1).
    let header = usize::from(load::<u8>(packet.l4 + 12) >> 4) * 4;
    if header < TcpHdr::LEN || header > packet.length {
        return Err(Counter::Malformed);
    }
    let (ports, tcp_flags) = (load(packet.l4), load(packet.l4 + 13));
    Ok(Packet { ports, tcp_flags, proto: TCP, ..packet })
}

/// Reads the ports of UDP.
#[inline(always)]
pub(crate) fn udp<F: Family>(packet: Packet<F>) -> Result<Packet<F>, Counter> {
    if !packet.frame.holds(packet.l4, UdpHdr::LEN) || packet.length < UdpHdr::LEN {
        return Err(Counter::Truncated);
    }
    let datagram = usize::from(number16(packet.l4 + 4));
    // Of a fragmented datagram not all is here.
    let too_long = datagram > packet.length && packet.obstacle == WHOLE;
    if datagram < UdpHdr::LEN || too_long {
        return Err(Counter::Malformed);
    }
    Ok(Packet { ports: load(packet.l4), proto: UDP, ..packet })
}

/// Whether the fixed part of an ICMP message is there.
#[inline(always)]
pub(crate) fn icmp<F: Family>(packet: &Packet<F>) -> bool {
    packet.frame.holds(packet.l4, 8) && packet.length >= 8
}

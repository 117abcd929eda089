//! What differs between IPv4 and IPv6. The path is compiled once for each.

use lb_common::{
    addr::AddrBytes,
    config::Generation,
    csum, hash,
    service::{self, EndpointKind},
    tunnel,
};

use crate::{
    packet::{load, number16, store},
    parse,
};

/// An IP version: header layout and keys. Addresses are as loaded from the frame.
pub(crate) trait Family: Copy {
    /// An address.
    type Addr: Copy + PartialEq;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Bytes of the fixed header.
    const HEADER: usize;

    /// Source address of the header at `l3`.
    fn source(l3: usize) -> Self::Addr;
    /// Destination address of the header at `l3`.
    fn destination(l3: usize) -> Self::Addr;
    /// Writes the source address.
    fn set_source(l3: usize, addr: &AddrBytes);
    /// Writes the destination address.
    fn set_destination(l3: usize, addr: &AddrBytes);
    /// Applies what an address change adds to the header's checksum, if it has one.
    fn update_header_checksum(l3: usize, delta: u16);
    /// Takes one from the time to live, and applies that and what else changes
    /// in the header, `delta`, to its checksum, if it has one.
    fn age(l3: usize, delta: u16);
    /// Whether no router may cut the packet to pieces.
    fn never_fragmented(l3: usize) -> bool;
    /// Gives a fragment another identification (host byte order). IPv6's header for it is
    /// the first one behind the fixed one, see [`crate::fragment`].
    fn identify(l3: usize, identification: u32);
    /// Whether the time to live allows for another hop.
    fn may_go_on(l3: usize) -> bool;

    /// The address as two words: an IPv4 address is the first, then 0.
    fn words(addr: Self::Addr) -> [u64; 2];
    /// The address whose [`Self::words`] these are.
    fn from_words(words: [u64; 2]) -> Self::Addr;
    /// The address that `bytes` holds.
    fn from_bytes(bytes: &AddrBytes) -> Self::Addr;
    /// Whether `bytes` is this address.
    fn equals(addr: Self::Addr, bytes: &AddrBytes) -> bool;
    /// Whether keys are exact: an endpoint's, so that a hit needs no comparison,
    /// and a flow's where its service implies the destination port.
    const EXACT: bool;
    /// Key into the endpoint table.
    fn endpoint_key(kind: EndpointKind, addr: Self::Addr, port: u16, proto: u8, salt: u64) -> u64;
    /// Slot hash of a flow.
    fn slot_hash(
        source: Self::Addr,
        destination: Self::Addr,
        ports: u32,
        proto: u8,
        seed: [u64; 2],
    ) -> u32;
    /// Bytes of the packet by its header at `l3`.
    fn length(l3: usize) -> usize;
    /// Writes a header of our own at `l3`, `length` bytes of `proto` behind it.
    /// `class`: see [`Self::traffic_class`]; `label`: IPv6's flow label.
    fn write_header(
        l3: usize,
        ends: (Self::Addr, Self::Addr),
        behind: (u8, u16),
        class: u8,
        label: u32,
    );
    /// Its EtherType.
    const ETHERTYPE: u16;
    /// Number of its packets as what a packet carries.
    const IN_IP: u8;
    /// DSCP and ECN.
    fn traffic_class(l3: usize) -> u8;
    /// One of the sources of packets that wrap others.
    fn tunnel_source(generation: &Generation, lot: u64) -> Self::Addr;
    /// Whether an address is one of those.
    fn is_tunnel_source(generation: &Generation, addr: Self::Addr) -> bool;
    /// How many sources mode `fullnat` has.
    fn nat_sources(generation: &Generation) -> u32;
    /// One of them, by its number.
    fn nat_source(generation: &Generation, number: u32) -> Self::Addr;
    /// The number of an address that is one of them.
    fn nat_source_number(generation: &Generation, addr: Self::Addr) -> Option<u32>;
    /// Writes both addresses.
    fn set_addresses(l3: usize, source: Self::Addr, destination: Self::Addr);
    /// What another address adds to a checksum, not folded.
    fn delta(old: Self::Addr, new: Self::Addr) -> u32;
    /// ICMP type and code of "port unreachable", as one word.
    const PORT_UNREACHABLE: u32;
    /// The same of "fragmentation needed" (RFC 792) or "packet too big" (RFC 4443,
    /// section 3.2).
    const TOO_BIG: u32;
    /// The word behind the checksum of a [`Self::TOO_BIG`] (RFC 1191, section 4).
    fn next_mtu(mtu: u32) -> u32;
    /// What that word says; 0 from routers before RFC 1191.
    fn mtu_of(word: u32) -> u32;
    /// Bytes of a packet that an ICMP error quotes at most.
    const QUOTE: usize;
    /// Turns a header at `l3` around to be an answer with a fresh time to live.
    fn answer(l3: usize, source: Self::Addr, destination: Self::Addr);
    /// Length and protocol of a header quoted in an ICMP error, `None` where
    /// no transport header follows it.
    fn quoted_header(l3: usize) -> Option<(usize, u8)>;
    /// Whether no host can send from this address: unspecified ("this network"),
    /// loopback, multicast, reserved, or of the other family (RFC 1812, section 5.3.7;
    /// RFC 6890, section 2.2; RFC 4291, section 2.5.5.2).
    fn impossible_source(addr: Self::Addr) -> bool;
}

/// Time to live of packets of our own (RFC 1700, "IP time to live").
const HOPS: u8 = 64;

/// IPv4 (RFC 791).
#[derive(Clone, Copy)]
pub(crate) struct V4;
/// IPv6 (RFC 8200).
#[derive(Clone, Copy)]
pub(crate) struct V6;

/// The last word of `bytes`, where the mapped form has the IPv4 address.
#[inline(always)]
fn v4_word(bytes: &AddrBytes) -> u32 {
    load(bytes.as_ptr() as usize + 12)
}

impl Family for V4 {
    type Addr = u32;
    const ICMP: u8 = 1;
    const HEADER: usize = 20;
    const EXACT: bool = true;

    #[inline(always)]
    fn source(l3: usize) -> u32 {
        load(l3 + 12)
    }
    #[inline(always)]
    fn destination(l3: usize) -> u32 {
        load(l3 + 16)
    }
    #[inline(always)]
    fn set_source(l3: usize, addr: &AddrBytes) {
        store(l3 + 12, v4_word(addr));
    }
    #[inline(always)]
    fn set_destination(l3: usize, addr: &AddrBytes) {
        store(l3 + 16, v4_word(addr));
    }
    #[inline(always)]
    fn update_header_checksum(l3: usize, delta: u16) {
        store(l3 + 10, csum::apply(load(l3 + 10), delta));
    }
    #[inline(always)]
    fn never_fragmented(l3: usize) -> bool {
        load::<u16>(l3 + 6) & 0x4000u16.to_be() != 0
    }
    #[inline(always)]
    fn identify(l3: usize, identification: u32) {
        let (old, new) = (load(l3 + 4), (identification as u16).to_be());
        store(l3 + 4, new);
        Self::update_header_checksum(l3, csum::fold(csum::delta16(old, new)));
    }
    #[inline(always)]
    fn may_go_on(l3: usize) -> bool {
        load::<u8>(l3 + 8) > 1
    }
    #[inline(always)]
    fn age(l3: usize, delta: u16) {
        store(l3 + 8, load::<u8>(l3 + 8) - 1);
        store(l3 + 10, csum::apply(load(l3 + 10), delta));
    }
    #[inline(always)]
    fn words(addr: u32) -> [u64; 2] {
        [u64::from(addr), 0]
    }
    #[inline(always)]
    fn from_words(words: [u64; 2]) -> u32 {
        words[0] as u32
    }
    #[inline(always)]
    fn from_bytes(bytes: &AddrBytes) -> u32 {
        v4_word(bytes)
    }
    #[inline(always)]
    fn equals(addr: u32, bytes: &AddrBytes) -> bool {
        addr == v4_word(bytes)
    }
    #[inline(always)]
    fn endpoint_key(kind: EndpointKind, addr: u32, port: u16, proto: u8, _salt: u64) -> u64 {
        service::endpoint_key_v4(kind, addr, port, proto)
    }
    #[inline(always)]
    fn slot_hash(source: u32, destination: u32, ports: u32, proto: u8, seed: [u64; 2]) -> u32 {
        hash::slot_v4(source, destination, ports, proto, seed)
    }
    const PORT_UNREACHABLE: u32 = u32::from_ne_bytes([3, 3, 0, 0]);
    const TOO_BIG: u32 = u32::from_ne_bytes([3, 4, 0, 0]);
    #[inline(always)]
    fn next_mtu(mtu: u32) -> u32 {
        (mtu & 0xffff).to_be()
    }
    #[inline(always)]
    fn mtu_of(word: u32) -> u32 {
        match u32::from_be(word) & 0xffff {
            // Every host takes as much (RFC 1122, section 3.3.2).
            0 => 576,
            mtu => mtu,
        }
    }
    // 576 bytes with its headers (RFC 1812, section 4.3.2.3).
    const QUOTE: usize = 576 - 20 - 8;

    #[inline(always)]
    fn length(l3: usize) -> usize {
        usize::from(number16(l3 + 2))
    }
    #[inline(always)]
    fn write_header(
        l3: usize,
        (source, destination): (u32, u32),
        (proto, length): (u8, u16),
        class: u8,
        _label: u32,
    ) {
        let [high, low] = (Self::HEADER as u16 + length).to_be_bytes();
        // Version and header length, identification 0 and "don't fragment"
        // (RFC 6864, section 4.1), time to live and protocol.
        let words = [[0x45, class, high, low], [0, 0, 0x40, 0], [HOPS, proto, 0, 0]];
        let mut sum = csum::sum32(source) + csum::sum32(destination);
        let mut i = 0;
        while i < 3 {
            let word = u32::from_ne_bytes(words[i]);
            sum += csum::sum32(word);
            store(l3 + 4 * i, word);
            i += 1;
        }
        store(l3 + 10, !csum::fold(sum));
        store(l3 + 12, source);
        store(l3 + 16, destination);
    }
    const ETHERTYPE: u16 = parse::IPV4;
    const IN_IP: u8 = tunnel::IPV4_IN_IP;
    #[inline(always)]
    fn traffic_class(l3: usize) -> u8 {
        load(l3 + 1)
    }
    #[inline(always)]
    fn tunnel_source(generation: &Generation, lot: u64) -> u32 {
        generation.tunnel_v4 | lot as u32 & generation.tunnel_v4_spread
    }
    #[inline(always)]
    fn is_tunnel_source(generation: &Generation, addr: u32) -> bool {
        let same = generation.tunnel_v4;
        same != 0 && addr & !generation.tunnel_v4_spread == same
    }
    #[inline(always)]
    fn nat_sources(generation: &Generation) -> u32 {
        u32::from_be(generation.nat_v4_spread) + 1
    }
    #[inline(always)]
    fn nat_source(generation: &Generation, number: u32) -> u32 {
        generation.nat_v4 | number.to_be() & generation.nat_v4_spread
    }
    #[inline(always)]
    fn nat_source_number(generation: &Generation, addr: u32) -> Option<u32> {
        let (same, spread) = (generation.nat_v4, generation.nat_v4_spread);
        (same != 0 && addr & !spread == same).then(|| u32::from_be(addr & spread))
    }
    #[inline(always)]
    fn set_addresses(l3: usize, source: u32, destination: u32) {
        store(l3 + 12, source);
        store(l3 + 16, destination);
    }
    #[inline(always)]
    fn delta(old: u32, new: u32) -> u32 {
        csum::delta32(old, new)
    }
    #[inline(always)]
    fn answer(l3: usize, source: u32, destination: u32) {
        store(l3 + 12, destination);
        store(l3 + 16, source);
        let old: u16 = load(l3 + 8);
        store(l3 + 8, HOPS);
        let delta = csum::delta16(old, load(l3 + 8));
        store(l3 + 10, csum::update(load(l3 + 10), delta));
    }
    #[inline(always)]
    fn quoted_header(l3: usize) -> Option<(usize, u8)> {
        let version_length: u8 = load(l3);
        let header = usize::from(version_length & 0x0f) * 4;
        let offset = load::<u16>(l3 + 6) & 0x1fffu16.to_be();
        (version_length >> 4 == 4 && header >= Self::HEADER && offset == 0)
            .then(|| (header, load(l3 + 9)))
    }
    #[inline(always)]
    fn impossible_source(addr: u32) -> bool {
        let first = addr as u8;
        first == 0 || first == 127 || first >= 224
    }
}

impl Family for V6 {
    type Addr = [u64; 2];
    const ICMP: u8 = 58;
    const HEADER: usize = 40;
    const EXACT: bool = false;

    #[inline(always)]
    fn source(l3: usize) -> [u64; 2] {
        [load(l3 + 8), load(l3 + 16)]
    }
    #[inline(always)]
    fn destination(l3: usize) -> [u64; 2] {
        [load(l3 + 24), load(l3 + 32)]
    }
    #[inline(always)]
    fn set_source(l3: usize, addr: &AddrBytes) {
        let at = addr.as_ptr() as usize;
        store::<u64>(l3 + 8, load(at));
        store::<u64>(l3 + 16, load(at + 8));
    }
    #[inline(always)]
    fn set_destination(l3: usize, addr: &AddrBytes) {
        let at = addr.as_ptr() as usize;
        store::<u64>(l3 + 24, load(at));
        store::<u64>(l3 + 32, load(at + 8));
    }
    #[inline(always)]
    fn update_header_checksum(_l3: usize, _delta: u16) {}
    #[inline(always)]
    fn never_fragmented(_l3: usize) -> bool {
        true
    }
    #[inline(always)]
    fn identify(l3: usize, identification: u32) {
        store(l3 + Self::HEADER + 4, identification.to_be());
    }
    #[inline(always)]
    fn may_go_on(l3: usize) -> bool {
        load::<u8>(l3 + 7) > 1
    }
    #[inline(always)]
    fn age(l3: usize, _delta: u16) {
        store(l3 + 7, load::<u8>(l3 + 7) - 1);
    }
    #[inline(always)]
    fn words(addr: [u64; 2]) -> [u64; 2] {
        addr
    }
    #[inline(always)]
    fn from_words(words: [u64; 2]) -> [u64; 2] {
        words
    }
    #[inline(always)]
    fn from_bytes(bytes: &AddrBytes) -> [u64; 2] {
        let at = bytes.as_ptr() as usize;
        [load(at), load(at + 8)]
    }
    #[inline(always)]
    fn equals(addr: [u64; 2], bytes: &AddrBytes) -> bool {
        let at = bytes.as_ptr() as usize;
        addr[0] == load::<u64>(at) && addr[1] == load::<u64>(at + 8)
    }
    #[inline(always)]
    fn endpoint_key(kind: EndpointKind, addr: [u64; 2], port: u16, proto: u8, salt: u64) -> u64 {
        service::endpoint_key_v6(kind, addr, port, proto, salt)
    }
    #[inline(always)]
    fn slot_hash(
        source: [u64; 2],
        destination: [u64; 2],
        ports: u32,
        proto: u8,
        seed: [u64; 2],
    ) -> u32 {
        hash::slot_v6(source, destination, ports, proto, seed)
    }
    const PORT_UNREACHABLE: u32 = u32::from_ne_bytes([1, 4, 0, 0]);
    const TOO_BIG: u32 = u32::from_ne_bytes([2, 0, 0, 0]);
    #[inline(always)]
    fn next_mtu(mtu: u32) -> u32 {
        mtu.to_be()
    }
    #[inline(always)]
    fn mtu_of(word: u32) -> u32 {
        u32::from_be(word)
    }
    // 1280 bytes with its headers (RFC 4443, section 3.1).
    const QUOTE: usize = 1280 - 40 - 8;

    #[inline(always)]
    fn length(l3: usize) -> usize {
        Self::HEADER + usize::from(number16(l3 + 4))
    }
    #[inline(always)]
    fn write_header(
        l3: usize,
        (source, destination): ([u64; 2], [u64; 2]),
        (proto, length): (u8, u16),
        class: u8,
        label: u32,
    ) {
        let [high, low] = length.to_be_bytes();
        let first = 6 << 28 | u32::from(class) << 20 | label & 0xf_ffff;
        store(l3, first.to_be());
        store(l3 + 4, u32::from_ne_bytes([high, low, proto, HOPS]));
        store(l3 + 8, source[0]);
        store(l3 + 16, source[1]);
        store(l3 + 24, destination[0]);
        store(l3 + 32, destination[1]);
    }
    const ETHERTYPE: u16 = parse::IPV6;
    const IN_IP: u8 = tunnel::IPV6_IN_IP;
    #[inline(always)]
    fn traffic_class(l3: usize) -> u8 {
        (number16(l3) >> 4) as u8
    }
    #[inline(always)]
    fn tunnel_source(generation: &Generation, lot: u64) -> [u64; 2] {
        let [high, low] = generation.tunnel_v6;
        [high, low | lot & generation.tunnel_v6_spread]
    }
    #[inline(always)]
    fn is_tunnel_source(generation: &Generation, addr: [u64; 2]) -> bool {
        let [high, low] = generation.tunnel_v6;
        high != 0 && addr[0] == high && addr[1] & !generation.tunnel_v6_spread == low
    }
    #[inline(always)]
    fn nat_sources(generation: &Generation) -> u32 {
        u64::from_be(generation.nat_v6_spread) as u32 + 1
    }
    #[inline(always)]
    fn nat_source(generation: &Generation, number: u32) -> [u64; 2] {
        let [high, low] = generation.nat_v6;
        [high, low | u64::from(number).to_be() & generation.nat_v6_spread]
    }
    #[inline(always)]
    fn nat_source_number(generation: &Generation, addr: [u64; 2]) -> Option<u32> {
        let ([high, low], spread) = (generation.nat_v6, generation.nat_v6_spread);
        (high != 0 && addr[0] == high && addr[1] & !spread == low)
            .then(|| u64::from_be(addr[1] & spread) as u32)
    }
    #[inline(always)]
    fn set_addresses(l3: usize, source: [u64; 2], destination: [u64; 2]) {
        store(l3 + 8, source[0]);
        store(l3 + 16, source[1]);
        store(l3 + 24, destination[0]);
        store(l3 + 32, destination[1]);
    }
    #[inline(always)]
    fn delta(old: [u64; 2], new: [u64; 2]) -> u32 {
        csum::sum64(!old[0]) + csum::sum64(!old[1]) + csum::sum64(new[0]) + csum::sum64(new[1])
    }
    #[inline(always)]
    fn answer(l3: usize, source: [u64; 2], destination: [u64; 2]) {
        store(l3 + 8, destination[0]);
        store(l3 + 16, destination[1]);
        store(l3 + 24, source[0]);
        store(l3 + 32, source[1]);
        store(l3 + 7, HOPS);
    }
    #[inline(always)]
    fn quoted_header(l3: usize) -> Option<(usize, u8)> {
        (load::<u8>(l3) >> 4 == 6).then(|| (Self::HEADER, load(l3 + 6)))
    }
    #[inline(always)]
    fn impossible_source(addr: [u64; 2]) -> bool {
        let one = 1u64.to_be();
        let mapped = addr[1] as u32 == 0xffffu32.to_be();
        addr[0] as u8 == 0xff || (addr[0] == 0 && (addr[1] == 0 || addr[1] == one || mapped))
    }
}

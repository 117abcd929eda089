//! Forwarders that rewrite what a mode must rewrite and redirect: no service
//! table, no affinity, no checks. IPv4 and TCP without options only, which is
//! all that the comparison sends. What a balancer reaches of their rate is its
//! own cost; the rest is XDP on this device.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, DevMap},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_bench::{BACKENDS, Bare, Hop};
use lb_common::csum;

#[btf_map]
static BARE: Array<Bare, 1> = Array::new();
/// Interfaces of the backends and, last, the client.
#[btf_map]
static PORTS: DevMap<{ BACKENDS + 1 }> = DevMap::new();

/// Ethernet, IPv4, TCP.
const HEADERS: usize = 54;

/// Mode `nat`: destination address and port, and back.
#[xdp]
fn bare_nat(ctx: XdpContext) -> u32 {
    let Some((bare, frame)) = begin(&ctx) else { return xdp_action::XDP_PASS };
    let (source, destination) = (frame.load::<u32>(26), frame.load::<u32>(30));
    if destination == bare.vip && frame.load::<u16>(36) == bare.port {
        let (index, backend) = pick(bare, frame);
        frame.store::<u32>(30, backend.addr);
        frame.store::<u16>(36, bare.backend_port);
        let addresses = csum::delta32(bare.vip, backend.addr);
        frame.update(addresses, csum::delta16(bare.port, bare.backend_port));
        return send(frame, backend, index);
    }
    let from_backend = source == bare.backends[0].addr
        || source == bare.backends[1].addr
        || source == bare.backends[2].addr;
    if from_backend && frame.load::<u16>(34) == bare.backend_port {
        frame.store::<u32>(26, bare.vip);
        frame.store::<u16>(34, bare.port);
        let addresses = csum::delta32(source, bare.vip);
        frame.update(addresses, csum::delta16(bare.backend_port, bare.port));
        return send(frame, &bare.client, BACKENDS as u32);
    }
    xdp_action::XDP_PASS
}

/// Mode `dsr`: the Ethernet header only; replies pass by.
#[xdp]
fn bare_dsr(ctx: XdpContext) -> u32 {
    let Some((bare, frame)) = begin(&ctx) else { return xdp_action::XDP_PASS };
    if frame.load::<u32>(30) != bare.vip || frame.load::<u16>(36) != bare.port {
        return xdp_action::XDP_PASS;
    }
    let (index, backend) = pick(bare, frame);
    send(frame, backend, index)
}

/// A TCP packet over IPv4 without options.
#[inline(always)]
fn begin(ctx: &XdpContext) -> Option<(&'static Bare, Frame)> {
    let data = ctx.data();
    if data + HEADERS > ctx.data_end() {
        return None;
    }
    let frame = Frame(data);
    let tcp = frame.load::<u16>(12) == 0x0800_u16.to_be()
        && frame.load::<u8>(14) == 0x45
        && frame.load::<u8>(23) == 6;
    if !tcp {
        return None;
    }
    Some((BARE.get(0)?, frame))
}

/// The backend of this source port, and its index.
#[inline(always)]
fn pick(bare: &Bare, frame: Frame) -> (u32, &Hop) {
    let port = u32::from(frame.load::<u16>(34));
    let hash = port.wrapping_mul(0x9e37_79b9) >> 16;
    match (hash * BACKENDS as u32) >> 16 {
        0 => (0, &bare.backends[0]),
        1 => (1, &bare.backends[1]),
        _ => (2, &bare.backends[2]),
    }
}

#[inline(always)]
fn send(frame: Frame, hop: &Hop, port: u32) -> u32 {
    frame.store::<[u8; 12]>(0, hop.macs);
    PORTS.redirect(port, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// The first [`HEADERS`] bytes of the packet.
#[derive(Clone, Copy)]
struct Frame(usize);

impl Frame {
    #[inline(always)]
    fn load<T: Copy>(self, at: usize) -> T {
        // SAFETY: every caller's offset is a constant within `HEADERS`, which
        // `begin` checked and the verifier checks again. Words of a frame are
        // aligned to 2 bytes, which is enough for the machine.
        unsafe { *((self.0 + at) as *const T) }
    }

    #[inline(always)]
    fn store<T>(self, at: usize, value: T) {
        // SAFETY: as in `load`.
        unsafe { *((self.0 + at) as *mut T) = value };
    }

    /// Updates both checksums for changed addresses and ports.
    #[inline(always)]
    fn update(self, addresses: u32, ports: u32) {
        self.store(24, csum::update(self.load(24), addresses));
        self.store(50, csum::update(self.load(50), addresses + ports));
    }
}

//! QUIC: packets whose connection ID says which server they belong to go there,
//! wherever they come from (QUIC-LB, see [`lb_common::quic`]). All others take the
//! ordinary way, by addresses and ports.
//!
//! A program of its own, called where a service has such IDs, so that the others pay
//! for a test of a field, and a connection ID is decoded with a stack of its own.

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};
use lb_common::{
    flow::{FlowState, Timeouts},
    quic::{self, Block},
    stats::Counter,
};

use crate::{
    affinity, count,
    env::{self, Env},
    family::Family,
    forward,
    maps::{CONFIG, QUIC_BLOCK, QUIC_CONFIGS, QUIC_PATH, QUIC_SERVERS},
    packet::{Frame, load, number16},
    parse::{self, Packet, UDP},
    select::{self, Chosen},
    service::{self, Found},
    verdict::Verdict,
};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Position of the connection ID behind a short header's first byte (RFC 8999,
/// section 5.2).
const SHORT: usize = 1;
/// The same of a long header, behind its version and the ID's length (section 5.1).
const LONG: usize = 6;

/// Where a UDP payload begins in its frame at most, and a mask of it: link, IPv6 with
/// all extension headers that are walked, UDP.
const MOST_HEADERS: usize = 4095;

/// Goes on with a packet of a service that has servers with IDs; returns if it is of
/// another, or if that is not possible.
#[inline(always)]
pub(crate) fn go_on<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) {
    if packet.proto == UDP && found.service.quic != 0 && !env.explains {
        // SAFETY: nothing here needs dropping.
        unsafe { QUIC_PATH.tail_call(&XdpContext::new(env.ctx), 0) };
    }
}

/// Entry: one packet, which has passed the firewall and whose service may be served.
#[xdp]
fn lb_quic(ctx: XdpContext) -> u32 {
    let ctx = ctx.ctx;
    // One call after the other, so that neither has the other's stack to bear.
    let verdict = match parse::link(Frame::new(&XdpContext::new(ctx))) {
        Some((parse::IPV4, _)) => lb_quic_v4(ctx, lb_quic_named_v4(ctx)),
        Some((parse::IPV6, _)) => lb_quic_v6(ctx, lb_quic_named_v6(ctx)),
        _ => Verdict::drop(Counter::Internal).to_raw(),
    };
    crate::act(ctx, Verdict::from_raw(verdict))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_named_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
        && let Ok(packet) = parse::udp(packet)
    {
        return named(&env, &packet);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_named_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
        && let Ok(packet) = parse::udp(packet)
    {
        return named(&env, &packet);
    }
    0
}

/// Id of the backend that a packet's connection ID names, 0 for none, and behind it, in
/// the bits from 16 on, that of the service.
#[inline(always)]
fn named<F: Family>(env: &Env, packet: &Packet<F>) -> u64 {
    let Some(found) = service::of(env, packet) else { return 0 };
    // What is behind the datagram in its frame is not the client's.
    let length = usize::from(number16(packet.l4 + 4)).saturating_sub(UDP_HEADER);
    let at = packet.l4 + UDP_HEADER - packet.frame.start;
    let backend = lb_quic_server(env.ctx, at as u64, length as u64, found.service.quic.into());
    backend | u64::from(found.id) << 16
}

/// Id of the backend that a connection ID names, 0 for none. `at`: where the UDP payload
/// begins in the frame; `length`: its bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_server(ctx: *mut xdp_md, at: u64, length: u64, set: u64) -> u64 {
    let frame = Frame::new(&XdpContext::new(ctx));
    let payload = frame.start + (at as usize & MOST_HEADERS);
    if !frame.holds(payload, LONG) {
        return 0;
    }
    // A short header does not say how long the ID is (RFC 8999, section 5).
    let (before, most) = if load::<u8>(payload) & 0x80 != 0 {
        (LONG, load::<u8>(payload + LONG - 1).into())
    } else {
        (SHORT, u64::from(quic::LONGEST))
    };
    let cid = payload + before;
    // No packet is shorter than this behind the ID's first octet: what encrypts it adds
    // 16 bytes (RFC 9000, section 10.3).
    let least = before + usize::from(quic::LONGEST);
    if length < least as u64 || !frame.holds(cid, quic::LONGEST.into()) {
        return 0;
    }
    let set = set as u16;
    let index = quic::index(set, load(cid));
    let Some(config) = QUIC_CONFIGS.get(index) else { return 0 };
    if config.server_id_length == 0 || most < config.shortest() {
        return 0;
    }
    let body = quic::body(load(cid + 1), load(cid + 9), load(cid + 16));
    let id = config.server_id(body, |block| cipher(index, block));
    let key = quic::key(set, config.server_id_length, id);
    // SAFETY: read at once; an entry is never changed.
    unsafe { QUIC_SERVERS.get(key) }.map_or(0, |id| u64::from(*id))
}

/// A block as the cipher of a configuration makes it.
#[inline(always)]
fn cipher(index: u32, [high, low]: Block) -> Block {
    lb_quic_cipher(index.into(), high, low);
    // SAFETY: this CPU's element, which the call has just written.
    QUIC_BLOCK.get_ptr(0).map_or([0; 2], |block| unsafe { *block })
}

/// Leaves the block in `QUIC_BLOCK`. A function of its own, which the verifier judges
/// once, whatever the ways are that lead here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_cipher(index: u64, high: u64, low: u64) -> u64 {
    let (Some(config), Some(block)) = (QUIC_CONFIGS.get(index as u32), QUIC_BLOCK.get_ptr_mut(0))
    else {
        return 0;
    };
    // SAFETY: this CPU's element.
    unsafe { *block = config.cipher([high, low]) };
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_v4(ctx: *mut xdp_md, named: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
        && let Ok(packet) = parse::udp(packet)
    {
        return send(&env, &packet, named).to_raw();
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_v6(ctx: *mut xdp_md, named: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
        && let Ok(packet) = parse::udp(packet)
    {
        return send(&env, &packet, named).to_raw();
    }
    Verdict::drop(Counter::Internal).to_raw()
}

/// Sends a packet to the backend that is named, or where its flow goes.
#[inline(always)]
fn send<F: Family>(env: &Env, packet: &Packet<F>, named: u64) -> Verdict {
    let id = (named >> 16) as u16;
    let Some(service) = service::entry(env, id) else {
        return Verdict::drop(Counter::Internal);
    };
    let found = Found { id, service };
    let chosen = match by_name(env, packet, &found, named as u16) {
        Some(chosen) => Ok(chosen),
        None => {
            count::event(Counter::QuicUnrouted as u32);
            select::select(env, packet, &found)
        }
    };
    match chosen {
        Ok(chosen) => forward::to_backend(env, packet, &found, &chosen),
        Err(verdict) => verdict,
    }
}

/// The backend of this id, if it may serve the packet.
#[inline(always)]
fn by_name<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    backend: u16,
) -> Option<Chosen> {
    let chosen = select::serving(backend, found.id)?;
    if F::impossible_source(packet.source) || packet.source == packet.destination {
        return None;
    }
    count::event(Counter::QuicRouted as u32);
    if !found.untracked() {
        let mut timeouts = select::timeouts(found.service);
        if found.by_client() {
            timeouts.embryonic = timeouts.established;
        }
        let key = select::flow_key(env, packet, found);
        lb_quic_keep(key, chosen.id.into(), found.id.into(), timeouts.to_raw());
    }
    Some(chosen)
}

/// Keeps a flow's entry as long as packets come, or makes one: for errors about what the
/// backend sends, for packets whose connection ID says nothing, and for who counts flows.
/// One that names another backend stays while that serves: several connections may come
/// from one port. The peer of a pair is told in passes alone: it has the IDs as well.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_quic_keep(key: u64, backend: u64, service: u64, timeouts: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    let (backend, timeouts) = (backend as u16, Timeouts::from_raw(timeouts));
    let (at, now) = (affinity::position(config, key), env::now(config));
    let known = affinity::find(&at, now);
    if let Some(entry) = known.live() {
        if entry.flow.backend() == backend {
            entry.touch(now, FlowState::Established as u8, timeouts);
            return 0;
        }
        if select::serving(entry.flow.backend(), service as u16).is_some() {
            return 0;
        }
    }
    if affinity::record(&at, known.slot(), backend, false, now, timeouts) {
        count::entered(backend);
    } else {
        count::event(Counter::Unrecorded as u32);
    }
    0
}

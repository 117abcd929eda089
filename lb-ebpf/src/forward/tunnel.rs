//! Modes `ipip` and `gue`: the packet as it is, one hop older, in another one to the
//! backend, which unwraps it and answers the client itself (RFC 2003, RFC 2473; GUE:
//! draft-ietf-intarea-gue-09, section 4).
//!
//! The outer source differs from flow to flow, so that whatever spreads load by
//! headers spreads flows. DSCP and ECN are those of the packet (RFC 2983, section 3;
//! RFC 6040, section 4.1). The outer packet is not fragmented: what is too long was
//! answered before.

mod checksum;

use aya_ebpf::{
    EbpfContext as _, bindings::xdp_md, helpers::generated as helpers, programs::XdpContext,
};
use lb_common::{
    addr::AddrBytes,
    backend::{Backend, flags},
    stats::Counter,
    tunnel::{self, GUE_PORT},
};
use network_types::udp::UdpHdr;

use crate::{
    env::Env,
    family::{Family, V4, V6},
    forward,
    maps::BACKENDS,
    notice,
    packet::{Frame, load, store},
    parse::{self, Packet, UDP},
    select::Chosen,
    verdict::Verdict,
};

/// Wraps a packet. The frame lies elsewhere then.
#[inline(always)]
pub(crate) fn wrap<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    backend: &Backend,
) -> Result<Frame, Counter> {
    // Up to its EtherType, which is at most two tags away.
    let link = (packet.l3 - packet.frame.start - size_of::<u16>()) & 31;
    let lot = tunnel::lot(F::words(packet.source), packet.ports);
    if is_v4(&backend.addr) {
        wrap_in::<V4, F>(env, link, lot, backend)
    } else {
        wrap_in::<V6, F>(env, link, lot, backend)
    }
}

/// Whether an address is an IPv4 one (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn is_v4(bytes: &AddrBytes) -> bool {
    let at = bytes.as_ptr() as usize;
    load::<u64>(at) == 0 && load::<u32>(at + 8) == 0xffff_u32.to_be()
}

/// Wraps a packet of one family in one of another, or the same. `link`: bytes before
/// the EtherType; `lot`: see [`tunnel::lot`]. What else is to be known of the packet is
/// read again after the call, through which the stack has no room to keep it.
#[inline(always)]
fn wrap_in<Outer: Family, F: Family>(
    env: &Env,
    link: usize,
    lot: u64,
    backend: &Backend,
) -> Result<Frame, Counter> {
    let gue = backend.flags & flags::GUE != 0;
    let grown = Outer::HEADER + if gue { UdpHdr::LEN } else { 0 };
    // SAFETY: the context is valid; since Linux 4.10.
    if unsafe { helpers::bpf_xdp_adjust_head(env.ctx, -(grown as i32)) } != 0 {
        return Err(Counter::NoHeadroom);
    }
    let frame = Frame::new(&XdpContext::new(env.ctx));
    let at = frame.start + link;
    let l3 = at + size_of::<u16>();
    let inner = l3 + grown;
    if !frame.holds(frame.start, parse::LONGEST_LINK + Outer::HEADER + UdpHdr::LEN)
        || !frame.holds(at, size_of::<u16>() + Outer::HEADER + UdpHdr::LEN)
        || !frame.holds(inner, F::HEADER)
    {
        return Err(Counter::Internal);
    }
    // Tags, if any; what is too much is written over.
    store::<u64>(frame.start + 12, load(frame.start + 12 + grown));
    store(at, Outer::ETHERTYPE);
    let ends = (Outer::tunnel_source(env.generation, lot), Outer::from_bytes(&backend.addr));
    let (length, class, label) =
        (F::length(inner) as u16, F::traffic_class(inner), (lot >> 40) as u32);
    if gue {
        let length = length + UdpHdr::LEN as u16;
        Outer::write_header(l3, ends, (UDP, length), class, label);
        let l4 = l3 + Outer::HEADER;
        // Dynamic ports (RFC 6335, section 6) spread flows, too.
        let ports = [(0xc000 | (lot >> 40) as u16 & 0x3fff).to_be(), GUE_PORT.to_be()];
        store(l4, ports[0]);
        store(l4 + 2, ports[1]);
        store(l4 + 4, length.to_be());
        // Over IPv4 none is needed: the packet has its own (RFC 768).
        let sum = if Outer::EXACT {
            0
        } else {
            let ports = u32::from(ports[0]) + u32::from(ports[1]);
            checksum::around::<Outer, F>(frame, inner, length, ports, ends)
        };
        store(l4 + 6, sum);
    } else {
        Outer::write_header(l3, ends, (F::IN_IP, length), class, label);
    }
    Ok(frame)
}

/// An error about a packet that wraps another; it was sent to one of the sources of
/// those. That the way carries less than the packet had is for the agent to know (RFC
/// 2003, section 5.1). Errors end here: who sent the packet inside knows nothing of the
/// one around it.
#[inline(always)]
pub(crate) fn error<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    let quoted = packet.l4 + 8;
    if packet.frame.holds(quoted, F::HEADER)
        && load::<u16>(packet.l4) == F::TOO_BIG as u16
        && F::source(quoted) == packet.destination
        && !env.explains
    {
        let backend = F::words(F::destination(quoted));
        notice::tell(backend, F::EXACT, 0, F::mtu_of(load(packet.l4 + 4)));
    }
    Verdict::drop(Counter::TunnelError)
}

/// Wraps the frame as it is, and sends it to a backend: for what is off the path of
/// established flows.
#[inline(always)]
pub(crate) fn send(env: &Env, backend: u16) -> Verdict {
    Verdict::from_raw(lb_tunnel(env.ctx, backend.into(), env.explains.into()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_tunnel(ctx: *mut xdp_md, backend: u64, explains: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let (Some(env), Some(entry)) = (Env::new(&ctx, explains != 0), BACKENDS.get(backend as u32))
    else {
        return Verdict::drop(Counter::Internal).to_raw();
    };
    let frame = Frame::new(&ctx);
    let wrapped = match parse::link(frame) {
        Some((parse::IPV4, l3)) => {
            parse::ipv4(frame, l3).and_then(|packet| wrap(&env, &packet, entry))
        }
        Some((parse::IPV6, l3)) => parse::ipv6(ctx.as_ptr().cast(), frame, l3)
            .and_then(|packet| wrap(&env, &packet, entry)),
        _ => Err(Counter::Internal),
    };
    let verdict = match wrapped {
        Ok(frame) => forward::leave(&env, frame, &Chosen { id: backend as u16, backend: entry }),
        Err(reason) => Verdict::drop(reason),
    };
    verdict.to_raw()
}

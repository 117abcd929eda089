//! Fragments: the first one of a datagram is balanced by its ports, and where it goes is
//! noted; the others follow it. One that comes before its first, or overlaps with it, is
//! dropped: where it belongs is not known, or is a matter of opinion (RFC 1858, RFC 5722).
//!
//! A program of its own, called from the end of the packet path, so that it neither
//! takes stack from that nor makes it longer.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    ptr::read_volatile,
};

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};
use lb_common::{
    backend::flags,
    config::features,
    csum,
    fragment::{Course, Datagram, SECONDS, direction},
    service::Service,
    stats::Counter,
};

use crate::{
    control, count,
    env::Env,
    extension,
    family::Family,
    firewall,
    forward::{self, fullnat, nat, tunnel},
    guard, lease,
    maps::{BACKENDS, COURSES, FRAGMENT_PATH, IDENTIFICATIONS},
    nexthop::{self, Way},
    packet::{Frame, load, number16},
    parse::{self, FIRST_FRAGMENT, Packet, TCP, UDP},
    select::{self, Chosen},
    service,
    verdict::{PASS, Verdict},
};

/// Goes on with a fragment; returns only if that is not possible.
#[inline(always)]
pub(crate) fn go_on<F: Family>(env: &Env, packet: &Packet<F>) {
    let fragment = packet.obstacle == FIRST_FRAGMENT || packet.obstacle == Counter::Fragment as u32;
    if fragment && !env.explains {
        // SAFETY: nothing here needs dropping.
        unsafe { FRAGMENT_PATH.tail_call(&XdpContext::new(env.ctx), 0) };
    }
}

/// Entry: one fragment.
#[xdp]
fn lb_fragment(ctx: XdpContext) -> u32 {
    let answer = match parse::link(Frame::new(&ctx)) {
        Some((parse::IPV4, _)) => lb_fragment_v4(ctx.ctx),
        Some((parse::IPV6, _)) => lb_fragment_v6(ctx.ctx),
        _ => UNKNOWN,
    };
    let verdict = match answer {
        UNKNOWN => control::decide(ctx.ctx),
        verdict => Verdict::from_raw(verdict),
    };
    crate::act(ctx.ctx, verdict)
}

/// An answer of `lb_fragment_v4` and `lb_fragment_v6` that is no verdict: it is of no
/// flow of ours that is known.
const UNKNOWN: u64 = u64::MAX;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fragment_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
        && let Some(verdict) = follow(&env, packet)
    {
        return verdict.to_raw();
    }
    UNKNOWN
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fragment_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
        && let Some(verdict) = follow(&env, packet)
    {
        return verdict.to_raw();
    }
    UNKNOWN
}

/// What a fragment is a piece of.
pub(crate) struct Piece {
    datagram: Datagram,
    /// Where it begins, in units of 8 bytes.
    pub offset: u16,
}

/// `None`: the fragment header is not the first one (RFC 8200, section 4.1, has few that
/// may be in front of it).
#[inline(always)]
pub(crate) fn piece<F: Family>(packet: &Packet<F>) -> Option<Piece> {
    let l3 = packet.l3;
    let (offset, identification, proto): (u16, u32, u8) = if F::EXACT {
        (number16(l3 + 6) & 0x1fff, load::<u16>(l3 + 4).into(), load(l3 + 9))
    } else {
        let header = l3 + F::HEADER;
        if load::<u8>(l3 + 6) != extension::FRAGMENT || !packet.frame.holds(header, 8) {
            return None;
        }
        (number16(header + 2) >> 3, load(header + 4), load(header))
    };
    let (source, destination) = (F::words(packet.source), F::words(packet.destination));
    let datagram = Datagram { source, destination, identification, proto: proto.into() };
    Some(Piece { datagram, offset })
}

/// Sends a fragment where it belongs; `None`: it is of no flow of ours that is known.
#[inline(always)]
fn follow<F: Family>(env: &Env, packet: Packet<F>) -> Option<Verdict> {
    let piece = piece(&packet)?;
    if firewall::denied(env, &packet) {
        return Some(Verdict::drop(Counter::SourceDenied));
    }
    if env.uses(features::FULLNAT) && fullnat::is_source::<F>(env, packet.destination) {
        return Some(Verdict::full_nat(0));
    }
    if piece.offset == 0 {
        return first(env, packet, &piece.datagram);
    }
    let course = course(env, &piece)?;
    if piece.offset < course.covered {
        return Some(Verdict::drop(Counter::FragmentOverlap));
    }
    if course.direction == direction::BOUND {
        return Some(Verdict::full_nat(course.backend));
    }
    // A tunnel spreads load by them.
    let packet = Packet { ports: course.ports, ..packet };
    if course.direction == direction::REPLY {
        to_client(env, &packet, &course)
    } else {
        to_backend(env, &packet, &course)
    }
}

/// Where the first fragment of a datagram went, if that is not too long ago.
#[inline(always)]
pub(crate) fn course(env: &Env, piece: &Piece) -> Option<Course> {
    // SAFETY: read at once; if it changes meanwhile, another datagram has the name.
    let course = *unsafe { COURSES.get(piece.datagram) }?;
    (env.now().wrapping_sub(course.second) < SECONDS).then_some(course)
}

/// The first fragment goes the way of whole packets.
#[inline(always)]
fn first<F: Family>(env: &Env, packet: Packet<F>, datagram: &Datagram) -> Option<Verdict> {
    let ported = match packet.proto {
        TCP => parse::tcp(packet),
        UDP => parse::udp(packet),
        _ => return None,
    };
    let packet = ported.ok()?;
    let mut found = service::exact(env, &packet);
    if found.is_none()
        && env.uses(features::NAT)
        && let Some((owner, service)) = nat::replying(env, &packet)
    {
        if is_translated(&packet, service) {
            return Some(Verdict::drop(Counter::Fragment));
        }
        note(env, datagram, &packet, &owner, direction::REPLY);
        return nat::send_reply(env, &packet, &owner, service);
    }
    if found.is_none() {
        let address = service::address::<F>(env, packet.destination)?;
        found = service::ranged(env, address, packet.proto, packet.destination_port());
    }
    let found = found?;
    if is_translated(&packet, found.service) {
        return Some(Verdict::drop(Counter::Fragment));
    }
    if !lease::permits(found.service) {
        return Some(Verdict::drop(Counter::NotActive));
    }
    if let Err(verdict) = guard::admit(env, &packet, &found) {
        return Some(verdict);
    }
    Some(match select::select(env, &packet, &found) {
        Ok(chosen) if chosen.backend.flags & flags::FULLNAT != 0 => Verdict::full_nat(chosen.id),
        Ok(chosen) => {
            note(env, datagram, &packet, &chosen, direction::REQUEST);
            forward::to_backend(env, &packet, &found, &chosen)
        }
        Err(verdict) => verdict,
    })
}

/// Whether the packet may be of a connection whose numbers are translated: nobody cuts its
/// segments, since hosts discover how long they may be.
#[inline(always)]
fn is_translated<F: Family>(packet: &Packet<F>, service: &Service) -> bool {
    packet.proto == TCP && service.syn_rate != 0
}

/// Notes where a first fragment goes. If there is no room, the others are dropped.
#[inline(always)]
fn note<F: Family>(
    env: &Env,
    datagram: &Datagram,
    packet: &Packet<F>,
    chosen: &Chosen,
    direction: u32,
) {
    let course = Course {
        ports: packet.ports,
        backend: chosen.id,
        service: chosen.backend.service,
        second: env.now(),
        covered: (packet.length / 8) as u16,
        direction,
        binding: 0,
        identification: 0,
    };
    let _ = COURSES.insert(datagram, course, 0);
}

/// The same of one in mode `fullnat`, whose flow has this entry of `BINDINGS`. `Err`: its
/// header for fragments is not where it is looked for.
#[inline(always)]
pub(crate) fn note_bound<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    backend: u16,
    (binding, identification): (u32, u32),
) -> Result<(), Verdict> {
    let piece = piece(packet).ok_or(Verdict::drop(Counter::Fragment))?;
    let course = Course {
        ports: packet.ports,
        backend,
        service: 0,
        second: env.now(),
        covered: (packet.length / 8) as u16,
        direction: direction::BOUND,
        binding,
        identification,
    };
    let _ = COURSES.insert(piece.datagram, course, 0);
    Ok(())
}

/// An identification for a datagram that comes from an address which many clients share:
/// theirs may be alike (RFC 6864, section 5.3).
#[inline(always)]
pub(crate) fn next_identification() -> u32 {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    let Some(count) = IDENTIFICATIONS.get_ptr_mut(0) else { return 0 };
    // SAFETY: an aligned word of a map element; it is read whole.
    let mut old = unsafe { read_volatile(count) };
    let mut attempt = 0;
    while attempt < 4 {
        // SAFETY: as above.
        let (there, stored) =
            unsafe { atomic_cxchg::<u64, ORDER, ORDER>(count, old, old.wrapping_add(1)) };
        if stored {
            break;
        }
        (old, attempt) = (there, attempt + 1);
    }
    old as u32
}

/// A later fragment from a client.
#[inline(always)]
fn to_backend<F: Family>(env: &Env, packet: &Packet<F>, course: &Course) -> Option<Verdict> {
    let chosen = select::serving(course.backend, course.service)?;
    if !lease::permits(service::entry(env, course.service)?) {
        return Some(Verdict::drop(Counter::NotActive));
    }
    let (backend, l3) = (chosen.backend, packet.l3);
    let nat = backend.flags & flags::NAT != 0;
    let too_long = packet.ip_length() > backend.mtu && backend.mtu != 0;
    if too_long && (!nat || F::never_fragmented(l3)) {
        // The sender was told of its first fragment.
        return Some(Verdict::drop(Counter::Oversized));
    }
    if !F::may_go_on(l3) {
        return Some(Verdict::drop(Counter::TtlExceeded));
    }
    if nat {
        F::set_destination(l3, &backend.addr);
        F::age(l3, backend.aged_delta);
    } else {
        F::age(l3, csum::AGED);
    }
    let ready = if backend.flags & flags::TUNNEL != 0 {
        tunnel::wrap(env, packet, backend)
    } else {
        Ok(packet.frame)
    };
    Some(match ready {
        Ok(frame) if !too_long => forward::leave(env, frame, &chosen),
        // The kernel cuts it once more.
        Ok(_) => Verdict::pass(Counter::HandedOver),
        Err(reason) => Verdict::drop(reason),
    })
}

/// A later fragment from a backend in mode `nat`.
#[inline(always)]
fn to_client<F: Family>(env: &Env, packet: &Packet<F>, course: &Course) -> Option<Verdict> {
    let backend = BACKENDS.get(u32::from(course.backend))?;
    let service = service::entry(env, course.service)?;
    if backend.flags & flags::NAT == 0 || backend.service != course.service {
        return None;
    }
    let way = nexthop::towards_client(env, packet, &service.vip);
    match way {
        Way::Local => return None,
        Way::None => return Some(Verdict::drop(Counter::NoNextHop)),
        Way::TooBig if F::never_fragmented(packet.l3) => return Some(PASS),
        _ => {}
    }
    if !F::may_go_on(packet.l3) {
        return Some(Verdict::drop(Counter::TtlExceeded));
    }
    F::set_source(packet.l3, &service.vip);
    F::age(packet.l3, csum::aged(!backend.ip_delta));
    count::replied(env, course.backend, packet.frame.length());
    Some(nat::leave(env, packet.frame, way))
}

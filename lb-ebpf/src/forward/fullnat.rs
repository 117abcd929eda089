//! Mode `fullnat`: both addresses and ports rewritten. Backends see a client as one of
//! `node.nat_sources` and a port that is his flow's alone, and answer there; so they need
//! no route through the balancer. Which flow has which port is in [`bind`].
//!
//! A program of its own, called from the end of the packet path, as `lb_fragment` is:
//! it has the whole stack, and the path of other modes is no longer for it. It is told
//! the backend that was selected, in `TASK`, and parses the frame anew.

mod bind;
mod error;
mod later;

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};
use lb_common::{
    backend::{Backend, flags},
    binding,
    config::features,
    csum, hash,
    service::Service,
    stats::Counter,
    tcp,
    trace::steps,
};

use crate::{
    control, count,
    env::Env,
    family::{Family, V4, V6},
    forward::{self, nat},
    fragment,
    maps::{BACKENDS, FULLNAT_PATH, TASK},
    nexthop::{self, Way},
    packet::{Frame, store},
    parse::{self, FIRST_FRAGMENT, Packet, TCP, UDP},
    refuse,
    select::{self, Chosen},
    service,
    synproxy::{self, Answer},
    verdict::Verdict,
};

/// Sends a client's packet on, with a source address and port of ours.
#[inline(always)]
pub(crate) fn to_backend<F: Family>(env: &Env, packet: &Packet<F>, chosen: &Chosen) -> Verdict {
    if !env.explains {
        return Verdict::full_nat(chosen.id);
    }
    env.note(|record| record.steps |= steps::BINDS);
    if let Err(verdict) = may_go::<F>(env, packet, chosen.backend) {
        return verdict;
    }
    forward::leave(env, packet.frame, chosen)
}

/// Whether an address is one of `node.nat_sources`.
#[inline(always)]
pub(crate) fn is_source<F: Family>(env: &Env, addr: F::Addr) -> bool {
    F::nat_source_number(env.generation, addr).is_some()
}

/// What becomes of a packet that is not on its way to a backend. Who only explains is told
/// nothing of it.
#[inline(always)]
pub(crate) fn translated(env: &Env) -> Verdict {
    if env.explains { control::decide(env.ctx) } else { Verdict::full_nat(0) }
}

/// Goes on with a packet in [`lb_fullnat`]; returns only if that is not possible.
/// `backend`: see [`binding::Task::backend`].
#[inline(always)]
pub(crate) fn go_on(ctx: *mut xdp_md, backend: u16) {
    if let Some(task) = TASK.get_ptr_mut(0) {
        // SAFETY: this CPU's element; nothing here needs dropping.
        unsafe {
            (*task).backend = backend;
            FULLNAT_PATH.tail_call(&XdpContext::new(ctx), 0);
        }
    }
}

/// Entry: one packet of a flow in this mode, or to one of its sources.
#[xdp]
fn lb_fullnat(ctx: XdpContext) -> u32 {
    let ctx = ctx.ctx;
    // Of what is on its way to a backend all is known already.
    let proxied = Env::new(&XdpContext::new(ctx), false)
        .is_some_and(|env| env.uses(features::SYN_COOKIES))
        && TASK.get(0).is_some_and(|task| task.backend == 0);
    let answer = match parse::link(Frame::new(&XdpContext::new(ctx))) {
        Some((parse::IPV4, _)) if proxied => {
            Answer(lb_fullnat_proxied_v4(ctx)).or_else(|_| lb_fullnat_v4(ctx)).to_raw()
        }
        Some((parse::IPV6, _)) if proxied => {
            Answer(lb_fullnat_proxied_v6(ctx)).or_else(|_| lb_fullnat_v6(ctx)).to_raw()
        }
        Some((parse::IPV4, _)) => lb_fullnat_v4(ctx),
        Some((parse::IPV6, _)) => lb_fullnat_v6(ctx),
        _ => Verdict::drop(Counter::Internal).to_raw(),
    };
    let verdict = match answer {
        HOST => control::decide(ctx),
        verdict => Verdict::from_raw(verdict),
    };
    crate::act(ctx, verdict)
}

/// An answer of `lb_fullnat_v4` and `lb_fullnat_v6` that is no verdict: the packet is for
/// the host, which holds the source.
const HOST: u64 = u64::MAX;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fullnat_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return either(translate::<V4>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fullnat_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return either(translate::<V6>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

/// Translates what backends send to clients whose SYN was answered with a cookie, if the
/// packet is one: 0, or a verdict.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fullnat_proxied_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
        && let Some(answer) = proxied::<V4>(&env, packet)
    {
        return answer.0;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_fullnat_proxied_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
        && let Some(answer) = proxied::<V6>(&env, packet)
    {
        return answer.0;
    }
    0
}

/// `None`: it is not of a backend to a client who has a port.
#[inline(always)]
fn proxied<F: Family>(env: &Env, packet: Packet<F>) -> Option<Answer> {
    let number = F::nat_source_number(env.generation, packet.destination)?;
    if packet.proto != TCP || packet.obstacle != parse::WHOLE {
        return None;
    }
    let packet = parse::tcp(packet).ok()?;
    let peer = (packet.source, packet.source_port());
    let owner = owner::<F>(env, TCP, (number, packet.destination_port()), peer)?;
    if owner.service.syn_rate == 0 {
        return None;
    }
    let flow = &owner.bound.flow;
    let to_client = Packet { destination: F::from_words(flow.client), ..packet };
    if synproxy::backend::stays(env, &to_client, owner.service) {
        return None;
    }
    Some(synproxy::backend::judge(env, &packet, (flow.client, flow.ports), owner.service))
}

#[inline(always)]
fn either(verdict: Result<Verdict, Verdict>) -> u64 {
    match verdict {
        Ok(verdict) | Err(verdict) => verdict.to_raw(),
    }
}

#[inline(always)]
fn translate<F: Family>(env: &Env, packet: Packet<F>) -> Result<Verdict, Verdict> {
    let number = F::nat_source_number(env.generation, packet.destination);
    if packet.obstacle > FIRST_FRAGMENT {
        return later::follow(env, &packet, number);
    }
    if packet.obstacle == parse::WHOLE && packet.proto == F::ICMP && parse::icmp(&packet) {
        return match number {
            Some(number) => error::to_client(env, &packet, number),
            None => error::to_backend(env, &packet),
        };
    }
    let ported = match packet.proto {
        TCP => parse::tcp(packet),
        UDP => parse::udp(packet),
        _ if number.is_some() => return Err(unbound(env, &packet)),
        _ => Err(Counter::Internal),
    };
    let packet = ported.map_err(Verdict::drop)?;
    match number {
        Some(number) => reply(env, &packet, number),
        None => request(env, &packet),
    }
}

/// A client's packet.
#[inline(always)]
fn request<F: Family>(env: &Env, packet: &Packet<F>) -> Result<Verdict, Verdict> {
    let internal = Verdict::drop(Counter::Internal);
    let task = TASK.get_ptr_mut(0).ok_or(internal)?;
    // SAFETY: this CPU's element; nothing else on this CPU runs meanwhile.
    let task = unsafe { &mut *task };
    let id = task.backend;
    let backend = BACKENDS.get(u32::from(id)).ok_or(internal)?;
    let service = service::entry(env, backend.service).ok_or(internal)?;
    let too_long = may_go::<F>(env, packet, backend)?;
    let flow = binding::Flow {
        client: F::words(packet.source),
        ports: packet.ports,
        service: backend.service.into(),
    };
    *task = binding::Task {
        flow,
        timeouts: select::timeouts(service).to_raw(),
        sources: F::nat_sources(env.generation),
        backend: id,
        now: env.now(),
        proto: packet.proto,
        tcp_flags: packet.tcp_flags,
        v4: F::EXACT.into(),
        _pad: 0,
    };
    let index = match bind::bind() {
        bind::EXHAUSTED => return Err(Verdict::drop(Counter::NatPortsExhausted)),
        // No backend can know a connection that comes from a new port.
        bind::UNBOUND => {
            if service.syn_rate != 0 {
                synproxy::client::undo(env, packet, service);
            }
            return Err(refuse::answer(env, Counter::Rejected));
        }
        index => index as u32,
    };
    let source = F::nat_source(env.generation, binding::source(index));
    let port = port_of(backend, packet.destination_port());
    let ports = hash::ports(binding::port(index).to_be(), port);
    if packet.obstacle == FIRST_FRAGMENT {
        let identification = fragment::next_identification();
        fragment::note_bound(env, packet, id, (index, identification))?;
        F::identify(packet.l3, identification);
    }
    rewrite(packet, source, F::from_bytes(&backend.addr), ports);
    let chosen = Chosen { id, backend };
    if too_long {
        // The kernel cuts it.
        count::forwarded(env, id, packet.frame.length());
        return Ok(Verdict::pass(Counter::HandedOver));
    }
    Ok(forward::leave(env, packet.frame, &chosen))
}

/// Whether a packet may go to its backend; if so, whether it has to be cut.
#[inline(always)]
fn may_go<F: Family>(env: &Env, packet: &Packet<F>, backend: &Backend) -> Result<bool, Verdict> {
    let too_long = packet.ip_length() > backend.mtu && backend.mtu != 0;
    if too_long && F::never_fragmented(packet.l3) {
        return Err(refuse::too_big(env, backend.mtu));
    }
    if F::may_go_on(packet.l3) { Ok(too_long) } else { Err(Verdict::drop(Counter::TtlExceeded)) }
}

/// The port of a backend for packets to this port of the service's, both in network
/// byte order.
#[inline(always)]
fn port_of(backend: &Backend, port: u16) -> u16 {
    if backend.port != 0 { backend.port } else { port }
}

/// A backend's packet to one of the sources.
#[inline(always)]
fn reply<F: Family>(env: &Env, packet: &Packet<F>, number: u32) -> Result<Verdict, Verdict> {
    let peer = (packet.source, packet.source_port());
    let owner = owner::<F>(env, packet.proto, (number, packet.destination_port()), peer)
        .ok_or_else(|| unbound(env, packet))?;
    let Owner { ref bound, service } = owner;
    let client = F::from_words(bound.flow.client);
    let to_client = Packet { destination: client, ..*packet };
    let way = nexthop::towards_client(env, &to_client, &service.vip);
    match way {
        Way::None => return Err(Verdict::drop(Counter::NoNextHop)),
        Way::TooBig if F::never_fragmented(packet.l3) => {
            return Err(refuse::too_big(env, nexthop::mtu_towards::<F>(client)));
        }
        _ => {}
    }
    if !F::may_go_on(packet.l3) {
        return Err(Verdict::drop(Counter::TtlExceeded));
    }
    if packet.obstacle == FIRST_FRAGMENT {
        if packet.proto == TCP && service.syn_rate != 0 {
            // See `fragment::is_translated`.
            return Err(Verdict::drop(Counter::Fragment));
        }
        let index = binding::index(F::EXACT, number, u16::from_be(packet.destination_port()));
        fragment::note_bound(env, packet, bound.value.backend(), (index, 0))?;
    }
    let closes = packet.proto == TCP && tcp::closes(packet.tcp_flags);
    let timeouts = select::timeouts(service);
    bound.entry.touch(bound.value, env.now(), closes, timeouts);
    rewrite(packet, F::from_bytes(&service.vip), client, bound.flow.ports.rotate_left(16));
    count::replied(env, bound.value.backend(), packet.frame.length());
    Ok(nat::leave(env, packet.frame, way))
}

/// Whose port one is.
struct Owner {
    bound: bind::Bound,
    service: &'static Service,
}

/// Who has a port of a source (its number, and the port in network byte order) towards
/// a peer, which must be the backend.
#[inline(always)]
fn owner<F: Family>(
    env: &Env,
    proto: u8,
    (number, port): (u32, u16),
    peer: (F::Addr, u16),
) -> Option<Owner> {
    let index = binding::index(F::EXACT, number, u16::from_be(port));
    let bound = bind::at(index, env.now())?;
    let backend = BACKENDS.get(u32::from(bound.value.backend()))?;
    let service = service::entry(env, backend.service)?;
    let is_his = backend.flags & flags::FULLNAT != 0
        && u32::from(backend.service) == bound.flow.service
        && service.proto == proto
        && F::equals(peer.0, &backend.addr)
        && peer.1 == port_of(backend, (bound.flow.ports >> 16) as u16);
    is_his.then_some(Owner { bound, service })
}

/// A packet to a source that is of no flow.
#[inline(always)]
fn unbound<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    if service::is_host::<F>(env, packet.destination) {
        Verdict::from_raw(HOST)
    } else {
        Verdict::drop(Counter::NatUnbound)
    }
}

/// Rewrites a packet, one hop older.
#[inline(always)]
fn rewrite<F: Family>(packet: &Packet<F>, source: F::Addr, destination: F::Addr, ports: u32) {
    let addresses = F::delta(packet.source, source) + F::delta(packet.destination, destination);
    F::set_addresses(packet.l3, source, destination);
    F::age(packet.l3, csum::aged(csum::fold(addresses)));
    store(packet.l4, ports);
    let ports = csum::delta32(packet.ports, ports);
    nat::update_checksum(packet, csum::fold(addresses + ports));
}

//! ICMP (RFC 792, RFC 4443): echo to a VIP is answered, errors about flows of
//! ours reach the host whose flow it is, with the quoted headers translated.
//!
//! Two directions. An error *to a VIP* quotes what a backend sent: it goes on
//! to that backend. An error *to a client* quotes what the balancer sent to a
//! backend in mode `nat`: the client must see its own packet in it.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    backend::flags,
    config::features,
    csum,
    service::{address_flags, flags as service_flags},
    stats::Counter,
};

use crate::{
    affinity, count,
    env::Env,
    family::Family,
    firewall,
    forward::{self, fullnat, nat, tunnel},
    lease,
    nexthop::{self, Way},
    packet::{Frame, load, store, turn_around},
    parse::{self, Packet, TCP, UDP},
    select::{self, Chosen},
    service, synproxy,
    verdict::{Action, PASS, Verdict},
};

/// What a message is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Error,
    /// The stack needs it wherever it is for: neighbour discovery, group membership.
    Vital,
    /// Replies and notices to the host.
    Informational,
    Other,
}

#[inline(always)]
fn kind<F: Family>(message: u8, code: u8) -> Kind {
    if F::EXACT {
        match message {
            8 if code == 0 => Kind::Echo,
            3 | 11 | 12 => Kind::Error,
            0 => Kind::Informational,
            _ => Kind::Other,
        }
    } else {
        match message {
            128 if code == 0 => Kind::Echo,
            1..=4 => Kind::Error,
            130..=137 | 143 => Kind::Vital,
            129 => Kind::Informational,
            _ => Kind::Other,
        }
    }
}

/// Whether messages of this type are errors, which quote a packet.
#[inline(always)]
pub(crate) fn is_error<F: Family>(message: u8) -> bool {
    kind::<F>(message, 0) == Kind::Error
}

/// Whether the stack needs this message wherever it is from and for.
#[inline(always)]
pub(crate) fn is_vital<F: Family>(packet: &Packet<F>) -> bool {
    packet.proto == F::ICMP
        && parse::icmp(packet)
        && kind::<F>(load(packet.l4), load(packet.l4 + 1)) == Kind::Vital
}

/// Decides about an ICMP message: a global function for each family, which
/// the verifier judges once, and which parses the frame anew.
#[inline(always)]
pub(crate) fn handle<F: Family>(env: &Env) -> Verdict {
    let (ctx, explains) = (env.ctx, u64::from(env.explains));
    let answer = if F::EXACT { lb_icmp_v4(ctx, explains) } else { lb_icmp_v6(ctx, explains) };
    if answer & TO_WRAP != 0 {
        return tunnel::send(env, answer as u16);
    }
    match Verdict::from_raw(answer) {
        // Here there is the stack for what explains it.
        verdict if verdict.action() == Action::FullNat => fullnat::translated(env),
        verdict => verdict,
    }
}

/// An answer of `lb_icmp_v4` and `lb_icmp_v6` that is no verdict, but the backend to which
/// the packet is to be sent in another one: there the stack has no room to do it.
const TO_WRAP: u64 = 1 << 63;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_icmp_v4(ctx: *mut xdp_md, explains: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, explains != 0)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
        && parse::icmp(&packet)
    {
        return message(&env, &packet).to_raw();
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_icmp_v6(ctx: *mut xdp_md, explains: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, explains != 0)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
        && parse::icmp(&packet)
    {
        return message(&env, &packet).to_raw();
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[inline(always)]
fn message<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    let kind = kind::<F>(load(packet.l4), load(packet.l4 + 1));
    if kind == Kind::Vital {
        return PASS;
    }
    if firewall::denied(env, packet) {
        return Verdict::drop(Counter::SourceDenied);
    }
    if kind == Kind::Error
        && env.uses(features::FULLNAT)
        && fullnat::is_source::<F>(env, packet.destination)
    {
        return Verdict::full_nat(0);
    }
    let address = service::address::<F>(env, packet.destination);
    if address.is_some_and(|address| !lease::permits_address(address)) {
        return Verdict::drop(Counter::NotActive);
    }
    let flags = address.map_or(0, |address| address.flags);
    if flags & address_flags::VIP != 0 {
        return match kind {
            Kind::Echo => answer_echo(packet),
            Kind::Error => match to_vip(env, packet) {
                Some(verdict) => verdict,
                None if flags & address_flags::HOST != 0 => PASS,
                None => Verdict::drop(Counter::IcmpUnmatched),
            },
            // The host may itself speak from a VIP that it holds.
            Kind::Informational if flags & address_flags::HOST != 0 => PASS,
            _ => Verdict::drop(Counter::ProtocolNotAllowed),
        };
    }
    if flags & address_flags::HOST != 0 {
        let guarded = env.uses(features::GUARD_HOST) && kind == Kind::Other;
        return if guarded { Verdict::drop(Counter::HostProtected) } else { PASS };
    }
    if kind == Kind::Error && F::is_tunnel_source(env.generation, packet.destination) {
        return tunnel::error(env, packet);
    }
    if kind == Kind::Error && env.uses(features::NAT) { to_client(env, packet) } else { PASS }
}

/// Turns an echo request into its reply, in place, back the way it came.
#[inline(always)]
fn answer_echo<F: Family>(packet: &Packet<F>) -> Verdict {
    if F::impossible_source(packet.source) || packet.source == packet.destination {
        return Verdict::drop(Counter::BadSource);
    }
    turn_around(packet.frame.start, packet.frame.start);
    F::answer(packet.l3, packet.source, packet.destination);
    let old: u16 = load(packet.l4);
    let new = u16::from_ne_bytes([if F::EXACT { 0 } else { 129 }, 0]);
    store(packet.l4, new);
    update_icmp_checksum(packet, csum::delta16(old, new));
    Verdict::answer(Counter::EchoReplied)
}

#[inline(always)]
fn update_icmp_checksum<F: Family>(packet: &Packet<F>, delta: u32) {
    let at = packet.l4 + 2;
    store(at, csum::update(load(at), delta));
}

/// The quoted packet, as far as it is there: its addresses, ports, protocol.
#[inline(always)]
pub(crate) fn quoted<F: Family>(packet: &Packet<F>) -> Option<Packet<F>> {
    let frame = packet.frame;
    let l3 = packet.l4 + 8;
    if !frame.holds(l3, F::HEADER) {
        return None;
    }
    let (header, proto) = F::quoted_header(l3)?;
    let l4 = l3 + header;
    // Eight bytes of transport header are all that RFC 792 promises.
    if (proto != TCP && proto != UDP) || !frame.holds(l4, 8) {
        return None;
    }
    Some(Packet {
        frame,
        l3,
        l4,
        source: F::source(l3),
        destination: F::destination(l3),
        ports: load(l4),
        proto,
        tcp_flags: 0,
        length: 8,
        obstacle: parse::WHOLE,
    })
}

/// An error to a VIP about what a backend sent to a client; `None`: about no
/// flow of ours.
#[inline(always)]
fn to_vip<F: Family>(env: &Env, packet: &Packet<F>) -> Option<Verdict> {
    let quote = quoted(packet)?;
    if quote.source != packet.destination {
        return None;
    }
    let chosen = backend_of(env, &quote)?;
    let backend = chosen.backend;
    if backend.flags & flags::FULLNAT != 0 {
        return Some(Verdict::full_nat(0));
    }
    if !F::may_go_on(packet.l3) {
        return Some(Verdict::drop(Counter::TtlExceeded));
    }
    if backend.flags & flags::NAT != 0 {
        if let Some(service) = service::entry(env, backend.service) {
            let (client, ports) = (F::words(quote.destination), quote.ports.rotate_left(16));
            renumber(packet, &quote, synproxy::offset(env, client, ports, service));
        }
        F::set_destination(packet.l3, &backend.addr);
        F::age(packet.l3, backend.aged_delta);
        F::set_source(quote.l3, &backend.addr);
        if backend.port != 0 {
            store(quote.l4, backend.port);
        }
        let port = csum::delta16(quote.source_port(), load(quote.l4));
        let deltas =
            Deltas { addr: backend.ip_delta, l4: backend.l4_delta, port, outer: backend.ip_delta };
        translate_quote(packet, &quote, &deltas);
    } else {
        F::age(packet.l3, csum::AGED);
        if backend.flags & flags::TUNNEL != 0 {
            return Some(Verdict::from_raw(TO_WRAP | u64::from(chosen.id)));
        }
    }
    Some(forward::leave(env, packet.frame, &chosen))
}

/// The backend of the flow whose reply is quoted. Leaves the flow as it is.
#[inline(always)]
fn backend_of<F: Family>(env: &Env, quote: &Packet<F>) -> Option<Chosen> {
    // The same flow, as the client sends it.
    let flow = Packet::<F> {
        source: quote.destination,
        destination: quote.source,
        ports: quote.ports.rotate_left(16),
        ..*quote
    };
    let found = service::of(env, &flow)?;
    let at = select::position(env, &flow, &found);
    if !found.untracked()
        && let Some(entry) = affinity::find(&at, env.now()).live()
        && let Some(chosen) = select::serving(entry.flow.backend(), found.id)
    {
        return Some(chosen);
    }
    let choice = select::from_tables(env, &flow, &found);
    if choice.previous.is_some() && flow.proto == TCP { choice.previous } else { choice.current }
}

/// An error to a client about what the balancer sent to a backend.
#[inline(always)]
fn to_client<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    let Some(quote) = quoted(packet) else {
        return PASS;
    };
    // An error goes to whoever sent what it quotes.
    if quote.source != packet.destination {
        return PASS;
    }
    let (port, proto) = (quote.destination_port(), quote.proto);
    let Some(mut owner) = nat::owner::<F>(env, quote.destination, port, proto) else {
        return PASS;
    };
    // As the quoted packet has the ports: the client's, the backend's.
    if owner.backend.shared_salt != 0
        && let Some(exact) = nat::bound::<F>(env, quote.source, quote.ports, owner.backend)
    {
        owner = exact;
    }
    let backend = owner.backend;
    let Some(service) = service::entry(env, backend.service) else {
        return PASS;
    };
    if !nat::replies_from(service, quote.destination_port()) {
        return PASS;
    }
    let way = nexthop::towards_client(env, packet, &service.vip);
    match way {
        Way::Local => return PASS,
        Way::None => return Verdict::drop(Counter::NoNextHop),
        _ => {}
    }
    if !F::may_go_on(packet.l3) {
        return Verdict::drop(Counter::TtlExceeded);
    }
    // A router on the way speaks for itself, the backend for the VIP.
    let from_backend = packet.source == quote.destination;
    if from_backend {
        F::set_source(packet.l3, &service.vip);
    }
    F::age(packet.l3, csum::aged(if from_backend { !backend.ip_delta } else { 0 }));
    F::set_destination(quote.l3, &service.vip);
    if service.flags & service_flags::RANGE == 0 {
        store(quote.l4 + 2, service.port);
    }
    let port = csum::delta16(quote.destination_port(), load(quote.l4 + 2));
    let (addr, l4) = (!backend.ip_delta, !backend.l4_delta);
    let outer = if from_backend { addr } else { 0 };
    translate_quote(packet, &quote, &Deltas { addr, l4, port, outer });
    env.note(|record| (record.backend, record.service) = (owner.id, backend.service));
    count::replied(env, owner.id, packet.frame.length());
    match way {
        Way::Hop(hop) => nexthop::send(env, packet.frame, hop),
        _ => Verdict::pass(Counter::HandedOver),
    }
}

/// What rewriting a quoted packet adds to checksums.
pub(crate) struct Deltas {
    /// Of the quoted addresses.
    pub addr: u16,
    /// Of addresses and ports, to the transport's checksum.
    pub l4: u16,
    /// Of the ports, not folded.
    pub port: u32,
    /// Of the addresses of the message itself.
    pub outer: u16,
}

/// Adds `offset` to the number of the first quoted byte of TCP: the client knows the
/// backend's bytes by other numbers, see [`crate::synproxy`].
#[inline(always)]
pub(crate) fn renumber<F: Family>(packet: &Packet<F>, quote: &Packet<F>, offset: u32) {
    if offset == 0 || quote.proto != TCP {
        return;
    }
    let at = quote.l4 + 4;
    let old: u32 = load(at);
    let new = u32::from_be(old).wrapping_add(offset).to_be();
    store(at, new);
    let changed = csum::fold(csum::delta32(old, new));
    let mut delta = u32::from(changed);
    if let Some(at) = quoted_checksum(packet, quote) {
        let old: u16 = load(at);
        let new = csum::apply(old, changed);
        store(at, new);
        delta += csum::delta16(old, new);
    }
    update_icmp_checksum(packet, delta);
}

/// Where the checksum of the quoted TCP header is, if that much is quoted (a frame may have
/// bytes behind the message).
#[inline(always)]
fn quoted_checksum<F: Family>(packet: &Packet<F>, quote: &Packet<F>) -> Option<usize> {
    let at = quote.l4 + nat::TCP_CHECKSUM;
    let is_quoted = at + 2 - packet.l4 <= packet.length && packet.frame.holds(at, 2);
    is_quoted.then_some(at)
}

/// Brings the checksums in line after addresses and ports of the quoted
/// packet were rewritten: its IP header's, its transport's as far as it is
/// quoted (a frame may have bytes behind the message), and the message's own,
/// which covers them all, in IPv6 the outer addresses, too (RFC 8200, section
/// 8.1).
#[inline(always)]
pub(crate) fn translate_quote<F: Family>(packet: &Packet<F>, quote: &Packet<F>, deltas: &Deltas) {
    let mut delta = u32::from(deltas.addr) + deltas.port;
    if F::EXACT {
        let old: u16 = load(quote.l3 + 10);
        F::update_header_checksum(quote.l3, deltas.addr);
        delta += csum::delta16(old, load(quote.l3 + 10));
    } else {
        delta += u32::from(deltas.outer);
    }
    if quote.proto == UDP {
        let at = quote.l4 + nat::UDP_CHECKSUM;
        let old: u16 = load(at);
        let new = csum::update_udp(old, deltas.l4);
        store(at, new);
        delta += csum::delta16(old, new);
    } else if let Some(at) = quoted_checksum(packet, quote) {
        let old: u16 = load(at);
        let new = csum::apply(old, deltas.l4);
        store(at, new);
        delta += csum::delta16(old, new);
    }
    update_icmp_checksum(packet, delta);
}

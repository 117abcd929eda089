//! Fragments behind the first one: they have no ports, and go with it.

use lb_common::{binding, csum, stats::Counter};

use super::{bind, unbound};
use crate::{
    count,
    env::Env,
    family::Family,
    forward::{self, nat},
    fragment, lease,
    maps::BACKENDS,
    nexthop::{self, Way},
    parse::Packet,
    select::Chosen,
    service,
    verdict::Verdict,
};

/// Sends a fragment after its first one; `number`: that of the source that it is for, if
/// it is for one.
#[inline(always)]
pub(super) fn follow<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    number: Option<u32>,
) -> Result<Verdict, Verdict> {
    let unknown = match number {
        Some(_) if service::is_host::<F>(env, packet.destination) => unbound(env, packet),
        _ => Verdict::drop(Counter::Fragment),
    };
    let piece = fragment::piece(packet).ok_or(unknown)?;
    let course = fragment::course(env, &piece).ok_or(unknown)?;
    if piece.offset < course.covered {
        return Err(Verdict::drop(Counter::FragmentOverlap));
    }
    let bound = bind::at(course.binding, env.now()).ok_or(unknown)?;
    let id = bound.value.backend();
    let backend = BACKENDS.get(u32::from(id)).ok_or(unknown)?;
    let service = service::entry(env, backend.service).ok_or(unknown)?;
    // The port may have changed hands within these seconds.
    if id != course.backend || u32::from(backend.service) != bound.flow.service {
        return Err(unknown);
    }
    if !lease::permits(service) {
        return Err(Verdict::drop(Counter::NotActive));
    }
    if !F::may_go_on(packet.l3) {
        return Err(Verdict::drop(Counter::TtlExceeded));
    }
    let Some(number) = number else {
        let too_long = packet.ip_length() > backend.mtu && backend.mtu != 0;
        if too_long && F::never_fragmented(packet.l3) {
            // The sender was told of its first fragment.
            return Err(Verdict::drop(Counter::Oversized));
        }
        let source = F::nat_source(env.generation, binding::source(course.binding));
        rewrite(packet, source, F::from_bytes(&backend.addr));
        F::identify(packet.l3, course.identification);
        if too_long {
            // The kernel cuts it once more.
            count::forwarded(env, id, packet.frame.length());
            return Ok(Verdict::pass(Counter::HandedOver));
        }
        return Ok(forward::leave(env, packet.frame, &Chosen { id, backend }));
    };
    if number != binding::source(course.binding) {
        return Err(unknown);
    }
    let client = F::from_words(bound.flow.client);
    let to_client = Packet { destination: client, ..*packet };
    let way = nexthop::towards_client(env, &to_client, &service.vip);
    match way {
        Way::None => return Err(Verdict::drop(Counter::NoNextHop)),
        Way::TooBig if F::never_fragmented(packet.l3) => {
            return Err(Verdict::drop(Counter::Oversized));
        }
        _ => {}
    }
    rewrite(packet, F::from_bytes(&service.vip), client);
    count::replied(env, id, packet.frame.length());
    Ok(nat::leave(env, packet.frame, way))
}

/// Rewrites addresses, one hop older. The datagram's checksum is in its first fragment.
#[inline(always)]
fn rewrite<F: Family>(packet: &Packet<F>, source: F::Addr, destination: F::Addr) {
    let addresses = F::delta(packet.source, source) + F::delta(packet.destination, destination);
    F::set_addresses(packet.l3, source, destination);
    F::age(packet.l3, csum::aged(csum::fold(addresses)));
}

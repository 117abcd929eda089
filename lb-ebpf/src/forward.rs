//! Sends a packet to its backend: rewritten as its mode says, one hop older.

pub(crate) mod fullnat;
pub(crate) mod nat;
pub(crate) mod tunnel;

use lb_common::{backend::flags, csum, stats::Counter};

use crate::{
    count, env::Env, family::Family, nexthop, packet::Frame, parse::Packet, refuse, select::Chosen,
    service::Found, verdict::Verdict,
};

/// Forwards to the chosen backend. Mode `dsr` rewrites only the Ethernet
/// header: the backend holds the VIP and answers the client itself. So does one that
/// gets wrapped packets.
#[inline(always)]
pub(crate) fn to_backend<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    chosen: &Chosen,
) -> Verdict {
    let backend = chosen.backend;
    if backend.flags & flags::FULLNAT != 0 {
        return fullnat::to_backend(env, packet, chosen);
    }
    if packet.ip_length() > backend.mtu && backend.mtu != 0 {
        return oversized(env, packet, found, chosen);
    }
    let rewritten = rewrite(env, packet, found, chosen);
    let ready = if backend.flags & flags::TUNNEL != 0 {
        rewritten.and_then(|()| tunnel::wrap(env, packet, backend))
    } else {
        rewritten.map(|()| packet.frame)
    };
    match ready {
        Ok(frame) => leave(env, frame, chosen),
        Err(reason) => Verdict::drop(reason),
    }
}

/// Rewrites a packet for its backend.
#[inline(always)]
fn rewrite<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    chosen: &Chosen,
) -> Result<(), Counter> {
    let backend = chosen.backend;
    let nat = backend.flags & flags::NAT != 0;
    if nat && backend.shared_salt != 0 && !nat::bind_reply(env, packet, chosen, found) {
        return Err(Counter::NatConflict);
    }
    // A router's duty (RFC 1812, section 5.3.1; RFC 8200, section 3), and
    // what ends a loop of balancers.
    if !F::may_go_on(packet.l3) {
        return Err(Counter::TtlExceeded);
    }
    if nat {
        nat::to_backend(packet, backend);
    } else {
        F::age(packet.l3, csum::AGED);
    }
    Ok(())
}

/// A packet that is longer than the way to its backend carries: its sender is told,
/// unless it may be cut and the kernel, which can, knows the way.
#[inline(always)]
fn oversized<F: Family>(env: &Env, packet: &Packet<F>, found: &Found, chosen: &Chosen) -> Verdict {
    let backend = chosen.backend;
    if backend.flags & flags::NAT == 0 || F::never_fragmented(packet.l3) {
        return refuse::too_big(env, backend.mtu);
    }
    if let Err(reason) = rewrite(env, packet, found, chosen) {
        return Verdict::drop(reason);
    }
    count(env, packet.frame, chosen);
    Verdict::pass(Counter::HandedOver)
}

#[inline(always)]
fn count(env: &Env, frame: Frame, chosen: &Chosen) {
    env.note(|record| record.backend = chosen.id);
    count::forwarded(env, chosen.id, frame.length());
}

/// Counts a frame that is ready for its backend, and sends it there.
#[inline(always)]
pub(crate) fn leave(env: &Env, frame: Frame, chosen: &Chosen) -> Verdict {
    let backend = chosen.backend;
    count(env, frame, chosen);
    if backend.flags & flags::RESOLVED != 0 {
        nexthop::send(env, frame, backend)
    } else if backend.flags & (flags::NAT | flags::TUNNEL | flags::FULLNAT) != 0 {
        // Now an ordinary packet to the backend: the kernel finds the way.
        Verdict::pass(Counter::HandedOver)
    } else {
        Verdict::drop(Counter::NoNextHop)
    }
}

//! Everything but flows of services and their replies: packets for the host,
//! without ports, damaged, or not ours. Not on the fast path, so it parses the
//! frame anew and stands as a global function, which the verifier judges once.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::stats::Counter;

use crate::{
    env::Env,
    family::Family,
    firewall,
    packet::Frame,
    parse::{self, Packet, Unusable},
    service,
    verdict::{PASS, Verdict},
};

/// Decides about the frame.
#[inline(always)]
pub(crate) fn decide(ctx: *mut xdp_md) -> Verdict {
    Verdict::from_raw(lb_control(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_control(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let Some(env) = Env::new(&ctx) else {
        return Verdict::drop(Counter::Internal).to_raw();
    };
    let frame = Frame::new(&ctx);
    let verdict = match parse::link(frame) {
        Some((parse::IPV4, l3)) => ip(&env, parse::ipv4(frame, l3)),
        Some((parse::IPV6, l3)) => ip(&env, parse::ipv6(env.ctx, frame, l3)),
        Some(_) => PASS,
        None => Verdict::drop(Counter::Truncated),
    };
    verdict.to_raw()
}

#[inline(always)]
fn ip<F: Family>(env: &Env, parsed: Result<(Packet<F>, usize), Unusable<F>>) -> Verdict {
    let (packet, length) = match parsed {
        Ok(parsed) => parsed,
        Err(Unusable::Invalid(reason)) => return Verdict::drop(reason),
        Err(Unusable::Portless(packet, reason)) => return portless(env, &packet, reason),
    };
    let ported = if packet.proto == parse::TCP {
        parse::tcp(packet, length)
    } else if packet.proto == parse::UDP {
        parse::udp(packet, length)
    } else if packet.proto == F::ICMP {
        // A whole one is icmp.rs's.
        Err(Counter::Truncated)
    } else {
        Err(Counter::ProtocolNotAllowed)
    };
    match ported {
        Ok(packet) => unclaimed(env, &packet),
        Err(reason) => portless(env, &packet, reason),
    }
}

/// A packet without usable ports.
#[inline(always)]
fn portless<F: Family>(env: &Env, packet: &Packet<F>, reason: Counter) -> Verdict {
    if firewall::denied(env, packet) {
        return Verdict::drop(Counter::SourceDenied);
    }
    firewall::portless(service::address::<F>(env, packet.destination), reason)
}

/// A TCP or UDP packet that no service wants.
#[inline(always)]
fn unclaimed<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    match service::address::<F>(env, packet.destination) {
        Some(address) => firewall::unclaimed(env, packet, address),
        None => PASS,
    }
}

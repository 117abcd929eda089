//! The packet path of lb: an XDP program.
//!
//! parse -> firewall -> service -> affinity -> select -> count -> forward ->
//! next hop. Each step returns a value or a [`verdict::Verdict`]; only this
//! file turns a verdict into an action and a counter.
//!
//! Everything on the way of an established flow is inlined: on processors
//! with return mitigations every call costs as much as a memory access.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the target has compare-and-swap, `core::sync` not yet")]
#![no_std]
#![no_main]

mod affinity;
mod bridge;
mod changes;
mod control;
mod count;
mod env;
mod extension;
mod family;
mod firewall;
mod forward;
mod fragment;
mod guard;
mod handshake;
mod icmp;
mod lease;
mod log;
mod maps;
mod nexthop;
mod notice;
mod parse;
mod probe;
mod quic;
mod refuse;
mod select;
mod service;
mod synproxy;
mod verdict;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{backend, config::features, service::flags, stats::Counter};
use lb_ebpf::{link, packet};

use crate::{
    env::Env,
    family::Family,
    forward::{fullnat, nat},
    packet::Frame,
    parse::Packet,
    service::Found,
    verdict::{Action, PASS, Verdict},
};

/// Entry: one frame.
#[xdp]
#[inline(always)]
fn lb_xdp(ctx: XdpContext) -> u32 {
    let verdict = balance(&ctx, false);
    log::verdict(&ctx, verdict);
    act(ctx.ctx, verdict)
}

/// Carries a verdict out, at the end of a program.
#[inline(always)]
fn act(ctx: *mut xdp_md, verdict: Verdict) -> u32 {
    match verdict.action() {
        Action::Pass => {
            count::event(verdict.value());
            xdp_action::XDP_PASS
        }
        Action::Drop => {
            count::event(verdict.value());
            xdp_action::XDP_DROP
        }
        Action::Transmit => {
            if verdict.value() != 0 {
                count::event(verdict.value());
            }
            xdp_action::XDP_TX
        }
        Action::Redirect => match maps::PORTS.redirect(verdict.value(), 0) {
            Ok(action) => action,
            Err(_) => {
                count::event(Counter::NoNextHop as u32);
                xdp_action::XDP_DROP
            }
        },
        Action::FullNat => {
            fullnat::go_on(ctx, verdict.value() as u16);
            count::event(Counter::Internal as u32);
            xdp_action::XDP_DROP
        }
    }
}

/// The same way, for a packet of the agent's: never attached. It notes what it
/// finds in `TRACE`; flows, counters and whatever else packets write stay as
/// they are.
#[xdp]
fn lb_explain(ctx: XdpContext) -> u32 {
    let mut verdict = balance(&ctx, true);
    if verdict.action() == Action::Redirect && maps::PORTS.redirect(verdict.value(), 0).is_err() {
        verdict = Verdict::drop(Counter::NoNextHop);
    }
    if let Some(env) = Env::new(&ctx, true) {
        env.note(|record| record.verdict = verdict.to_raw());
    }
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Redirect | Action::FullNat => xdp_action::XDP_REDIRECT,
    }
}

/// The data plane's clock, run by the agent: never attached. It returns the
/// second, and leaves the tick (`jiffies64`) in the frame's first 8 bytes.
#[xdp]
fn lb_clock(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    if frame.holds(frame.start, size_of::<u64>()) {
        packet::store(frame.start, env::jiffies());
    }
    match Env::new(&ctx, false) {
        Some(env) => u32::from(env.now()),
        None => u32::MAX,
    }
}

#[inline(always)]
fn balance(ctx: &XdpContext, explains: bool) -> Verdict {
    let Some(env) = Env::new(ctx, explains) else {
        return Verdict::drop(Counter::Internal);
    };
    if bridge::passes_by(&env) {
        return PASS;
    }
    let frame = Frame::new(ctx);
    match parse::link(frame) {
        Some((parse::IPV4, l3)) => ip(&env, parse::ipv4(frame, l3)),
        Some((parse::IPV6, l3)) => ip(&env, parse::ipv6(env.ctx, frame, l3)),
        Some(_) => PASS,
        None => Verdict::drop(Counter::Truncated),
    }
}

/// The ways of an IP packet. Each is compiled for itself, so that in [`flow`]
/// the protocol is a constant.
#[inline(always)]
fn ip<F: Family>(env: &Env, parsed: Result<Packet<F>, Counter>) -> Verdict {
    // What was sent to a group of stations is no service's (RFC 1122, section
    // 3.3.6).
    if let Ok(packet) = parsed
        && !parse::to_group(packet.frame)
    {
        if packet.obstacle != parse::WHOLE {
            fragment::go_on(env, &packet);
        } else if packet.proto == parse::TCP {
            if let Ok(packet) = parse::tcp(packet) {
                return either(flow(env, &packet));
            }
        } else if packet.proto == parse::UDP {
            if let Ok(packet) = parse::udp(packet) {
                return either(flow(env, &packet));
            }
        } else if packet.proto == F::ICMP && parse::icmp(&packet) {
            return icmp::handle::<F>(env);
        }
    }
    control::decide(env.ctx)
}

#[inline(always)]
fn either(verdict: Result<Verdict, Verdict>) -> Verdict {
    match verdict {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

/// A TCP or UDP packet.
#[inline(always)]
fn flow<F: Family>(env: &Env, packet: &Packet<F>) -> Result<Verdict, Verdict> {
    if firewall::denied(env, packet) {
        return Err(Verdict::drop(Counter::SourceDenied));
    }
    let found = match service::exact(env, packet) {
        Some(found) => found,
        None => other(env, packet)?,
    };
    if !lease::permits(found.service) {
        env.note(|record| record.service = found.id);
        return Err(Verdict::drop(Counter::NotActive));
    }
    // One test for all that most services do without.
    if found.service.flags & (flags::GUARDED | flags::TIMED) != 0 {
        guard::admit(env, packet, &found)?;
        synproxy::go_on(env, packet.proto, found.service);
        handshake::begin(env, packet, &found);
    }
    quic::go_on(env, packet, &found);
    let chosen = select::select(env, packet, &found)?;
    // At once, so that the verifier need not carry it to the program's end.
    if chosen.backend.flags & backend::flags::FULLNAT != 0 && !env.explains {
        fullnat::go_on(env.ctx, chosen.id);
        return Err(Verdict::drop(Counter::Internal));
    }
    Ok(forward::to_backend(env, packet, &found, &chosen))
}

/// A packet that no service has by its exact port: a reply of a backend, a
/// service with a range of ports, something for the host, or not ours.
#[inline(always)]
fn other<F: Family>(env: &Env, packet: &Packet<F>) -> Result<Found, Verdict> {
    if env.uses(features::FULLNAT) && fullnat::is_source::<F>(env, packet.destination) {
        return Err(fullnat::translated(env));
    }
    if env.uses(features::NAT)
        && let Some(verdict) = nat::reply(env, packet)
    {
        return Err(verdict);
    }
    let Some(address) = service::address::<F>(env, packet.destination) else {
        return Err(PASS);
    };
    match service::ranged(env, address, packet.proto, packet.destination_port()) {
        Some(found) => Ok(found),
        None => Err(control::decide(env.ctx)),
    }
}

/// The kernel reads the licence from here to decide which helpers may be used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier admits no program that could get here.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

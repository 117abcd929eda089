//! Everything but flows of services and their replies: packets for the host,
//! without ports, damaged, or not ours. Not on the fast path, so it parses the
//! frame anew and stands as a global function, which the verifier judges once.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{service::address_flags, stats::Counter};

use crate::{
    env::Env,
    family::Family,
    firewall,
    forward::nat,
    icmp, lease,
    packet::Frame,
    parse::{self, FIRST_FRAGMENT, Packet},
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
    let Some(env) = Env::new(&ctx, false) else {
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
fn ip<F: Family>(env: &Env, parsed: Result<Packet<F>, Counter>) -> Verdict {
    let packet = match parsed {
        Ok(packet) => packet,
        Err(reason) => return Verdict::drop(reason),
    };
    if icmp::is_vital(&packet) {
        return PASS;
    }
    if firewall::denied(env, &packet) {
        return Verdict::drop(Counter::SourceDenied);
    }
    let address = service::address::<F>(env, packet.destination);
    if address.is_some_and(|address| !lease::permits_address(address)) {
        return Verdict::drop(Counter::NotActive);
    }
    if packet.obstacle > FIRST_FRAGMENT {
        return firewall::portless(env, address, packet.obstacle);
    }
    let ported = match packet.proto {
        parse::TCP => parse::tcp(packet),
        parse::UDP => parse::udp(packet),
        // A whole one is icmp.rs's, unless it was sent to a group of stations.
        proto if proto == F::ICMP && !parse::icmp(&packet) => Err(Counter::Truncated),
        _ => Err(Counter::ProtocolNotAllowed),
    };
    let first_fragment = packet.obstacle == FIRST_FRAGMENT;
    match (ported, address) {
        (Err(_), Some(address)) if first_fragment => {
            firewall::headless_fragment(env, packet.proto, address)
        }
        (Err(reason), address) => firewall::portless(env, address, reason as u32),
        (Ok(_), Some(address)) if first_fragment && address.flags & address_flags::VIP != 0 => {
            Verdict::drop(Counter::Fragment)
        }
        (Ok(packet), Some(address)) => firewall::unclaimed(env, &packet, address),
        // Its later fragments could not be told to be a reply, too.
        (Ok(packet), None) if first_fragment && nat::is_reply(env, &packet) => {
            Verdict::drop(Counter::Fragment)
        }
        (Ok(_), None) => PASS,
    }
}

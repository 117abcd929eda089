//! Ports of bridges (IEEE 802.1D), see [`lb_common::bridge`]. What the kernel would do with
//! a frame that such a port hears is the bridge's business, and is left to it; only what is
//! for the host itself is ours.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::bridge::Station;

use crate::{
    env::Env,
    maps::STATIONS,
    packet::{Frame, load},
    parse,
};

/// Whether the frame is for one other host: a bridge takes it there. What is for a group of
/// stations is for this one, too, and so is what is asked about.
#[inline(always)]
pub(crate) fn passes_by(env: &Env) -> bool {
    !env.explains && env.config.bridged != 0 && lb_passes_by(env.ctx) != 0
}

/// Not 0: it does. A global function: who has no bridges pays for a test.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_passes_by(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if !frame.holds(frame.start, 6) || parse::to_group(frame) {
        return 0;
    }
    let ingress = ctx.ingress_ifindex() as u32;
    let own = Station::new(ingress, load(frame.start));
    u64::from(interface(&own).is_none() && interface(&Station::port(ingress)).is_some())
}

/// The interface that the kernel has packets come in by that this one heard: its bridge, or
/// itself.
#[inline(always)]
pub(crate) fn above(bridged: bool, ifindex: u32) -> u32 {
    let bridge = if bridged { interface(&Station::port(ifindex)) } else { None };
    bridge.unwrap_or(ifindex)
}

/// The interface that a frame for a station leaves by that the kernel would send by this one: a
/// bridge's port, or itself.
#[inline(always)]
pub(crate) fn below(bridged: bool, ifindex: u32, mac: [u8; 6]) -> u32 {
    let port = if bridged { interface(&Station::new(ifindex, mac)) } else { None };
    port.unwrap_or(ifindex)
}

#[inline(always)]
fn interface(station: &Station) -> Option<u32> {
    // SAFETY: a word, read at once.
    unsafe { STATIONS.get(station) }.copied()
}

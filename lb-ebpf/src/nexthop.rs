//! Where a frame goes next.
//!
//! Backends carry their next hop, which the agent keeps current. For clients
//! (replies in mode `nat`) the kernel's routing is asked once a second and
//! destination, and remembered per CPU.

use aya_ebpf::{
    EbpfContext as _, bindings::xdp_md, helpers::generated as helpers, programs::XdpContext,
};
use lb_common::{
    addr::AddrBytes,
    backend::Backend,
    limits,
    nexthop::{CachedHop, cache_index, flags, vlan},
    stats::Counter,
};
use lb_ebpf::link;

use crate::{
    bridge,
    env::{self, Env},
    family::Family,
    maps::{CONFIG, NEXT_HOPS, PORTS, QUESTION, VLANS},
    notice,
    packet::{Frame, load, store},
    parse::Packet,
    verdict::Verdict,
};

/// What a frame is sent with.
pub(crate) struct Hop {
    /// The first 12 bytes of its Ethernet header.
    pub macs_low: u64,
    /// See [`Self::macs_low`].
    pub macs_high: u32,
    /// Interface that it leaves by.
    pub ifindex: u32,
    /// One of [`vlan`].
    pub vlan: u16,
}

impl From<&'static Backend> for Hop {
    #[inline(always)]
    fn from(backend: &'static Backend) -> Self {
        let Backend { macs_low, macs_high, ifindex, vlan, .. } = *backend;
        Self { macs_low, macs_high, ifindex, vlan }
    }
}

impl From<&'static CachedHop> for Hop {
    #[inline(always)]
    fn from(hop: &'static CachedHop) -> Self {
        let CachedHop { macs_low, macs_high, ifindex, vlan, .. } = *hop;
        Self { macs_low, macs_high, ifindex, vlan }
    }
}

/// Writes the Ethernet addresses, and the VLAN tag, and sends the frame.
#[inline(always)]
pub(crate) fn send(env: &Env, frame: Frame, hop: impl Into<Hop>) -> Verdict {
    let hop = hop.into();
    let mut start = frame.start;
    if hop.vlan != vlan::KEPT {
        if lb_retag(env.ctx, hop.vlan.into()) != RETAGGED {
            return Verdict::drop(Counter::NoHeadroom);
        }
        let frame = Frame::new(&XdpContext::new(env.ctx));
        if !frame.holds(frame.start, 12) {
            return Verdict::drop(Counter::Internal);
        }
        start = frame.start;
    }
    store(start, hop.macs_low);
    store(start + 8, hop.macs_high);
    if hop.ifindex == env.ingress() { Verdict::transmit() } else { Verdict::redirect(hop.ifindex) }
}

/// An answer of [`lb_retag`]: the tag is as it should be.
const RETAGGED: u64 = 1;

/// Gives a frame the tag of a VLAN, or none. The Ethernet addresses are not kept: they are
/// written next. A global function: who has no VLANs pays for a test.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_retag(ctx: *mut xdp_md, vlan: u64) -> u64 {
    const TYPE: usize = 12;
    const TAG: usize = 4;
    let frame = Frame::new(&XdpContext::new(ctx));
    if !frame.holds(frame.start, TYPE + TAG + 2) {
        return 0;
    }
    let (wanted, is_tag) = (vlan as u16, |at| link::is_tag(load(frame.start + at)));
    let (tagged, none) = (is_tag(TYPE), wanted == vlan::NONE);
    if tagged && is_tag(TYPE + TAG) || !tagged && none {
        return RETAGGED;
    }
    let control = frame.start + TYPE + 2;
    if tagged && !none {
        // Priority and eligibility stay.
        store(frame.start + TYPE, link::VLAN);
        store(control, load::<u16>(control) & 0xf000u16.to_be() | wanted.to_be());
        return RETAGGED;
    }
    let change = if none { TAG as i32 } else { -(TAG as i32) };
    // SAFETY: the context is valid; since Linux 4.10.
    if unsafe { helpers::bpf_xdp_adjust_head(ctx, change) } != 0 {
        return 0;
    }
    let frame = Frame::new(&XdpContext::new(ctx));
    if !none {
        if !frame.holds(frame.start, TYPE + TAG) {
            return 0;
        }
        store(frame.start + TYPE, link::VLAN);
        store(frame.start + TYPE + 2, wanted.to_be());
    }
    RETAGGED
}

/// The way to a client.
pub(crate) enum Way {
    /// Send it there.
    Hop(&'static CachedHop),
    /// It is for this host itself.
    Local,
    /// Longer than the way's MTU.
    TooBig,
    /// The kernel must find out: no neighbour yet, or not by an interface of ours.
    Kernel,
    /// The kernel forwards nothing that comes in by this interface.
    None,
}

/// Finds the way to the packet's destination. `vip`: the source it will have,
/// for routing by source.
#[inline(always)]
pub(crate) fn towards_client<F: Family>(env: &Env, packet: &Packet<F>, vip: &AddrBytes) -> Way {
    let key = F::words(packet.destination);
    let index = if env.explains { APART } else { cache_index(key) & (limits::NEXT_HOPS - 1) };
    let Some(hop) = NEXT_HOPS.get_ptr_mut(index) else {
        return Way::Kernel;
    };
    // SAFETY: this CPU's element; nothing else on this CPU runs meanwhile.
    let hop = unsafe { &mut *hop };
    let known = flags::VALID | if F::EXACT { flags::V4 } else { 0 };
    let fresh = hop.key == key
        && hop.second == env.now()
        && hop.epoch == env.config.route_epoch
        && hop.flags & !flags::LOCAL == known;
    if !fresh {
        hop.key = key;
        let source = words(vip);
        match lb_ask_kernel(env.ctx, u64::from(index), u64::from(F::EXACT), source[0], source[1]) {
            ANSWERED => {}
            NO_WAY => return Way::None,
            _ => return Way::Kernel,
        }
    }
    if hop.flags & flags::LOCAL != 0 {
        Way::Local
    } else if hop.mtu != 0 && packet.ip_length() > hop.mtu {
        Way::TooBig
    } else {
        Way::Hop(hop)
    }
}

/// Bytes of the longest packet that goes to a client, just found to be
/// [`Way::TooBig`].
#[inline(always)]
pub(crate) fn mtu_towards<F: Family>(addr: F::Addr) -> u32 {
    let index = cache_index(F::words(addr)) & (limits::NEXT_HOPS - 1);
    NEXT_HOPS.get(index).map_or(0, |hop| hop.mtu)
}

/// The entry of runs that only explain.
const APART: u32 = limits::NEXT_HOPS;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_fib_lookup` of `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FibLookup {
    family: u8,
    l4_protocol: u8,
    ports: [u16; 2],
    /// In: length of the packet, 0 for no check; out: MTU of the route.
    length_mtu: u16,
    ifindex: u32,
    tos_flow: u32,
    source: [u64; 2],
    destination: [u64; 2],
    vlan: u32,
    smac: [u8; 6],
    dmac: [u8; 6],
}

const _: () = assert!(size_of::<FibLookup>() == 64);

/// `BPF_FIB_LKUP_RET_*` of `linux/bpf.h`.
mod fib {
    pub(super) const SUCCESS: i64 = 0;
    pub(super) const NOT_FORWARDED: i64 = 4;
    pub(super) const FORWARDING_OFF: i64 = 5;
    pub(super) const NO_NEIGHBOUR: i64 = 7;
}

/// Answers of [`lb_ask_kernel`]: the entry is filled in; ask the kernel with
/// the packet; there is no way.
const ANSWERED: u64 = 1;
const UNKNOWN: u64 = 0;
const NO_WAY: u64 = 2;

/// Asks the kernel's routing about the destination in entry `index`, an IPv4
/// one if `v4` is not 0, and remembers the answer. `source`: two words of the
/// address in map form.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_ask_kernel(
    ctx: *mut xdp_md,
    index: u64,
    v4: u64,
    source: u64,
    source_low: u64,
) -> u64 {
    let (Some(hop), Some(config), Some(params)) =
        (NEXT_HOPS.get_ptr_mut(index as u32), CONFIG.get(0), QUESTION.get_ptr_mut(0))
    else {
        return UNKNOWN;
    };
    // SAFETY: this CPU's elements; nothing else on this CPU runs meanwhile.
    let (hop, params) = unsafe { (&mut *hop, &mut *params.cast::<FibLookup>()) };
    hop.flags = 0;
    let v4 = v4 != 0;
    let ctx = XdpContext::new(ctx);
    let bridged = config.bridged != 0;
    let ingress = bridge::above(bridged, ctx.ingress_ifindex() as u32);
    *params = FibLookup {
        family: if v4 { AF_INET } else { AF_INET6 },
        l4_protocol: 0,
        ports: [0; 2],
        length_mtu: 1,
        ifindex: ingress,
        tos_flow: 0,
        // IPv4 addresses take the first four bytes; the rest is not read.
        source: if v4 { [source_low >> 32, 0] } else { [source, source_low] },
        destination: hop.key,
        vlan: 0,
        smac: [0; 6],
        dmac: [0; 6],
    };
    // SAFETY: the context is valid, the parameters are ours and of this size.
    let answer =
        unsafe { helpers::bpf_fib_lookup(ctx.as_ptr(), (&raw mut *params).cast(), 64, 0) } as i64;
    let mut state = flags::VALID | if v4 { flags::V4 } else { 0 };
    let leaves_by = bridge::below(bridged, params.ifindex, params.dmac);
    match answer {
        fib::SUCCESS => match PORTS.get_ifindex(leaves_by) {
            Some(port) => hop.ifindex = port,
            // By another interface only the kernel can send.
            None => return UNKNOWN,
        },
        fib::FORWARDING_OFF => return NO_WAY,
        // Nothing to forward: the route is local (or broadcast).
        fib::NOT_FORWARDED => state |= flags::LOCAL,
        fib::NO_NEIGHBOUR => {
            if index == u64::from(APART) {
                return UNKNOWN;
            }
            // It makes the kernel look for the neighbour.
            notice::tell(hop.key, v4, ingress, 0);
            return UNKNOWN;
        }
        _ => return UNKNOWN,
    }
    let (d, s) = (params.dmac, params.smac);
    hop.macs_low = u64::from_ne_bytes([d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1]]);
    hop.macs_high = u32::from_ne_bytes([s[2], s[3], s[4], s[5]]);
    // SAFETY: read at once.
    hop.vlan = unsafe { VLANS.get(leaves_by) }.map_or(vlan::KEPT, |vlan| *vlan as u16);
    hop.mtu = u32::from(params.length_mtu);
    hop.epoch = config.route_epoch;
    hop.second = env::now(config);
    hop.flags = state;
    ANSWERED
}

/// The two words of an address in map form.
#[inline(always)]
fn words(bytes: &AddrBytes) -> [u64; 2] {
    let at = bytes.as_ptr() as usize;
    [load(at), load(at + 8)]
}

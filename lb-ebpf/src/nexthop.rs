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
    limits,
    nexthop::{CachedHop, cache_index, flags},
};

use crate::{
    env::{self, Env},
    family::Family,
    maps::{CONFIG, NEXT_HOPS, PORTS, QUESTION},
    notice,
    packet::{Frame, load, store},
    parse::Packet,
    verdict::Verdict,
};

/// Writes the Ethernet addresses and sends the frame.
#[inline(always)]
pub(crate) fn send(
    env: &Env,
    frame: Frame,
    macs_low: u64,
    macs_high: u32,
    ifindex: u32,
) -> Verdict {
    store(frame.start, macs_low);
    store(frame.start + 8, macs_high);
    if ifindex == env.ingress() { Verdict::transmit() } else { Verdict::redirect(ifindex) }
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
    *params = FibLookup {
        family: if v4 { AF_INET } else { AF_INET6 },
        l4_protocol: 0,
        ports: [0; 2],
        length_mtu: 1,
        ifindex: ctx.ingress_ifindex() as u32,
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
    match answer {
        // By another interface only the kernel can send.
        fib::SUCCESS if PORTS.get_ifindex(params.ifindex).is_none() => return UNKNOWN,
        fib::SUCCESS => {}
        fib::FORWARDING_OFF => return NO_WAY,
        // Nothing to forward: the route is local (or broadcast).
        fib::NOT_FORWARDED => state |= flags::LOCAL,
        fib::NO_NEIGHBOUR => {
            if index == u64::from(APART) {
                return UNKNOWN;
            }
            // It makes the kernel look for the neighbour.
            notice::tell(hop.key, v4, ctx.ingress_ifindex() as u32, 0);
            return UNKNOWN;
        }
        _ => return UNKNOWN,
    }
    let (d, s) = (params.dmac, params.smac);
    hop.macs_low = u64::from_ne_bytes([d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1]]);
    hop.macs_high = u32::from_ne_bytes([s[2], s[3], s[4], s[5]]);
    hop.ifindex = params.ifindex;
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

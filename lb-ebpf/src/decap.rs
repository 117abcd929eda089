//! The backend's end of modes `ipip` and `gue`: an XDP program that unwraps packets to
//! VIPs it is told of (RFC 2003, RFC 2473; GUE: draft-ietf-intarea-gue-09, section 4).
//!
//! What it does not know goes on to the kernel untouched. It trusts nobody but the
//! sources it is told of: an unwrapped packet comes from whoever its header says.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray},
    helpers::generated as helpers,
    macros::{btf_map, xdp},
    maps::lpm_trie::Key,
    programs::XdpContext,
};
use lb_common::{
    csum,
    decap::{Counter, SOURCES as MOST_SOURCES, VIPS as MOST_VIPS},
    tunnel,
};
use lb_ebpf::{
    link::{self, IPV4, IPV6},
    packet::{Frame, load, number16, store},
};
use network_types::udp::UdpHdr;

/// `BPF_F_NO_PREALLOC`, which tries must have.
const NO_PREALLOC: usize = 1;

/// VIPs of this host, two words each, IPv4 in mapped form.
#[btf_map]
static DECAP_VIPS: HashMap<[u64; 2], u32, { MOST_VIPS as usize }> = HashMap::new();

/// Whom packets are taken from, IPv4 in mapped form.
#[btf_map]
static DECAP_SOURCES: LpmTrie<[u64; 2], u32, { MOST_SOURCES as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// One entry: the port of GUE, as in a frame.
#[btf_map]
static DECAP_PORT: Array<u32, 1> = Array::new();

/// By [`Counter`] and CPU.
#[btf_map]
static DECAP_COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();

/// Bytes of the fixed headers.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// What of ECN is to be known (RFC 3168, section 5).
const ECN: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Entry: one frame.
#[xdp]
fn lb_decap(ctx: XdpContext) -> u32 {
    match unwrap(&ctx) {
        Ok(None) => xdp_action::XDP_PASS,
        Ok(Some(counter)) => {
            count(counter);
            xdp_action::XDP_PASS
        }
        Err(reason) => {
            count(reason);
            xdp_action::XDP_DROP
        }
    }
}

fn count(counter: Counter) {
    if let Some(value) = DECAP_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's element.
        unsafe { *value += 1 };
    }
}

/// What is around a packet.
struct Outer {
    /// Position of what it carries.
    behind: usize,
    proto: u8,
    source: [u64; 2],
    class: u8,
}

/// Unwraps a packet; `None`: it is none of ours.
#[inline(always)]
fn unwrap(ctx: &XdpContext) -> Result<Option<Counter>, Counter> {
    let frame = Frame::new(ctx);
    let Some((ethertype, l3)) = link::link(frame) else { return Ok(None) };
    let outer = match ethertype {
        IPV4 => outer_v4(frame, l3),
        IPV6 => outer_v6(frame, l3),
        _ => None,
    };
    let Some(mut outer) = outer else { return Ok(None) };
    let mut counter = Counter::Ipip;
    if outer.proto == link::UDP {
        if !frame.holds(outer.behind, UdpHdr::LEN + 1) || !is_gue(outer.behind) {
            return Ok(None);
        }
        outer.behind += UdpHdr::LEN;
        // Variant 1: the packet's own version tells what it is.
        outer.proto = match load::<u8>(outer.behind) >> 4 {
            4 => tunnel::IPV4_IN_IP,
            6 => tunnel::IPV6_IN_IP,
            _ => return Ok(None),
        };
        counter = Counter::Gue;
    }
    let inner = match outer.proto {
        tunnel::IPV4_IN_IP => inner_v4(frame, &outer)?,
        tunnel::IPV6_IN_IP => inner_v6(frame, &outer)?,
        _ => None,
    };
    let Some(ethertype) = inner else { return Ok(None) };
    strip(ctx, frame, l3, outer.behind, ethertype)?;
    Ok(Some(counter))
}

/// An IPv4 header without options, and not of a fragment: others are the kernel's.
#[inline(always)]
fn outer_v4(frame: Frame, l3: usize) -> Option<Outer> {
    if !frame.holds(l3, IPV4_HEADER) || load::<u8>(l3) != 0x45 {
        return None;
    }
    if load::<u16>(l3 + 6) & 0x3fffu16.to_be() != 0 {
        return None;
    }
    Some(Outer {
        behind: l3 + IPV4_HEADER,
        proto: load(l3 + 9),
        source: mapped(load(l3 + 12)),
        class: load(l3 + 1),
    })
}

#[inline(always)]
fn outer_v6(frame: Frame, l3: usize) -> Option<Outer> {
    if !frame.holds(l3, IPV6_HEADER) {
        return None;
    }
    Some(Outer {
        behind: l3 + IPV6_HEADER,
        proto: load(l3 + 6),
        source: [load(l3 + 8), load(l3 + 16)],
        class: (number16(l3) >> 4) as u8,
    })
}

/// An IPv4 address in the form of an IPv6 one (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    let low = u64::from(0xffffu32.to_be()) | u64::from(address) << 32;
    [0, low]
}

#[inline(always)]
fn is_gue(l4: usize) -> bool {
    let port = DECAP_PORT.get(0).copied().unwrap_or_default();
    u32::from(load::<u16>(l4 + 2)) == port
}

/// Whether a packet to this VIP from this source is taken; `None`: to none of ours.
#[inline(always)]
fn admit(outer: &Outer, vip: [u64; 2]) -> Result<bool, Counter> {
    if DECAP_VIPS.get_ptr(vip).is_none() {
        return Ok(false);
    }
    match DECAP_SOURCES.get(&Key::new(128, outer.source)) {
        Some(_) => Ok(true),
        None => Err(Counter::BadSource),
    }
}

/// Makes an IPv4 packet ready to go on: the EtherType of what it is.
#[inline(always)]
fn inner_v4(frame: Frame, outer: &Outer) -> Result<Option<u16>, Counter> {
    let l3 = outer.behind;
    if !frame.holds(l3, IPV4_HEADER) {
        return Err(Counter::Malformed);
    }
    if !admit(outer, mapped(load(l3 + 16)))? {
        return Ok(None);
    }
    if load::<u8>(l3) >> 4 != 4 || usize::from(number16(l3 + 2)) > frame.left(l3) {
        return Err(Counter::Malformed);
    }
    let class: u8 = load(l3 + 1);
    let ecn = combine(class & ECN, outer.class & ECN)?;
    if ecn != class & ECN {
        let old: u16 = load(l3);
        store(l3 + 1, class & !ECN | ecn);
        let delta = csum::delta16(old, load(l3));
        store(l3 + 10, csum::update(load(l3 + 10), delta));
    }
    Ok(Some(IPV4))
}

/// The same of an IPv6 packet.
#[inline(always)]
fn inner_v6(frame: Frame, outer: &Outer) -> Result<Option<u16>, Counter> {
    let l3 = outer.behind;
    if !frame.holds(l3, IPV6_HEADER) {
        return Err(Counter::Malformed);
    }
    if !admit(outer, [load(l3 + 24), load(l3 + 32)])? {
        return Ok(None);
    }
    let length = usize::from(number16(l3 + 4)) + IPV6_HEADER;
    if load::<u8>(l3) >> 4 != 6 || length > frame.left(l3) {
        return Err(Counter::Malformed);
    }
    let second: u8 = load(l3 + 1);
    let class = second >> 4;
    let ecn = combine(class & ECN, outer.class & ECN)?;
    store(l3 + 1, second & !(ECN << 4) | ecn << 4);
    Ok(Some(IPV6))
}

/// What both say of congestion (RFC 6040, section 4.2, figure 4).
#[inline(always)]
fn combine(inner: u8, outer: u8) -> Result<u8, Counter> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(Counter::Congestion),
        (ECT_0, ECT_1) => Ok(ECT_1),
        (ECT_0 | ECT_1, CE) => Ok(CE),
        (inner, _) => Ok(inner),
    }
}

/// Takes away what is between the Ethernet header and the packet at `inner`.
#[inline(always)]
fn strip(
    ctx: &XdpContext,
    frame: Frame,
    l3: usize,
    inner: usize,
    ethertype: u16,
) -> Result<(), Counter> {
    let surplus = inner - l3;
    let tags = l3 - frame.start - 14;
    let at = frame.start + (surplus & 63);
    if !frame.holds(frame.start, link::LONGEST) || !frame.holds(at, link::LONGEST) {
        return Err(Counter::Malformed);
    }
    // Read before it is written over.
    let (macs, rest): (u64, u32) = (load(frame.start), load(frame.start + 8));
    let two_tags: u64 = load(frame.start + 12);
    store(at, macs);
    store(at + 8, rest);
    if tags >= 4 {
        store(at + 12, two_tags as u32);
    }
    if tags >= 8 {
        store(at + 16, (two_tags >> 32) as u32);
    }
    store(inner - 2, ethertype);
    // SAFETY: the context is valid; since Linux 4.10.
    match unsafe { helpers::bpf_xdp_adjust_head(ctx.ctx, (surplus & 63) as i32) } {
        0 => Ok(()),
        _ => Err(Counter::Malformed),
    }
}

/// The kernel decides by this which helpers may be used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier admits no program that could get here.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

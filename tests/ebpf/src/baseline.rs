//! What a balancer's cost is compared with: nothing at all, one lookup and one
//! insertion in the kernel's own LRU hash.

use aya_ebpf::{
    bindings::{BPF_ANY, xdp_action},
    btf_maps::{Array, LruHashMap},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// An IPv4 flow as balancers with a kernel hash key it: 16 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key {
    source: u32,
    destination: u32,
    ports: u32,
    protocol: u32,
}

/// The loader sets its size.
#[btf_map]
static TABLE: LruHashMap<Key, u64, 1> = LruHashMap::new();
/// Lookups that found nothing, insertions that failed: a measurement with any
/// is worthless.
#[btf_map]
static FAILED: Array<u64, 1> = Array::new();

/// Does nothing: what remains is the driver's own cost.
#[xdp]
fn bounce(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// One lookup.
#[xdp]
fn lru_lookup(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else { return xdp_action::XDP_ABORTED };
    if TABLE.get_ptr(key).is_none() {
        failed();
    }
    xdp_action::XDP_TX
}

/// One insertion.
#[xdp]
fn lru_insert(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else { return xdp_action::XDP_ABORTED };
    if TABLE.insert(key, 1, u64::from(BPF_ANY)).is_err() {
        failed();
    }
    xdp_action::XDP_TX
}

#[inline(always)]
fn failed() {
    if let Some(failed) = FAILED.get_ptr_mut(0) {
        // SAFETY: a map entry, and only one CPU runs a measurement.
        unsafe { *failed += 1 };
    }
}

#[inline(always)]
fn key(ctx: &XdpContext) -> Option<Key> {
    let data = ctx.data();
    if data + 38 > ctx.data_end() {
        return None;
    }
    // SAFETY: 38 bytes of frame, checked above. Words of a frame are aligned
    // to 2 bytes, which is enough for the machine.
    unsafe {
        Some(Key {
            source: *((data + 26) as *const u32),
            destination: *((data + 30) as *const u32),
            ports: *((data + 34) as *const u32),
            protocol: u32::from(*((data + 23) as *const u8)),
        })
    }
}

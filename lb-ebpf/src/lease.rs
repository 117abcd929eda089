//! Whether this node may serve an address, see [`lb_common::lease`].
//!
//! Packets *to* the address are asked about. What backends answer, and errors
//! about what they were sent, go on to clients without a lease: they asked while
//! this node served, and until backends know of its successor they answer here.

use core::ptr::read_volatile;

use lb_common::{
    lease,
    service::{Address, Service},
};

use crate::{env, maps::LEASES};

/// Whether packets of a service may be served: it is in no group, or the node
/// has the group's lease.
#[inline(always)]
pub(crate) fn permits(service: &Service) -> bool {
    service.group == 0 || is_held(service.group)
}

/// Whether packets to an address may be. Not on the fast path, so it calls: who
/// asks has no room on the stack for more.
#[inline(always)]
pub(crate) fn permits_address(address: &Address) -> bool {
    address.group == 0 || lb_is_held(address.group.into()) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_is_held(group: u64) -> u64 {
    is_held(group as u16).into()
}

#[inline(always)]
fn is_held(group: u16) -> bool {
    match LEASES.get_ptr(lease::index(group)) {
        // SAFETY: a map element; aligned words are read whole.
        Some(end) => lease::is_valid(unsafe { read_volatile(end) }, env::jiffies()),
        None => false,
    }
}

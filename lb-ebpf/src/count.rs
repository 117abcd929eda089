//! Counters, per CPU, without atomics.

use crate::maps::{BACKEND_STATS, COUNTERS};

/// Counts an event, by the number of a [`lb_common::stats::Counter`].
#[inline(always)]
pub(crate) fn event(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: this CPU's element.
        unsafe { *value += 1 };
    }
}

/// Counts a frame sent to a backend.
#[inline(always)]
pub(crate) fn forwarded(backend: u16, bytes: u64) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: this CPU's element.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += bytes;
        }
    }
}

/// Counts a reply that was rewritten.
#[inline(always)]
pub(crate) fn replied(backend: u16, bytes: u64) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: this CPU's element.
        unsafe {
            (*stats).reply_packets += 1;
            (*stats).reply_bytes += bytes;
        }
    }
}

/// Counts a flow entered into the affinity table.
#[inline(always)]
pub(crate) fn flow(backend: u16) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: this CPU's element.
        unsafe { (*stats).flows += 1 };
    }
}

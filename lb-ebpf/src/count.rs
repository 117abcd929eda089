//! Counters, per CPU, without atomics. Runs that only explain count nothing.

use lb_common::stats::BackendStats;

use crate::{
    env::Env,
    maps::{BACKEND_STATS, COUNTERS},
};

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
pub(crate) fn forwarded(env: &Env, backend: u16, bytes: u64) {
    of_backend(env, backend, |stats| {
        stats.packets += 1;
        stats.bytes += bytes;
    });
}

/// Counts a reply that was rewritten.
#[inline(always)]
pub(crate) fn replied(env: &Env, backend: u16, bytes: u64) {
    of_backend(env, backend, |stats| {
        stats.reply_packets += 1;
        stats.reply_bytes += bytes;
    });
}

/// Counts a flow entered into the affinity table.
#[inline(always)]
pub(crate) fn flow(env: &Env, backend: u16) {
    of_backend(env, backend, |stats| stats.flows += 1);
}

/// The same, where no run explains.
#[inline(always)]
pub(crate) fn entered(backend: u16) {
    update(u32::from(backend), |stats| stats.flows += 1);
}

/// Counts a handshake that took so many microseconds.
#[inline(always)]
pub(crate) fn handshake(backend: u32, took: u32) {
    update(backend, |stats| {
        stats.handshakes += 1;
        stats.handshake_us += u64::from(took);
    });
}

#[inline(always)]
fn of_backend(env: &Env, backend: u16, count: impl FnOnce(&mut BackendStats)) {
    if !env.explains {
        update(u32::from(backend), count);
    }
}

#[inline(always)]
fn update(backend: u32, count: impl FnOnce(&mut BackendStats)) {
    if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend) {
        // SAFETY: this CPU's element.
        count(unsafe { &mut *stats });
    }
}

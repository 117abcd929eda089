//! The log channel of the packet path, for finding faults: off unless the
//! agent loads the program with a level, and then the verifier removes this
//! code, so it costs nothing.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::macro_support::{Level, level_enabled};

use crate::verdict::{Action, Verdict};

/// Logs drops at `info`, everything else at `trace`.
#[inline(always)]
pub(crate) fn verdict(ctx: &XdpContext, verdict: Verdict) {
    if level_enabled(Level::Info) {
        write(ctx, verdict);
    }
}

#[inline(never)]
fn write(ctx: &XdpContext, verdict: Verdict) {
    // SAFETY: the context is valid for the whole run.
    let ingress = unsafe { (*ctx.ctx).ingress_ifindex };
    let value = verdict.value();
    match verdict.action() {
        Action::Drop => {
            aya_log_ebpf::info!(ctx, "interface {}: dropped, reason {}", ingress, value);
        }
        Action::Pass => {
            aya_log_ebpf::trace!(ctx, "interface {}: passed, counter {}", ingress, value);
        }
        Action::Transmit => {
            aya_log_ebpf::trace!(ctx, "interface {}: sent back", ingress);
        }
        Action::FullNat => {
            aya_log_ebpf::trace!(ctx, "interface {}: on in mode fullnat", ingress);
        }
        Action::Redirect => {
            aya_log_ebpf::trace!(ctx, "interface {}: sent by {}", ingress, value);
        }
    }
}

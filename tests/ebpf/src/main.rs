//! The eBPF programs of `cargo xtask bench`.
//!
//! - `drive` writes the frame of the next flow and tail-calls what is
//!   measured, so that one `BPF_PROG_TEST_RUN` with many repetitions is a
//!   stream of packets of many flows;
//! - `baseline` is what the measured program is compared with;
//! - `bare` forwards and does nothing else: the limit of XDP on this device.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bare;
#[cfg(target_arch = "bpf")]
mod baseline;
#[cfg(target_arch = "bpf")]
mod drive;

/// There is nothing to run here; the crate builds so that whatever is done to
/// the whole workspace can be done to it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}

/// Helpers for tail calls and redirection want a licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! IPv6 extension headers (RFC 8200, section 4), walked within a bound.
//!
//! A global function of its own, so that the verifier judges the loop once
//! and not once for every way through the rest of the program.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::stats::Counter;

use crate::{
    packet::{Frame, load, number16},
    parse::{FIRST_FRAGMENT, WHOLE},
};

/// Headers that are walked at most.
const HEADERS: usize = 6;
/// Bytes of extension headers that are walked at most.
const BYTES: usize = 2047;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Whether a next-header value is an extension that is walked.
#[inline(always)]
pub(crate) fn is_extension(proto: u8) -> bool {
    matches!(proto, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// What follows the extension headers.
pub(crate) struct Walked {
    /// Protocol number.
    pub proto: u8,
    /// Bytes of extension headers.
    pub length: usize,
    /// See [`crate::parse::Packet::obstacle`].
    pub obstacle: u32,
}

/// Walks the headers of type `proto` and on, `offset` bytes into the frame.
#[inline(always)]
pub(crate) fn skip(ctx: *mut xdp_md, offset: usize, proto: u8) -> Walked {
    let walked = lb_skip_extensions(ctx, offset as u64, u64::from(proto));
    Walked {
        proto: (walked >> 56) as u8,
        length: (walked >> 32) as usize & BYTES,
        obstacle: walked as u32,
    }
}

/// Protocol in the top byte, length in the upper half, obstacle in the lower half.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_skip_extensions(ctx: *mut xdp_md, offset: u64, proto: u64) -> u64 {
    let frame = Frame::new(&XdpContext::new(ctx));
    let first = frame.start + (offset as usize & 0x7f);
    let mut proto = proto as u8;
    let mut length = 0usize;
    let mut obstacle = WHOLE;
    let mut walked = 0;
    while walked < HEADERS {
        let at = first + (length & BYTES);
        if !is_extension(proto) {
            break;
        }
        if !frame.holds(at, 8) {
            return Counter::Truncated as u64;
        }
        let units = usize::from(load::<u8>(at + 1));
        length += match proto {
            FRAGMENT => {
                let offset_more = number16(at + 2);
                if offset_more & 0xfff8 != 0 {
                    return Counter::Fragment as u64;
                }
                // Neither offset nor more: an atomic fragment, which is a
                // whole packet (RFC 6946).
                if offset_more & 1 != 0 {
                    obstacle = FIRST_FRAGMENT;
                }
                8
            }
            AUTHENTICATION => (units + 2) * 4,
            // Until no segments are left the destination is not the last one.
            ROUTING if load::<u8>(at + 3) != 0 => return Counter::ExtensionHeaders as u64,
            _ => (units + 1) * 8,
        };
        if length > BYTES {
            return Counter::ExtensionHeaders as u64;
        }
        proto = load(at);
        walked += 1;
    }
    if is_extension(proto) {
        return Counter::ExtensionHeaders as u64;
    }
    u64::from(proto) << 56 | (length as u64) << 32 | u64::from(obstacle)
}

//! Tells the agent what packets met.

use lb_common::notice::Notice;

use crate::maps::NOTICES;

/// Tells of an address, given as its words in a frame, see [`Notice`]. If the ring is
/// full there are others to be told of first.
#[inline(always)]
pub(crate) fn tell(words: [u64; 2], v4: bool, ifindex: u32, mtu: u32) {
    let Some(mut slot) = NOTICES.reserve_untyped::<[u64; 3]>(0) else {
        return;
    };
    // IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
    let addr = if v4 { [0, 0xffff_0000 | words[0] << 32] } else { words };
    slot.write([addr[0], addr[1], u64::from(ifindex) | u64::from(mtu) << 32]);
    slot.submit(0);
}

const _: () = assert!(size_of::<Notice>() == 24);

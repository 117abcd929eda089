//! Ethernet and VLAN tags.

use network_types::eth::EthHdr;

use crate::packet::{Frame, load};

/// EtherTypes as they lie in the frame.
pub const IPV4: u16 = 0x0800u16.to_be();
/// See [`IPV4`].
pub const IPV6: u16 = 0x86ddu16.to_be();
/// See [`IPV4`]: a tag of IEEE 802.1Q follows.
pub const VLAN: u16 = 0x8100u16.to_be();
const QINQ: u16 = 0x88a8u16.to_be();

/// Protocol number.
pub const UDP: u8 = 17;

/// Bytes of an Ethernet header with two tags.
pub const LONGEST: usize = EthHdr::LEN + 8;

/// Whether a tag follows this EtherType (IEEE 802.1Q, 802.1ad).
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == VLAN || ethertype == QINQ
}

/// Skips the Ethernet header and up to two VLAN tags (IEEE 802.1Q, 802.1ad):
/// EtherType as it lies in the frame and the position behind. `None`: the
/// frame ends first.
#[inline(always)]
pub fn link(frame: Frame) -> Option<(u16, usize)> {
    let mut l3 = frame.start + EthHdr::LEN;
    if !frame.holds(frame.start, EthHdr::LEN) {
        return None;
    }
    let mut ethertype: u16 = load(l3 - 2);
    if is_tag(ethertype) {
        if !frame.holds(l3, 4) {
            return None;
        }
        ethertype = load(l3 + 2);
        l3 += 4;
        if is_tag(ethertype) {
            if !frame.holds(l3, 4) {
                return None;
            }
            ethertype = load(l3 + 2);
            l3 += 4;
        }
    }
    Some((ethertype, l3))
}

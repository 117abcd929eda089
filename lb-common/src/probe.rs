//! Probes of services in mode `dsr`. The agent connects to the backend's own
//! address and marks its sockets with the service; on the way out the
//! destination becomes the VIP, on the way in the source becomes the backend
//! again. So the backend is asked as clients ask it, and the kernel's routes
//! and neighbours are the backend's.

use crate::pod::map_type;

/// Upper half of `SO_MARK` of the agent's probes for a VIP, `0x6c62` ("lb").
/// The lower half is the service's id.
const MAGIC: u32 = 0x6c62;

/// `SO_MARK` of probes for the VIP of this service.
#[inline(always)]
#[must_use]
pub const fn mark(service: u16) -> u32 {
    MAGIC << 16 | service as u32
}

/// The service for whose VIP a packet with this mark probes; `None`: no such
/// packet.
#[inline(always)]
#[must_use]
pub const fn service(mark: u32) -> Option<u16> {
    if mark >> 16 == MAGIC { Some(mark as u16) } else { None }
}

map_type! {
    /// A flow that probes for a VIP, as its answers lie in the frame: a key of
    /// `PROBES`. Addresses are two words, an IPv4 address is the first.
    pub struct Probed: 40 {
        /// The VIP.
        0 => pub vip: [u64; 2],
        /// The host's own address.
        16 => pub local: [u64; 2],
        /// The VIP's port in the low, the host's in the high half.
        32 => pub ports: u32,
        /// IP protocol number.
        36 => pub proto: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_its_service_and_others_none() {
        for id in [1, 4095, u16::MAX] {
            assert_eq!(service(mark(id)), Some(id));
        }
        for foreign in [0, 1, 0x6c62, 0x6c63_0001, u32::MAX] {
            assert_eq!(service(foreign), None);
        }
    }
}

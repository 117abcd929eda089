//! What packets tell the agent.

use crate::{addr::AddrBytes, pod::map_type};

map_type! {
    /// Something that the agent should know of, or find out.
    pub struct Notice: 24 {
        /// An address.
        0 => pub addr: AddrBytes,
        /// Without an MTU: the kernel does not know the neighbour towards the address,
        /// where a frame was to go that came in by this interface.
        16 => pub ifindex: u32,
        /// Bytes of the longest packet that goes all the way to the backend at the
        /// address, as a router says; or 0.
        20 => pub mtu: u32,
    }
}

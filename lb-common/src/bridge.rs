//! Bridges (IEEE 802.1D) with ports that the data plane is attached to.

use crate::pod::map_type;

map_type! {
    /// Key of `STATIONS`, a hash. What it leads to is an interface's index:
    ///
    /// | key | value |
    /// |---|---|
    /// | a bridge, a station's address | the port that the station is behind |
    /// | a port, no address | its bridge |
    /// | a port, an address that the bridge takes for the host's own | its bridge |
    pub struct Station: 12 {
        /// A bridge, or one of its ports.
        0 => pub ifindex: u32,
        /// An Ethernet address; all zero: none.
        4 => pub mac: [u8; 6],
        10 => pub _pad: [u8; 2],
    }
}

impl Station {
    /// Who has this address, as seen from an interface.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32, mac: [u8; 6]) -> Self {
        Self { ifindex, mac, _pad: [0; 2] }
    }

    /// The key of a port.
    #[inline(always)]
    #[must_use]
    pub const fn port(ifindex: u32) -> Self {
        Self::new(ifindex, [0; 6])
    }
}

//! Fragments: all but the first of a datagram have no ports, so they go where the first
//! one went.

use crate::pod::map_type;

map_type! {
    /// A datagram that comes in fragments (RFC 791, section 3.2; RFC 8200, section 4.5):
    /// the key of `COURSES`. Everything as it lies in a frame; addresses are two words,
    /// an IPv4 address is the first.
    pub struct Datagram: 40 {
        0 => pub source: [u64; 2],
        16 => pub destination: [u64; 2],
        32 => pub identification: u32,
        /// IP protocol number, as the first header of the datagram says.
        36 => pub proto: u32,
    }
}

map_type! {
    /// Where the first fragment of a datagram went.
    pub struct Course: 24 {
        /// Its ports, as [`crate::hash::ports`] puts them.
        0 => pub ports: u32,
        /// The backend that it went to, or came from.
        4 => pub backend: u16,
        /// That backend's service.
        6 => pub service: u16,
        /// The data plane's second.
        8 => pub second: u16,
        /// Bytes of the datagram that were in it, in units of 8.
        10 => pub covered: u16,
        /// One of [`direction`].
        12 => pub direction: u32,
        /// In mode `fullnat`: index of the flow's entry, see [`crate::binding::index`].
        16 => pub binding: u32,
        /// In mode `fullnat`, towards a backend: the datagram's identification there (host
        /// byte order; IPv4 has the lower half).
        20 => pub identification: u32,
    }
}

/// Values of [`Course::direction`].
pub mod direction {
    /// From a client.
    pub const REQUEST: u32 = 0;
    /// From a backend in mode `nat`.
    pub const REPLY: u32 = 1;
    /// Of a flow in mode `fullnat`, from either side.
    pub const BOUND: u32 = 2;
}

/// For how many seconds the rest of a datagram may follow, begun ones included. Hosts
/// wait longer for it (RFC 1122, section 3.3.2: a minute), but a sender that is fast comes
/// to use an identification again within seconds.
pub const SECONDS: u16 = 3;

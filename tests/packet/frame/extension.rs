//! Extension headers of IPv6.

/// An IPv6 extension header: its protocol number and all its bytes but the
/// first, which names the header that follows.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) kind: u8,
    pub(crate) rest: Vec<u8>,
}

impl Extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const DESTINATION: u8 = 60;

    /// Options of 8 x (`units` + 1) bytes, all padding (RFC 8200, section 4.2).
    pub(crate) fn options(kind: u8, units: u8) -> Self {
        let padding = 8 * (usize::from(units) + 1) - 2;
        let mut rest = vec![units];
        // PadN holds 255 bytes at most.
        let mut left = padding;
        while left > 0 {
            let length = left.min(257);
            let length = if left - length == 1 { length - 1 } else { length };
            rest.extend([1, (length - 2) as u8]);
            rest.extend(vec![0; length - 2]);
            left -= length;
        }
        Self { kind, rest }
    }

    /// A routing header with no segments left (RFC 8200, section 4.4).
    pub(crate) fn routing() -> Self {
        Self { kind: Self::ROUTING, rest: [[2, 2, 0].to_vec(), vec![0; 20]].concat() }
    }

    /// An authentication header, 24 bytes (RFC 4302, section 2.2).
    pub(crate) fn authentication() -> Self {
        Self { kind: 51, rest: [[4].to_vec(), vec![7; 22]].concat() }
    }

    /// A fragment header (RFC 8200, section 4.5), its offset in units of 8 bytes.
    pub(crate) fn fragment(offset: u16, more: bool) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        Self { kind: 44, rest: vec![0, high, low, 9, 8, 7, 6] }
    }
}

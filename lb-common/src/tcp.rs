//! TCP flags (RFC 9293, section 3.1), byte 13 of the header.

/// No more data from the sender.
pub const FIN: u8 = 1;
/// First packet of a connection, from either side.
pub const SYN: u8 = 1 << 1;
/// Reset.
pub const RST: u8 = 1 << 2;
/// The acknowledgement number is valid.
pub const ACK: u8 = 1 << 4;

/// Whether these flags open a connection: SYN without ACK.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// Whether these flags accept a connection: SYN and ACK, and no change of mind.
#[inline(always)]
#[must_use]
pub const fn accepts(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN | ACK
}

/// Whether these flags end a connection.
#[inline(always)]
#[must_use]
pub const fn closes(flags: u8) -> bool {
    flags & (FIN | RST) != 0
}

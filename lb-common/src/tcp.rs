//! TCP flags (RFC 9293, section 3.1), byte 13 of the header.

/// No more data from the sender.
pub const FIN: u8 = 1;
/// First packet of a connection, from either side.
pub const SYN: u8 = 1 << 1;
/// Reset.
pub const RST: u8 = 1 << 2;
/// The acknowledgement number is valid.
pub const ACK: u8 = 1 << 4;

/// Flags that tell where in a connection a segment belongs.
const CONTROL: u8 = FIN | SYN | RST | ACK;

/// Whether these flags are those of any segment within a connection, which neither
/// begins nor ends it.
#[inline(always)]
#[must_use]
pub const fn is_plain(flags: u8) -> bool {
    flags & CONTROL == ACK
}

/// What [`CONTROL`] can be, a bit for each: every segment but the first one and a
/// reset acknowledges (RFC 9293, sections 3.1 and 3.10.7.4), a reset acknowledges or
/// not (section 3.5.2), and no segment does two of beginning, ending and resetting.
const POSSIBLE: u32 =
    1 << ACK | 1 << SYN | 1 << (SYN | ACK) | 1 << (FIN | ACK) | 1 << RST | 1 << (RST | ACK);

/// Whether a stack sends these flags together.
#[inline(always)]
#[must_use]
pub const fn is_possible(flags: u8) -> bool {
    POSSIBLE >> (flags & CONTROL) & 1 != 0
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const PSH: u8 = 1 << 3;
    const URG: u8 = 1 << 5;

    #[test]
    fn what_stacks_send_is_possible_whatever_they_push() {
        for others in [0, PSH, URG, PSH | URG, 1 << 6, 1 << 7, 3 << 6] {
            for flags in [ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK] {
                assert!(is_possible(flags | others), "{flags:#x} {others:#x}");
            }
        }
    }

    #[test]
    fn what_scanners_send_is_not() {
        let christmas_tree = FIN | PSH | URG;
        for flags in [
            0,
            PSH,
            URG,
            FIN,
            christmas_tree,
            0xff,
            SYN | FIN,
            SYN | FIN | ACK,
            SYN | RST,
            SYN | RST | ACK,
            FIN | RST,
            FIN | RST | ACK,
        ] {
            assert!(!is_possible(flags), "{flags:#x}");
        }
    }

    #[test]
    fn a_plain_segment_is_possible_and_neither_begins_nor_ends() {
        for flags in (0..=255).filter(|&flags| is_plain(flags)) {
            assert!(is_possible(flags) && !opens(flags) && !closes(flags) && !accepts(flags));
        }
        assert!(is_plain(ACK | PSH | URG) && !is_plain(0));
    }
}

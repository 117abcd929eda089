//! Leases: until when this node may serve the addresses of a group of a pair.
//!
//! `LEASES` has, by position of the group, the tick of the kernel (`jiffies64`)
//! at which its lease ends, 0 where there is none. The agent renews it, packets
//! compare. So a node whose agent stopped, froze or lost its peer stops serving
//! by itself. Who is in no group needs no lease.

/// What entries have for the group at a position, below
/// [`crate::limits::GROUPS`]; who is in no group has 0.
#[must_use]
pub const fn group(position: usize) -> u16 {
    position as u16 + 1
}

/// Index in `LEASES` of a group, as [`group`] gives it.
#[inline(always)]
#[must_use]
pub const fn index(group: u16) -> u32 {
    (group as u32).wrapping_sub(1)
}

/// Whether a lease with this end is valid at a tick.
#[inline(always)]
#[must_use]
pub const fn is_valid(end: u64, now: u64) -> bool {
    now < end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn every_group_has_an_entry_and_nobody_else() {
        for position in 0..limits::GROUPS {
            assert_ne!(group(position as usize), 0);
            assert_eq!(index(group(position as usize)), position);
        }
        assert!(index(0) >= limits::GROUPS);
    }

    #[test]
    fn a_lease_is_over_at_its_end() {
        assert!(is_valid(8, 7) && !is_valid(8, 8) && !is_valid(0, 0));
    }
}

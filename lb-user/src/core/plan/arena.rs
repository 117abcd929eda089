//! Where Maglev tables lie in `TABLES`: first fit among the lines that no
//! table of the generation in force uses. Line 0 stays empty: there is where
//! a service without a table points.

use std::ops::Range;

use lb_common::{
    limits::TABLE_LINES,
    table::{self, TableRef},
};

/// Lines of `TABLES` in use, as disjoint ranges in ascending order.
#[derive(Clone, Debug)]
pub struct Arena {
    used: Vec<Range<u32>>,
    lines: u32,
}

impl Arena {
    /// An arena of all of `TABLES` in which these tables are taken; the same
    /// table may be named more than once.
    #[must_use]
    pub fn new(used: impl IntoIterator<Item = TableRef>) -> Self {
        Self::with_lines(TABLE_LINES, used)
    }

    fn with_lines(lines: u32, used: impl IntoIterator<Item = TableRef>) -> Self {
        let mut used: Vec<_> = used
            .into_iter()
            .map(|table| table.first()..table.first() + table::lines(table.size()))
            .collect();
        used.sort_by_key(|range| (range.start, range.end));
        used.dedup();
        Self { used, lines }
    }

    /// Takes lines for a table of `slots` slots; the first line, or `None`
    /// where no gap is long enough.
    pub fn take(&mut self, slots: u32) -> Option<u32> {
        let length = table::lines(slots);
        let mut start = 1;
        let mut at = self.used.len();
        for (i, range) in self.used.iter().enumerate() {
            if range.start.saturating_sub(start) >= length {
                at = i;
                break;
            }
            start = start.max(range.end);
        }
        if at == self.used.len() && self.lines.saturating_sub(start) < length {
            return None;
        }
        self.used.insert(at, start..start + length);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(first: u32, slots: u32) -> TableRef {
        TableRef::new(first, slots, 1)
    }

    proptest! {
        #[test]
        fn tables_never_overlap(sizes in proptest::collection::vec(1u32..2000, 1..40)) {
            let mut arena = Arena::with_lines(500, [at(3, 320), at(3, 320), at(100, 33)]);
            for slots in sizes {
                if let Some(first) = arena.take(slots) {
                    prop_assert!(first + table::lines(slots) <= 500);
                }
            }
            prop_assert!(arena.used.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }

    #[test]
    fn gaps_are_filled_first() {
        let mut arena = Arena::with_lines(100, [at(0, 32), at(11, 32)]);
        assert_eq!(arena.take(32 * 10), Some(1));
        assert_eq!(arena.take(32), Some(12));
    }

    #[test]
    fn a_full_arena_says_so() {
        let mut arena = Arena::with_lines(10, [at(1, 32 * 8)]);
        assert_eq!(arena.take(64), None);
        assert_eq!(arena.take(32), Some(9));
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn every_service_can_have_a_small_table() {
        let mut arena = Arena::new([]);
        assert!((1..lb_common::limits::SERVICES).all(|_| arena.take(4093).is_some()));
    }
}

//! Connections that SYN cookies opened, beside the packets that use them: releases entries
//! whose time is up, and enters what the peer of a pair tells. See
//! [`lb_common::synproxy`].

use std::{
    mem::offset_of,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    flow::SLOTS,
    hash::Place,
    synproxy::{Bucket, Proxied},
};

use super::{flows::Entered, mmap::Mapped};

impl Mapped<Bucket> {
    fn words(&self, bucket: u32, slot: usize) -> (&AtomicU64, &AtomicU64) {
        let at = slot * size_of::<u64>();
        let key = self.word64(bucket, offset_of!(Bucket, keys) + at);
        (key, self.word64(bucket, offset_of!(Bucket, values) + at))
    }

    /// The entries of a bucket, keys and values; the time of some may be up.
    pub fn entries_of(&self, bucket: u32) -> impl Iterator<Item = (u64, Proxied)> + use<> {
        let bucket = self.read(bucket);
        let entries = bucket.keys.into_iter().zip(bucket.values.map(Proxied));
        entries.filter(|(key, value)| *key != 0 && value.0 != 0)
    }

    /// Whether any entry is somebody's; some may be over.
    #[must_use]
    pub fn has_any(&self) -> bool {
        (0..self.entries()).any(|bucket| self.read(bucket).values != [0; SLOTS])
    }

    /// The live entry of a connection; `place` is its key's in this table.
    #[must_use]
    pub fn find(&self, key: u64, place: &Place, now: u16) -> Option<Proxied> {
        let entries = [place.primary, place.alternate].into_iter();
        let mut entries = entries.flat_map(|bucket| self.entries_of(bucket));
        let found = entries.find(|(owner, value)| *owner == key && value.left(now) >= 0);
        found.map(|(_, value)| value)
    }

    /// Releases entries whose time is up: how many. Packets treat them as free anyway, but
    /// their clock wraps after 18 hours.
    pub fn sweep(&self, buckets: Range<u32>, now: u16) -> u32 {
        self.release(buckets, |_, value| value.left(now) < 0)
    }

    /// Releases entries that are `spent` by their number and value: how many. One that
    /// changes at the same moment is left alone. Entries are numbered through all buckets.
    pub fn release(&self, buckets: Range<u32>, spent: impl Fn(u32, Proxied) -> bool) -> u32 {
        let mut released = 0;
        for bucket in buckets {
            for slot in 0..SLOTS {
                // The key stays: without a value it is nobody's.
                let (_, word) = self.words(bucket, slot);
                let value = word.load(Ordering::Acquire);
                let number = bucket * SLOTS as u32 + slot as u32;
                if value == 0 || !spent(number, Proxied(value)) {
                    continue;
                }
                let release = word.compare_exchange(value, 0, Ordering::AcqRel, Ordering::Relaxed);
                released += u32::from(release.is_ok());
            }
        }
        released
    }

    /// Enters a connection that the peer has, by the protocol of packets and beside them:
    /// what became of it, and the number of its entry. What lives here stays, unless this
    /// node `yields`. `place` is the key's in this table.
    pub fn enter_connection(
        &self,
        key: u64,
        new: Proxied,
        place: &Place,
        now: u16,
        yields: bool,
    ) -> (Entered, Option<u32>) {
        let slots = [place.primary, place.alternate]
            .into_iter()
            .flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
        let swap = |word: &AtomicU64, old, new| {
            word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let number = |(bucket, slot): (u32, usize)| bucket * SLOTS as u32 + slot as u32;
        let is_live = |value: u64| value != 0 && Proxied(value).left(now) >= 0;
        for at in slots.clone() {
            let (owner, word) = self.words(at.0, at.1);
            if owner.load(Ordering::Acquire) != key {
                continue;
            }
            let old = word.load(Ordering::Acquire);
            if is_live(old) && !yields {
                return (Entered::Known, Some(number(at)));
            }
            // Who loses against a packet has heard of something older.
            swap(word, old, new.0);
            let entered = if is_live(old) { Entered::Known } else { Entered::New };
            return (entered, Some(number(at)));
        }
        for at in slots {
            let (owner, word) = self.words(at.0, at.1);
            let (there, old) = (owner.load(Ordering::Acquire), word.load(Ordering::Acquire));
            if (there != 0 && is_live(old)) || !swap(owner, there, key) {
                continue;
            }
            if swap(word, old, new.0) {
                // Unless a packet has taken the key meanwhile.
                if owner.load(Ordering::Acquire) == key {
                    return (Entered::New, Some(number(at)));
                }
                swap(word, new.0, 0);
                continue;
            }
            swap(owner, key, 0);
        }
        (Entered::NoRoom, None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lb_common::{hash::place, synproxy::Stage};
    use proptest::prelude::*;

    use super::*;

    const NOW: u16 = 9;

    fn table(buckets: u32) -> Mapped<Bucket> {
        Mapped::anonymous(buckets).unwrap()
    }

    fn entry(number: u32, left: i16) -> Proxied {
        let expires = NOW.wrapping_add_signed(left);
        Proxied::opening(7, 7, 3, expires).opened(number, 7, expires)
    }

    fn all(table: &Mapped<Bucket>) -> HashMap<u64, Proxied> {
        (0..table.entries()).flat_map(|bucket| live_in(table, bucket, NOW)).collect()
    }

    fn live_in(table: &Mapped<Bucket>, bucket: u32, now: u16) -> Vec<(u64, Proxied)> {
        table.entries_of(bucket).filter(|(_, value)| value.left(now) >= 0).collect()
    }

    proptest! {
        /// Who stands by has at last what it was told last, of as many as there is room for.
        #[test]
        fn who_yields_has_what_it_was_told_last(
            told in prop::collection::vec((1_u64..40, any::<u32>(), -2_i16..3), 1..80),
        ) {
            let (table, mut expected) = (table(8), HashMap::new());
            for (key, number, left) in told {
                let at = place(key, [3, 5], 7);
                let value = entry(number, left);
                let (entered, number) = table.enter_connection(key, value, &at, NOW, true);
                if entered == Entered::NoRoom {
                    prop_assert!(number.is_none());
                    let full = [at.primary, at.alternate];
                    let live = full.map(|bucket| live_in(&table, bucket, NOW).len());
                    prop_assert_eq!(live, [SLOTS; 2]);
                } else if left >= 0 {
                    expected.insert(key, value);
                } else {
                    expected.remove(&key);
                }
                prop_assert_eq!(&all(&table), &expected);
            }
            // What is over is nobody's, and stays so when the clock has wrapped.
            table.sweep(0..8, NOW);
            let later = NOW.wrapping_sub(2);
            let left = (0..8).flat_map(|bucket| live_in(&table, bucket, later)).count();
            prop_assert_eq!(left, expected.len());
        }
    }

    #[test]
    fn who_serves_keeps_its_own() {
        let table = table(2);
        let at = place(5, [3, 5], 1);
        assert_eq!(table.enter_connection(5, entry(1, 9), &at, NOW, false).0, Entered::New);
        assert_eq!(table.enter_connection(5, entry(2, 9), &at, NOW, false).0, Entered::Known);
        assert_eq!(all(&table)[&5], entry(1, 9));
        assert_eq!(table.find(5, &at, NOW), Some(entry(1, 9)));
        assert_eq!((table.find(5, &at, NOW + 10), table.find(6, &at, NOW)), (None, None));
        assert_eq!(table.enter_connection(5, entry(2, 9), &at, NOW, true).0, Entered::Known);
        assert_eq!(all(&table)[&5], entry(2, 9));
    }

    #[test]
    fn what_is_spent_is_released() {
        let table = table(2);
        let number = |key| {
            let at = place(key, [3, 5], 1);
            table.enter_connection(key, entry(key as u32, 9), &at, NOW, true).1.unwrap()
        };
        let numbers: Vec<_> = (1..5).map(number).collect();
        let released = table.release(0..2, |number, value| {
            assert_eq!(value.stage(), Stage::Open as u8);
            number == numbers[1] || number == numbers[2]
        });
        assert_eq!(released, 2);
        let mut left: Vec<_> = all(&table).into_keys().collect();
        left.sort_unstable();
        assert_eq!(left, [1, 4]);
    }
}

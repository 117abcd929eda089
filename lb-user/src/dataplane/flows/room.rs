//! Makes room where established flows have all slots that a flow may have: one of them
//! moves to its other bucket. The packet path never does that, and leaves such a flow
//! unrecorded; but the peer of a pair is to have every flow that was recorded there, in
//! whatever order it hears of them.

use std::sync::atomic::Ordering;

use lb_common::{
    flow::{Bucket, FlowValue, Room, SLOTS},
    hash::Place,
};

use super::{Mapped, replace};

/// An entry that has another slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its key.
    pub key: u64,
    /// The bucket where it is.
    pub bucket: u32,
}

impl Mapped<Bucket> {
    /// Frees one of the slots of `place`; `None` where that takes more than one move.
    /// `placed` tells where a key belongs, `now` is the data plane's second.
    pub fn make_room(
        &self,
        place: &Place,
        now: u16,
        placed: impl Fn(u64) -> Place,
    ) -> Option<Moved> {
        let buckets = [place.primary, place.alternate].into_iter();
        let mut slots = buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
        slots.find_map(|(bucket, slot)| self.move_away(bucket, slot, now, &placed))
    }

    /// Moves an entry from its primary bucket to the alternate. Packets look for it in
    /// this order: so they find it, whenever they look. Not so the other way.
    fn move_away(
        &self,
        bucket: u32,
        slot: usize,
        now: u16,
        placed: impl Fn(u64) -> Place,
    ) -> Option<Moved> {
        let (owner, value) = self.slot(bucket, slot);
        let key = owner.load(Ordering::Acquire);
        let flow = FlowValue(value.load(Ordering::Acquire));
        let place = placed(key);
        // Another tag: a packet is about to claim the slot.
        if key == 0 || place.primary != bucket || place.tag != flow.tag() {
            return None;
        }
        let seen = self.read(place.alternate);
        let free = Room::of(&seen.keys, &seen.values, now).free;
        let to = (0..SLOTS).find(|to| free >> to & 1 != 0)?;
        self.claim((place.alternate, to), &seen, key, flow)?;
        replace(owner, key, 0)?;
        // What a packet wrote meanwhile is true of the flow.
        let late = FlowValue(value.load(Ordering::Acquire));
        if late.tag() == place.tag {
            let _ = replace(self.slot(place.alternate, to).1, flow.0, late.0);
        }
        Some(Moved { key, bucket: place.alternate })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicBool, AtomicU64},
        thread,
    };

    use lb_common::{
        flow::FlowState,
        hash::{self, place},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::flows::Entered;

    const SEED: [u64; 2] = [3, 5];
    const NOW: u16 = 7;

    /// A table of established flows.
    struct Table {
        flows: Mapped<Bucket>,
        mask: u32,
    }

    impl Table {
        fn new(buckets: u32) -> Self {
            Self { flows: Mapped::anonymous(buckets).unwrap(), mask: buckets - 1 }
        }

        fn placed(&self, key: u64) -> Place {
            place(key, SEED, self.mask)
        }

        fn value(&self, key: u64) -> FlowValue {
            let backend = (key % 60_000) as u16;
            FlowValue::new(backend, self.placed(key).tag, FlowState::Established, NOW + 9)
        }

        /// Enters a flow, if need be where another one makes room.
        fn enter(&self, key: u64) -> (Entered, Option<Moved>) {
            let at = self.placed(key);
            let enter = || self.flows.enter(key, self.value(key), &at, NOW, true);
            match enter() {
                Entered::NoRoom => {
                    let moved = self.flows.make_room(&at, NOW, |key| self.placed(key));
                    (moved.map_or(Entered::NoRoom, |_| enter()), moved)
                }
                entered => (entered, None),
            }
        }

        /// What packets find of a key.
        fn found(&self, key: u64) -> Option<FlowValue> {
            let at = self.placed(key);
            let slot = self.flows.find(key, &at)?;
            let (_, value) = self.flows.slot(slot / SLOTS as u32, slot as usize % SLOTS);
            Some(FlowValue(value.load(Ordering::Acquire))).filter(|flow| flow.tag() == at.tag)
        }
    }

    proptest! {
        #[test]
        fn who_makes_room_is_found_elsewhere_and_nothing_else_changes(
            keys in prop::collection::btree_set(1u64..10_000, 1..80)
        ) {
            let table = Table::new(16);
            let mut entered = BTreeMap::new();
            for key in keys {
                let (became, moved) = table.enter(key);
                if became == Entered::New {
                    entered.insert(key, table.value(key));
                } else {
                    prop_assert_eq!((became, moved), (Entered::NoRoom, None));
                }
                if let Some(Moved { key, bucket }) = moved {
                    prop_assert_eq!(table.placed(key).alternate, bucket);
                    prop_assert!(table.flows.read(bucket).keys.contains(&key));
                }
                let now: BTreeMap<_, _> =
                    table.flows.live(NOW).map(|entry| (entry.key, entry.value)).collect();
                prop_assert_eq!(&now, &entered);
                prop_assert_eq!(table.flows.live(NOW).count(), entered.len());
                prop_assert!(entered.iter().all(|(key, flow)| table.found(*key) == Some(*flow)));
            }
        }
    }

    #[test]
    fn twice_the_flows_that_a_table_is_rated_for_all_have_room() {
        let rated = 1 << 14;
        let table = Table::new(rated);
        let keys = (1..=2 * rated).map(|flow| hash::flow_key_v4(flow, 7, 9));
        let results: Vec<_> = keys.map(|key| table.enter(key)).collect();
        assert!(results.iter().all(|(entered, _)| *entered == Entered::New));
        assert!(results.iter().any(|(_, moved)| moved.is_some()));
    }

    #[test]
    fn packets_find_a_flow_while_it_moves() {
        let table = Table::new(64);
        let key = 77;
        assert_eq!(table.enter(key).0, Entered::New);
        let (ends, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    assert_eq!(table.found(key), Some(table.value(key)));
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            let at = table.placed(key);
            for _ in 0..5_000 {
                let seen = looks.load(Ordering::Relaxed);
                let moved = table.flows.move_away(at.primary, 0, NOW, |key| table.placed(key));
                assert_eq!(moved, Some(Moved { key, bucket: at.alternate }));
                while looks.load(Ordering::Relaxed) == seen && !ends.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                // Back, which packets are not to be looking at: the copy first.
                let (owner, value) = table.flows.slot(at.primary, 0);
                value.store(table.value(key).0, Ordering::Release);
                owner.store(key, Ordering::Release);
                let (owner, _) = table.flows.slot(at.alternate, 0);
                let seen = looks.load(Ordering::Relaxed);
                while looks.load(Ordering::Relaxed) < seen + 2 {
                    thread::yield_now();
                }
                owner.store(0, Ordering::Release);
            }
            ends.store(true, Ordering::Relaxed);
        });
    }
}

//! Makes room where established flows have all slots that a flow may have: one of them
//! moves to its other bucket. The packet path never does that, and leaves such a flow
//! unrecorded; but the peer of a pair is to have every flow that was recorded there, in
//! whatever order it hears of them.
//!
//! An entry moves from its primary bucket to the alternate, since packets look for it in
//! this order. It is copied, then all packets are waited for that are being handled: one
//! of them may have found the copy's slot free, and take it. Only if none has does the
//! entry give its slot up.

use std::{io, sync::atomic::Ordering};

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

/// An entry that is in both buckets of its key.
struct Copied {
    key: u64,
    flow: FlowValue,
    place: Place,
    /// Its slot in the primary bucket, and in the alternate.
    slots: [usize; 2],
}

/// Waits until the packets are done that are being handled now.
///
/// # Errors
/// The kernel does not (with `nohz_full`).
pub fn wait_for_packets() -> io::Result<()> {
    // membarrier(2). The kernel waits for a grace period of RCU (`sys_membarrier` of
    // kernel/sched/membarrier.c), and XDP programs run in read sections of it.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers only.
    let refused = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0;
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Mapped<Bucket> {
    /// Frees a slot of each of these places where that takes one move. `placed` tells
    /// where a key belongs, `now` is the data plane's second, `grace` waits for all packets
    /// that are being handled.
    ///
    /// # Errors
    /// What `grace` says; nothing has moved.
    pub fn make_room(
        &self,
        places: impl Iterator<Item = Place>,
        now: u16,
        placed: impl Fn(u64) -> Place,
        grace: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Vec<Moved>> {
        let copies: Vec<_> = places.filter_map(|at| self.copy_one(&at, now, &placed)).collect();
        if copies.is_empty() {
            return Ok(Vec::new());
        }
        let waited = grace();
        if waited.is_err() {
            copies.iter().for_each(|copy| self.drop_copy(copy));
        }
        waited.map(|()| copies.into_iter().filter_map(|copy| self.give_up(&copy)).collect())
    }

    /// Copies one of the entries in the buckets of a place.
    fn copy_one(&self, at: &Place, now: u16, placed: impl Fn(u64) -> Place) -> Option<Copied> {
        let buckets = [at.primary, at.alternate].into_iter();
        let mut slots = buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
        slots.find_map(|(bucket, slot)| self.copy((bucket, slot), now, &placed))
    }

    fn copy(
        &self,
        (bucket, slot): (u32, usize),
        now: u16,
        placed: impl Fn(u64) -> Place,
    ) -> Option<Copied> {
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
        if seen.keys.contains(&key) {
            return None;
        }
        self.claim((place.alternate, to), &seen, key, flow)?;
        Some(Copied { key, flow, place, slots: [slot, to] })
    }

    fn drop_copy(&self, &Copied { key, place, slots: [_, to], .. }: &Copied) {
        // A packet may have taken it.
        let _ = replace(self.slot(place.alternate, to).0, key, 0);
    }

    /// Clears an entry that has a copy, if that still stands.
    fn give_up(&self, copied: &Copied) -> Option<Moved> {
        let Copied { key, flow, place, slots: [from, to] } = *copied;
        let (copy_owner, copy) = self.slot(place.alternate, to);
        let is_whole = FlowValue(copy.load(Ordering::Acquire)).tag() == place.tag;
        if copy_owner.load(Ordering::Acquire) != key || !is_whole {
            self.drop_copy(copied);
            return None;
        }
        let (owner, value) = self.slot(place.primary, from);
        // What packets wrote meanwhile is true of the flow.
        let late = FlowValue(value.load(Ordering::Acquire));
        if late.tag() == place.tag {
            let _ = replace(copy, flow.0, late.0);
        }
        // Another key has it by now if the flow was over.
        let _ = replace(owner, key, 0);
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
                    let moved = self.make_room(at, || Ok(())).unwrap().pop();
                    (moved.map_or(Entered::NoRoom, |_| enter()), moved)
                }
                entered => (entered, None),
            }
        }

        fn make_room(
            &self,
            at: Place,
            grace: impl FnOnce() -> io::Result<()>,
        ) -> io::Result<Vec<Moved>> {
            self.flows.make_room([at].into_iter(), NOW, |key| self.placed(key), grace)
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

    /// A table with one flow in the first slot of its primary bucket, and its key.
    fn of_one() -> (Table, u64) {
        let table = Table::new(64);
        assert_eq!(table.enter(KEY), (Entered::New, None));
        (table, KEY)
    }

    const KEY: u64 = 77;

    #[test]
    fn packets_find_a_flow_while_it_moves() {
        let (table, key) = of_one();
        let (ends, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    assert_eq!(table.found(key), Some(table.value(key)));
                    looks.fetch_add(1, Ordering::Release);
                }
            });
            // Until the look that goes on is over, and one more.
            let grace = || {
                let until = looks.load(Ordering::Acquire) + 2;
                while looks.load(Ordering::Acquire) < until {
                    thread::yield_now();
                }
                Ok(())
            };
            let at = table.placed(key);
            for _ in 0..5_000 {
                let moved = table.make_room(at, grace).unwrap();
                assert_eq!(moved, [Moved { key, bucket: at.alternate }]);
                // Back again, the copy first.
                let (owner, value) = table.flows.slot(at.primary, 0);
                value.store(table.value(key).0, Ordering::Release);
                owner.store(key, Ordering::Release);
                grace().unwrap();
                table.flows.slot(at.alternate, 0).0.store(0, Ordering::Release);
            }
            ends.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_flow_stays_where_a_packet_takes_the_slot_that_it_was_to_have() {
        let (table, key) = of_one();
        let (at, other) = (table.placed(key), 1_234);
        let claims = || {
            // It had looked before: it compares nothing.
            let (owner, value) = table.flows.slot(at.alternate, 0);
            assert_eq!(owner.load(Ordering::Relaxed), key);
            owner.store(other, Ordering::Release);
            value.store(table.value(other).0, Ordering::Release);
            Ok(())
        };
        assert_eq!(table.make_room(at, claims).unwrap(), []);
        assert_eq!(table.found(key), Some(table.value(key)));
        assert_eq!(table.flows.read(at.alternate).keys[0], other);
    }

    #[test]
    fn what_a_packet_says_of_a_flow_meanwhile_moves_with_it() {
        let (table, key) = of_one();
        let at = table.placed(key);
        let closing = table.value(key).touched(NOW + 2, FlowState::Closing as u8);
        let touches = || {
            table.flows.slot(at.primary, 0).1.store(closing.0, Ordering::Release);
            Ok(())
        };
        assert_eq!(table.make_room(at, touches).unwrap().len(), 1);
        assert_eq!(table.found(key), Some(closing));
    }

    #[test]
    fn the_kernel_waits_for_packets() {
        wait_for_packets().unwrap();
    }

    #[test]
    fn nothing_moves_where_packets_cannot_be_waited_for() {
        let (table, key) = of_one();
        let before = table.flows.read(table.placed(key).primary);
        let fails = || Err(io::ErrorKind::Unsupported.into());
        assert!(table.make_room(table.placed(key), fails).is_err());
        assert_eq!(table.flows.read(table.placed(key).primary), before);
        assert_eq!(table.flows.live(NOW).count(), 1);
    }
}

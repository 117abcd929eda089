//! Reads and clears the affinity table, beside the packets that use it.

mod room;

use std::{
    mem::offset_of,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{
    flow::{Bucket, FlowValue, Room, SLOTS},
    hash::{self, Place},
    limits,
};

pub use self::room::{Moved, wait_for_packets};
use super::mmap::Mapped;
use crate::core::plan::{BackendId, ServiceId, Snapshot, ids::present_backends};

/// An entry of the affinity table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`lb_common::hash::flow_key_v4`] or a hash.
    pub key: u64,
    /// Its value.
    pub value: FlowValue,
}

/// What became of a flow that was to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It had no entry.
    New,
    /// It had another backend, or none any more.
    Moved,
    /// It had that backend.
    Known,
    /// Other established flows have all its slots.
    NoRoom,
}

/// What the keys of entries are, by their backends.
#[derive(Debug)]
pub struct Keys {
    /// By backend id: the service that its flows' keys name; 0: they are hashes.
    exact: Vec<ServiceId>,
}

impl Keys {
    /// Of the backends of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut exact = vec![0; limits::BACKENDS as usize];
        for (who, id) in present_backends(snapshot) {
            if who.service.has_exact_keys() {
                exact[usize::from(id)] = snapshot.backends[&id].service;
            }
        }
        Self { exact }
    }

    /// Whether the keys of a backend's flows are [`hash::flow_key_v4`].
    #[must_use]
    pub fn are_exact(&self, backend: BackendId) -> bool {
        self.exact.get(usize::from(backend)).is_some_and(|&service| service != 0)
    }

    /// Whether an entry is a flow's. Where services share a backend's port,
    /// there are others, for replies: see [`hash::reply_key`]. (One in 65,536
    /// of them looks like a flow of IPv4.)
    #[must_use]
    pub fn is_flow(&self, entry: &Entry) -> bool {
        match self.exact.get(usize::from(entry.value.backend())) {
            Some(&service) if service != 0 => entry.key >> 48 == u64::from(service),
            _ => !hash::is_reply_key(entry.key),
        }
    }
}

impl Mapped<Bucket> {
    /// All entries whose time is not up at `now`.
    pub fn live(&self, now: u16) -> impl Iterator<Item = Entry> + '_ {
        (0..self.entries()).flat_map(move |bucket| self.live_in(bucket, now))
    }

    /// Those in one bucket.
    pub fn live_in(&self, bucket: u32, now: u16) -> impl Iterator<Item = Entry> + use<> {
        let bucket = self.read(bucket);
        let entries = bucket.keys.into_iter().zip(bucket.values);
        entries
            .map(|(key, value)| Entry { key, value: FlowValue(value) })
            .filter(move |entry| entry.key != 0 && entry.value.left(now) >= 0)
    }

    /// Live flows by backend id.
    #[must_use]
    pub fn count(&self, now: u16, keys: &Keys) -> Vec<u32> {
        let mut counts = vec![0; limits::BACKENDS as usize];
        for entry in self.live(now).filter(|entry| keys.is_flow(entry)) {
            if let Some(count) = counts.get_mut(usize::from(entry.value.backend())) {
                *count += 1;
            }
        }
        counts
    }

    /// Enters a flow that the peer has, by the rules of the packet path
    /// (`affinity.rs`) and beside it. An entry of the same key is overwritten, a
    /// live one only if it `yields` to what the peer says. `new` has the tag of
    /// `place`, `now` is the data plane's second.
    ///
    /// # Panics
    /// `key` is 0, which is an empty slot's, or `place` is not in the table.
    pub fn enter(
        &self,
        key: u64,
        new: FlowValue,
        place: &Place,
        now: u16,
        yields: bool,
    ) -> Entered {
        assert_ne!(key, 0);
        loop {
            // Who loses against a packet looks again: there are pauses between packets.
            if let Some(entered) = self.try_to_enter(key, new, place, now, yields) {
                return entered;
            }
        }
    }

    /// `None`: a packet was faster. This thread may be interrupted for long between
    /// any two steps, so unlike packets it compares whatever it replaces.
    fn try_to_enter(
        &self,
        key: u64,
        new: FlowValue,
        place: &Place,
        now: u16,
        yields: bool,
    ) -> Option<Entered> {
        let buckets = [place.primary, place.alternate];
        let mut slots = buckets.into_iter().flat_map(|bucket| self.slots(bucket));
        if let Some((_, value)) = slots.find(|(owner, _)| owner.load(Ordering::Acquire) == key) {
            let old = FlowValue(value.load(Ordering::Acquire));
            let live = old.tag() == place.tag && old.left(now) >= 0;
            if live && !yields {
                return Some(Entered::Known);
            }
            replace(value, old.0, new.0)?;
            let known = live && old.backend() == new.backend();
            return Some(if known { Entered::Known } else { Entered::Moved });
        }
        let seen = buckets.map(|bucket| self.read(bucket));
        let [primary, alternate] =
            seen.each_ref().map(|bucket| Room::of(&bucket.keys, &bucket.values, now));
        let settled = primary.settled(place.tag);
        let Some(slot) = settled.or_else(|| primary.choose(&alternate, place.tag)) else {
            return Some(Entered::NoRoom);
        };
        let (bucket, slot) = (slot as usize / SLOTS, slot as usize % SLOTS);
        self.claim((buckets[bucket], slot), &seen[bucket], key, new)?;
        Some(Entered::New)
    }

    /// Has a slot be this key's, in a bucket that was `seen` with a slot to take. `None`:
    /// it is another by now, or a packet was faster.
    fn claim(
        &self,
        (bucket, slot): (u32, usize),
        seen: &Bucket,
        key: u64,
        new: FlowValue,
    ) -> Option<()> {
        let (owner, value) = self.slot(bucket, slot);
        let former = seen.keys[slot];
        // The value first: it tells whether the slot still is for the taking.
        replace(value, seen.values[slot], new.0)?;
        replace(owner, former, key)?;
        if FlowValue(value.load(Ordering::Acquire)).tag() != new.tag() {
            // A packet of the former owner's wrote meanwhile: it keeps the slot.
            let _ = replace(owner, key, former);
            return None;
        }
        Some(())
    }

    /// Key and value of the slots of a bucket.
    fn slots(&self, bucket: u32) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        (0..SLOTS).map(move |slot| self.slot(bucket, slot))
    }

    fn slot(&self, bucket: u32, slot: usize) -> (&AtomicU64, &AtomicU64) {
        let word = |field| self.word64(bucket, field + slot * size_of::<u64>());
        (word(offset_of!(Bucket, keys)), word(offset_of!(Bucket, values)))
    }

    /// The slot that has a key, counted through all buckets; the tag of its value need
    /// not be the key's yet.
    #[must_use]
    pub fn find(&self, key: u64, place: &Place) -> Option<u32> {
        let buckets = [place.primary, place.alternate].into_iter();
        let has = |(_, (owner, _)): &(u32, (&AtomicU64, _))| owner.load(Ordering::Acquire) == key;
        let mut slots =
            buckets.flat_map(|bucket| (bucket * SLOTS as u32..).zip(self.slots(bucket)));
        slots.find(has).map(|(slot, _)| slot)
    }

    /// Clears the slots of buckets whose key and value are `spent`; a slot
    /// that a packet claims meanwhile is left to it. Returns how many.
    pub fn clear(&self, buckets: Range<u32>, spent: impl Fn(u64, FlowValue) -> bool) -> u32 {
        self.clear_slots(buckets, |_, key, value| spent(key, value))
    }

    /// The same by slot as well, see [`Self::find`].
    pub fn clear_slots(
        &self,
        buckets: Range<u32>,
        spent: impl Fn(u32, u64, FlowValue) -> bool,
    ) -> u32 {
        let slots = buckets.flat_map(|bucket| (bucket * SLOTS as u32..).zip(self.slots(bucket)));
        let cleared = slots.filter(|(slot, (key, value))| {
            let owner = key.load(Ordering::Acquire);
            owner != 0
                && spent(*slot, owner, FlowValue(value.load(Ordering::Acquire)))
                && key.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        cleared.count() as u32
    }

    /// Clears what is expired. Packets treat a slot whose time is up as free,
    /// but a slot's clock wraps after 18 hours: the agent clears what is
    /// expired long before, so that no flow comes back to life.
    pub fn sweep(&self, buckets: Range<u32>, now: u16) -> u32 {
        self.clear(buckets, |_, value| value.left(now) < 0)
    }
}

/// `None`: the word is another by now.
fn replace(word: &AtomicU64, old: u64, new: u64) -> Option<()> {
    // The line stays clean where nothing changes.
    let same = old == new && word.load(Ordering::Acquire) == new;
    let done = same || word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    done.then_some(())
}

#[cfg(test)]
mod tests {
    use std::{hint, sync::Barrier, thread};

    use lb_common::flow::{FlowState, MAX_TIMEOUT};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_expired_is_swept_and_only_the_rest_is_live() {
        let flows = Mapped::anonymous(4).unwrap();
        let now = 5_u16;
        let value = |left: i16| {
            FlowValue::new(7, 1, FlowState::Established, now.wrapping_add_signed(left)).0
        };
        let values = [value(-1), value(0), value(-2000), value(MAX_TIMEOUT.cast_signed())];
        flows.write(2, &Bucket { keys: [1, 3, 5, 7], values });
        assert_eq!(flows.live(now).map(|entry| entry.key).collect::<Vec<_>>(), [3, 7]);
        let counts = flows.count(now, &Keys { exact: vec![0; 16] });
        assert_eq!((counts[7], counts[8]), (2, 0));
        assert_eq!(flows.sweep(0..4, now), 2);
        assert_eq!(flows.read(2).keys, [0, 3, 0, 7]);
    }

    #[test]
    fn each_flow_to_a_shared_endpoint_is_counted_once() {
        const EXACT: BackendId = 1;
        const HASHED: BackendId = 2;
        let keys = Keys { exact: vec![0, 9, 0] };
        assert!(keys.are_exact(EXACT) && !keys.are_exact(HASHED));
        let flows = Mapped::anonymous(4).unwrap();
        let hashed = |salt| hash::flow_key_hashed([1, 2], 3, salt, [4, 5]);
        let replies = hash::reply_key(hashed(7));
        let value = |id| FlowValue::new(id, 1, FlowState::Established, 10).0;
        let values = [value(EXACT), value(EXACT), value(HASHED), value(HASHED)];
        let of_flows = [hash::flow_key_v4(1, 2, 9), hashed(8)];
        flows.write(1, &Bucket { keys: [of_flows[0], replies, of_flows[1], replies], values });
        let counts = flows.count(5, &keys);
        assert_eq!(counts[..3], [0, 1, 1]);
    }

    const SEED: [u64; 2] = [3, 5];
    const BUCKETS: u32 = 4;
    const NOW: u16 = 7;

    /// All slots, whoever has them.
    fn slots(flows: &Mapped<Bucket>) -> impl Iterator<Item = (u64, FlowValue)> {
        let buckets = (0..BUCKETS).map(|bucket| flows.read(bucket));
        buckets.flat_map(|bucket| bucket.keys.into_iter().zip(bucket.values.map(FlowValue)))
    }

    /// What the packet path finds of a key: the first slot that has it.
    fn found(flows: &Mapped<Bucket>, key: u64) -> Option<FlowValue> {
        let place = hash::place(key, SEED, BUCKETS - 1);
        let buckets = [place.primary, place.alternate].map(|bucket| flows.read(bucket));
        let mut slots = buckets.into_iter().flat_map(|b| b.keys.into_iter().zip(b.values));
        let (_, value) = slots.find(|&(owner, _)| owner == key)?;
        let value = FlowValue(value);
        (value.tag() == place.tag && value.left(NOW) >= 0).then_some(value)
    }

    const STATES: [FlowState; 4] =
        [FlowState::Embryonic, FlowState::Established, FlowState::Closing, FlowState::Exception];

    proptest! {
        #[test]
        fn what_is_entered_is_found_and_displaces_no_established_flow(
            steps in prop::collection::vec(
                (1u64..40, 0u16..3, prop::sample::select(STATES.to_vec()), -2i16..3, any::<bool>()),
                1..200,
            )
        ) {
            let flows = Mapped::anonymous(BUCKETS).unwrap();
            for (key, backend, state, left, yields) in steps {
                let place = hash::place(key, SEED, BUCKETS - 1);
                let expires = NOW.wrapping_add_signed(left);
                let value = FlowValue::new(backend, place.tag, state, expires);
                let before: Vec<_> = flows.live(NOW).collect();
                let had = slots(&flows).find(|&(owner, _)| owner == key);
                let entered = flows.enter(key, value, &place, NOW, yields);
                let keeps = had.map(|(_, had)| had).filter(|had| !yields && had.left(NOW) >= 0);
                let expected = match had {
                    _ if keeps.is_some() => Entered::Known,
                    Some((_, had)) if had.backend() == value.backend() && had.left(NOW) >= 0 => {
                        Entered::Known
                    }
                    Some(_) => Entered::Moved,
                    None if entered == Entered::NoRoom => Entered::NoRoom,
                    None => Entered::New,
                };
                prop_assert_eq!(entered, expected);
                let lives = entered != Entered::NoRoom && left >= 0;
                prop_assert_eq!(found(&flows, key), keeps.or(lives.then_some(value)));
                for entry in before.iter().filter(|entry| entry.key != key) {
                    let stays = entry.value.state() == FlowState::Established as u8;
                    prop_assert!(!stays || found(&flows, entry.key) == Some(entry.value));
                }
                prop_assert!(slots(&flows).filter(|&(owner, _)| owner == key).count() <= 1);
            }
        }
    }

    #[test]
    fn there_is_no_room_where_established_flows_have_all_slots() {
        let flows = Mapped::anonymous(BUCKETS).unwrap();
        let enter = |key, state| {
            let place = hash::place(key, SEED, BUCKETS - 1);
            flows.enter(key, FlowValue::new(1, place.tag, state, NOW + 9), &place, NOW, true)
        };
        for key in 1..200 {
            enter(key, FlowState::Established);
        }
        assert_eq!(flows.live(NOW).count(), BUCKETS as usize * SLOTS);
        for state in STATES {
            assert_eq!(enter(1000, state), Entered::NoRoom);
        }
    }

    /// What a packet does with the slot of a bucket that it claimed: each word is
    /// stored, whatever is there.
    fn touch(flows: &Mapped<Bucket>, (bucket, slot): (u32, usize), key: u64, state: FlowState) {
        let tag = hash::place(key, SEED, BUCKETS - 1).tag;
        let (owner, value) = flows.slot(bucket, slot);
        if owner.load(Ordering::Relaxed) == key {
            value.store(FlowValue::new(2, tag, state, NOW).0, Ordering::Release);
        }
    }

    #[test]
    fn what_a_packet_established_meanwhile_is_never_displaced() {
        for round in 0..3000 {
            let flows = Mapped::anonymous(BUCKETS).unwrap();
            let key = 1000 + round;
            let place = hash::place(key, SEED, BUCKETS - 1);
            let at = (place.primary, 0);
            flows.slot(at.0, at.1).0.store(key, Ordering::Release);
            touch(&flows, at, key, FlowState::Embryonic);
            let both = Barrier::new(2);
            let established = thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    for key in 1..60 {
                        let place = hash::place(key, SEED, BUCKETS - 1);
                        let new = FlowValue::new(1, place.tag, FlowState::Established, NOW);
                        flows.enter(key, new, &place, NOW, true);
                    }
                });
                both.wait();
                (0..round % 500).for_each(|_| hint::spin_loop());
                touch(&flows, at, key, FlowState::Established);
                found(&flows, key)
            });
            // A flow of one packet may have been displaced before.
            if established.is_some() {
                assert_eq!(found(&flows, key), established, "round {round}");
            }
        }
    }
}

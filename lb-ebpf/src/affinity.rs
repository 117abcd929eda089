//! The affinity table: which backend a flow has. The protocol by which CPUs
//! share it without locks is told in [`lb_common::flow`].

use core::ptr::{self, read_volatile, write_volatile};

use lb_common::{
    config::Config,
    flow::{Bucket, Candidate, FlowState, FlowValue, SLOTS, Timeouts, candidate},
    hash::{Place, place},
};

use crate::maps::FLOWS;

/// Where a key belongs.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    /// The key.
    pub key: u64,
    /// Its two buckets and tag.
    pub place: Place,
}

/// A live entry.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    value: *mut u64,
    /// What it said when it was read.
    pub flow: FlowValue,
}

impl Entry {
    /// Notes a packet: a longer life, and perhaps another state. The line stays
    /// clean where nothing changed, so within a second CPUs share it.
    #[inline(always)]
    pub(crate) fn touch(&self, now: u16, state: u8, timeouts: Timeouts) {
        let new = self.flow.touched(now.wrapping_add(timeouts.of(state)), state);
        if new != self.flow {
            // SAFETY: a map element; aligned words are written whole.
            unsafe { write_volatile(self.value, new.0) };
        }
    }

    /// Gives the flow to another backend, as if it were new.
    #[inline(always)]
    pub(crate) fn replace(&self, backend: u16, now: u16, timeouts: Timeouts) {
        let new = newborn(backend, now, timeouts, self.flow.tag());
        // SAFETY: as above.
        unsafe { write_volatile(self.value, new.0) };
    }
}

/// The value of a flow with one packet.
#[inline(always)]
fn newborn(backend: u16, now: u16, timeouts: Timeouts, tag: u32) -> FlowValue {
    FlowValue::new(backend, now.wrapping_add(timeouts.embryonic), FlowState::Embryonic, tag)
}

/// Places a key.
#[inline(always)]
pub(crate) fn position(config: &Config, key: u64) -> Position {
    Position { key, place: place(key, config.place_seed, config.flow_mask) }
}

/// The live entry of a key: in the primary bucket as a rule, else in the alternate.
#[inline(always)]
pub(crate) fn find(at: &Position, now: u16) -> Option<Entry> {
    let value = match key_in(at.place.primary, at.key) {
        Some(value) => value,
        None => key_in(at.place.alternate, at.key)?,
    };
    // SAFETY: a map element, read whole.
    let flow = FlowValue(unsafe { read_volatile(value) });
    let live = flow.tag() == at.place.tag && flow.left(now) >= 0;
    live.then_some(Entry { value, flow })
}

/// The value beside `key` in a bucket.
#[inline(always)]
fn key_in(bucket: u32, key: u64) -> Option<*mut u64> {
    let bucket = FLOWS.get_ptr_mut(bucket)?;
    // SAFETY: a map element; keys are aligned words that others may write.
    unsafe {
        let keys = ptr::addr_of!((*bucket).keys).cast::<u64>();
        let values = ptr::addr_of_mut!((*bucket).values).cast::<u64>();
        if read_volatile(keys) == key {
            Some(values)
        } else if read_volatile(keys.add(1)) == key {
            Some(values.add(1))
        } else if read_volatile(keys.add(2)) == key {
            Some(values.add(2))
        } else if read_volatile(keys.add(3)) == key {
            Some(values.add(3))
        } else {
            None
        }
    }
}

/// Enters a new flow as embryonic. `false`: both buckets are full of
/// established flows; the flow stays unrecorded and its next packet tries again.
#[inline(always)]
pub(crate) fn record(at: &Position, backend: u16, now: u16, timeouts: Timeouts) -> bool {
    let buckets = u64::from(at.place.primary) | u64::from(at.place.alternate) << 32;
    let value = newborn(backend, now, timeouts, at.place.tag);
    lb_record(at.key, buckets, value.0, u64::from(now)) != 0
}

/// A global function: the verifier judges it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_record(key: u64, buckets: u64, value: u64, now: u64) -> u64 {
    u64::from(enter(key, buckets as u32, (buckets >> 32) as u32, FlowValue(value), now as u16))
}

#[inline(always)]
fn enter(key: u64, primary: u32, alternate: u32, value: FlowValue, now: u16) -> bool {
    let (Some(primary), Some(alternate)) =
        (FLOWS.get_ptr_mut(primary), FLOWS.get_ptr_mut(alternate))
    else {
        return false;
    };
    let (mut bucket, mut best) = (primary, look(primary, key, now));
    if best.free < 2 && !best.is_own() {
        let other = look(alternate, key, now);
        if other.is_better_than(&best) {
            (bucket, best) = (alternate, other);
        }
    }
    if best.score == 0 || best.slot >= SLOTS {
        return false;
    }
    // SAFETY: map elements; the slot is in range; words are written whole.
    unsafe {
        let keys = ptr::addr_of_mut!((*bucket).keys).cast::<u64>();
        let values = ptr::addr_of_mut!((*bucket).values).cast::<u64>();
        write_volatile(keys.add(best.slot), key);
        write_volatile(values.add(best.slot), value.0);
    }
    true
}

/// Reads a bucket and finds the newcomer's place in it.
#[inline(always)]
fn look(bucket: *mut Bucket, key: u64, now: u16) -> Candidate {
    // SAFETY: a map element; words are read whole.
    let (keys, values) = unsafe {
        (
            read_volatile(ptr::addr_of!((*bucket).keys)),
            read_volatile(ptr::addr_of!((*bucket).values)),
        )
    };
    candidate(keys, values, key, now)
}

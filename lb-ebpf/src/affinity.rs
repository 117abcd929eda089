//! The affinity table: which backend a flow has. The protocol by which CPUs
//! share it without locks is told in [`lb_common::flow`].

use core::ptr::{self, read_volatile, write_volatile};

use lb_common::{
    config::Config,
    flow::{Bucket, FlowState, FlowValue, Room, SLOTS, Timeouts},
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

impl Position {
    /// Its primary bucket in the low half of a word, the alternate in the high one.
    #[inline(always)]
    pub(crate) fn buckets(&self) -> u64 {
        u64::from(self.place.primary) | u64::from(self.place.alternate) << 32
    }
}

/// A slot that has the key looked for.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    value: *mut u64,
    /// What it said when it was read.
    pub flow: FlowValue,
}

impl Entry {
    /// Notes a packet: a longer life, and perhaps another state; whether it is
    /// another. The line stays clean where nothing changed, so within a second
    /// CPUs share it.
    #[inline(always)]
    pub(crate) fn touch(&self, now: u16, state: u8, timeouts: Timeouts) -> bool {
        let new = self.flow.touched(now.wrapping_add(timeouts.of(state)), state);
        if new == self.flow {
            return false;
        }
        // SAFETY: a map element; aligned words are written whole.
        unsafe { write_volatile(self.value, new.0) };
        state != self.flow.state()
    }

    /// Whether the slot has another backend. It is read again: what it said is
    /// not kept through all calls, for which the stack has no room.
    #[inline(always)]
    pub(crate) fn is_of_another(&self, backend: u16) -> bool {
        // SAFETY: a map element, read whole.
        FlowValue(unsafe { read_volatile(self.value) }).backend() != backend
    }

    /// Makes an established flow embryonic, until another packet comes through;
    /// whether it was established.
    #[inline(always)]
    pub(crate) fn begin_anew(&self) -> bool {
        if self.flow.state() != FlowState::Established as u8 {
            return false;
        }
        let new = self.flow.touched(self.flow.expires(), FlowState::Embryonic as u8);
        // SAFETY: a map element; aligned words are written whole.
        unsafe { write_volatile(self.value, new.0) };
        true
    }

    /// Ends the flow: a slot whose time is up is free.
    #[inline(always)]
    pub(crate) fn end(&self, now: u16) {
        let over = self.flow.touched(now.wrapping_sub(1), FlowState::Closing as u8);
        // SAFETY: a map element; aligned words are written whole.
        unsafe { write_volatile(self.value, over.0) };
    }
}

/// What the table knows of a flow. Not an enum: the verifier minds words that mean nothing
/// where they are kept over other code.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    /// The slot that has the key; null: none.
    value: *mut u64,
    flow: FlowValue,
    live: bool,
}

impl Known {
    /// Nothing.
    pub(crate) const NOTHING: Self =
        Self { value: ptr::null_mut(), flow: FlowValue(0), live: false };

    /// The entry of a flow that has a backend.
    #[inline(always)]
    pub(crate) fn live(self) -> Option<Entry> {
        if self.live { self.slot() } else { None }
    }

    /// The slot that has the key, also where its time is up, or another CPU is at work on
    /// it.
    #[inline(always)]
    pub(crate) fn slot(self) -> Option<Entry> {
        let Self { value, flow, .. } = self;
        (!value.is_null()).then_some(Entry { value, flow })
    }
}

/// Places a key.
#[inline(always)]
pub(crate) fn position(config: &Config, key: u64) -> Position {
    Position { key, place: place(key, config.place_seed, config.flow_mask) }
}

/// Looks a key up: in the primary bucket as a rule, else in the alternate.
#[inline(always)]
pub(crate) fn find(at: &Position, now: u16) -> Known {
    let value = match key_in(at.place.primary, at.key) {
        Some(value) => value,
        None => match key_in(at.place.alternate, at.key) {
            Some(value) => value,
            None => return Known::NOTHING,
        },
    };
    // SAFETY: a map element, read whole.
    let flow = FlowValue(unsafe { read_volatile(value) });
    Known { value, flow, live: flow.tag() == at.place.tag && flow.left(now) >= 0 }
}

/// Which of two buckets (see [`Position::buckets`]) has a key that one has.
#[inline(always)]
pub(crate) fn bucket_of(key: u64, buckets: u64) -> u32 {
    let (primary, alternate) = (buckets as u32, (buckets >> 32) as u32);
    if key_in(primary, key).is_some() { primary } else { alternate }
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

/// Enters a new flow as embryonic, or as an exception: in the slot that has its
/// key, if any.
/// `false`: both buckets are full of established flows; the flow stays
/// unrecorded and its next packet tries again.
#[inline(always)]
pub(crate) fn record(
    at: &Position,
    slot: Option<Entry>,
    backend: u16,
    exception: bool,
    now: u16,
    timeouts: Timeouts,
) -> bool {
    let expires = now.wrapping_add(timeouts.embryonic);
    let state = if exception { FlowState::Exception } else { FlowState::Embryonic };
    let value = FlowValue::new(backend, at.place.tag, state, expires);
    if let Some(entry) = slot {
        // SAFETY: a map element; aligned words are written whole.
        unsafe { write_volatile(entry.value, value.0) };
        return true;
    }
    displace(at, value, now) || lb_record(at.key, at.buckets(), value.0, u64::from(now)) != 0
}

/// Enters a flow where all slots of its primary bucket are in use and one,
/// chosen by its hash, need not stay so. In a flood all buckets are like that,
/// and to look for a better place would be for nothing.
#[inline(always)]
fn displace(at: &Position, value: FlowValue, now: u16) -> bool {
    let Some(bucket) = FLOWS.get_ptr_mut(at.place.primary) else { return false };
    let slot = value.tag() & 3;
    // SAFETY: a map element; the slot is one of its four; words are read whole.
    let yields = unsafe {
        let last = read_volatile(ptr::addr_of!((*bucket).keys[SLOTS - 1]));
        let values = ptr::addr_of!((*bucket).values).cast::<u64>();
        last != 0 && FlowValue(read_volatile(values.add(slot as usize))).yields(now)
    };
    if yields {
        store(bucket, slot, at.key, value);
    }
    yields
}

/// A global function: the verifier judges it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_record(key: u64, buckets: u64, value: u64, now: u64) -> u64 {
    u64::from(enter(key, buckets as u32, (buckets >> 32) as u32, FlowValue(value), now as u16))
}

#[inline(always)]
fn enter(key: u64, primary: u32, alternate: u32, value: FlowValue, now: u16) -> bool {
    let Some(bucket) = FLOWS.get_ptr_mut(primary) else { return false };
    let turn = value.tag();
    let room = look(bucket, now);
    if let Some(slot) = room.settled(turn) {
        store(bucket, slot, key, value);
        return true;
    }
    let Some(other) = FLOWS.get_ptr_mut(alternate) else { return false };
    match room.choose(&look(other, now), turn) {
        Some(slot @ 0..4) => store(bucket, slot, key, value),
        Some(slot) => store(other, slot, key, value),
        None => return false,
    }
    true
}

/// Enters a flow: words are written whole, the key first.
#[inline(always)]
fn store(bucket: *mut Bucket, slot: u32, key: u64, value: FlowValue) {
    let slot = (slot & 3) as usize;
    // SAFETY: a map element; the slot is one of its four.
    unsafe {
        let keys = ptr::addr_of_mut!((*bucket).keys).cast::<u64>();
        let values = ptr::addr_of_mut!((*bucket).values).cast::<u64>();
        write_volatile(keys.add(slot), key);
        write_volatile(values.add(slot), value.0);
    }
}

/// What a newcomer may take in a bucket.
#[inline(always)]
fn look(bucket: *mut Bucket, now: u16) -> Room {
    // SAFETY: a map element; words are read whole.
    unsafe {
        let keys = read_volatile(ptr::addr_of!((*bucket).keys));
        let values = read_volatile(ptr::addr_of!((*bucket).values));
        Room::of(&keys, &values, now)
    }
}

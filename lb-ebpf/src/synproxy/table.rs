//! The table of connections that SYN cookies opened. The protocol by which CPUs and agent
//! share it is told in [`lb_common::synproxy`].

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    ptr::{self, read_volatile, write_volatile},
};

use lb_common::{
    change::BUCKETS,
    flow::SLOTS,
    hash,
    limits::PROXIED_BUCKETS,
    service::Service,
    synproxy::{Bucket, Proxied, Stage, timeout},
};

use crate::{
    env::{self, Env},
    maps::{CONFIG, PROXIED, PROXIED_CHANGES},
    select,
};

/// What the table has of a connection.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    key: u64,
    /// What it said when it was read; 0: it has nothing.
    pub value: Proxied,
}

/// Key of a connection; `ports` as the client sends them.
#[inline(always)]
pub(super) fn key(env: &Env, client: [u64; 2], ports: u32, service: &Service) -> u64 {
    hash::flow_key_hashed(client, ports, service.salt, env.config.place_seed)
}

/// The two buckets of a key, the primary one first.
#[inline(always)]
fn buckets(seed: [u64; 2], key: u64) -> [u32; 2] {
    let place = hash::place(key, seed, PROXIED_BUCKETS - 1);
    [place.primary, place.alternate]
}

/// Looks a connection up.
#[inline(always)]
pub(super) fn find(key: u64) -> Entry {
    Entry { key, value: Proxied(lb_find_proxied(key)) }
}

/// A global function, as all that follow here: the verifier judges it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_find_proxied(key: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    let now = env::now(config);
    let [primary, alternate] = buckets(config.place_seed, key);
    match live_in(primary, key, now) {
        0 => live_in(alternate, key, now),
        value => value,
    }
}

#[inline(always)]
fn live_in(bucket: u32, key: u64, now: u16) -> u64 {
    let Some(bucket) = PROXIED.get_ptr_mut(bucket) else { return 0 };
    let mut slot = 0;
    while slot < SLOTS {
        let (keys, word) = words(bucket, slot);
        // SAFETY: map elements; aligned words are read whole.
        let (there, value) = unsafe { (read_volatile(keys), read_volatile(word)) };
        if there == key && value != 0 && Proxied(value).left(now) >= 0 {
            return value;
        }
        slot += 1;
    }
    0
}

/// Key and value of a slot.
#[inline(always)]
fn words(bucket: *mut Bucket, slot: usize) -> (*mut u64, *mut u64) {
    // SAFETY: a map element; the slot is one of its four.
    unsafe {
        let keys = ptr::addr_of_mut!((*bucket).keys).cast::<u64>();
        let values = ptr::addr_of_mut!((*bucket).values).cast::<u64>();
        (keys.add(slot & (SLOTS - 1)), values.add(slot & (SLOTS - 1)))
    }
}

/// Stores a word where there is still the old one.
#[inline(always)]
fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: an aligned word of a map element.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(word, old, new).1 }
}

impl Entry {
    /// Whether there is none.
    #[inline(always)]
    pub(super) fn is_none(&self) -> bool {
        self.value.0 == 0
    }

    /// Stores another value, unless somebody was faster.
    #[inline(always)]
    pub(super) fn swap(&self, new: Proxied) {
        if new != self.value {
            lb_swap_proxied(self.key, self.value.0, new.0);
        }
    }

    /// Notes a packet of a connection: a longer life, and the stage behind it.
    #[inline(always)]
    pub(super) fn touch(&self, env: &Env, stage: u8, service: &Service) {
        let expires = env.now().wrapping_add(timeout(select::timeouts(service), stage));
        self.swap(self.value.alive().touched(stage, expires));
    }

    /// Notes that the backend has accepted the connection, with its first number and its
    /// shift of windows.
    #[inline(always)]
    pub(super) fn open(&self, env: &Env, (sequence, scale): (u32, u8), service: &Service) {
        let life = timeout(select::timeouts(service), Stage::Open as u8);
        self.swap(self.value.opened(sequence, scale, env.now().wrapping_add(life)));
    }

    /// Ends the connection.
    #[inline(always)]
    pub(super) fn end(&self, env: &Env) {
        let over = env.now().wrapping_sub(1);
        self.swap(self.value.touched(Stage::Closing as u8, over));
    }
}

/// Changes the value of a connection from `old` to `new`; the peer of a pair is told of
/// another stage.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_swap_proxied(key: u64, old: u64, new: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    for bucket in buckets(config.place_seed, key) {
        if exchange(bucket, key, old, new) {
            if Proxied(new).stage() != Proxied(old).stage() && Proxied(new).group() != 0 {
                mark(bucket);
            }
            return 1;
        }
    }
    0
}

#[inline(always)]
fn exchange(bucket: u32, key: u64, old: u64, new: u64) -> bool {
    let Some(bucket) = PROXIED.get_ptr_mut(bucket) else { return false };
    let mut slot = 0;
    while slot < SLOTS {
        let (keys, word) = words(bucket, slot);
        // SAFETY: a map element; aligned words are read whole.
        if unsafe { read_volatile(keys) } == key && swap(word, old, new) {
            return true;
        }
        slot += 1;
    }
    false
}

/// Enters a connection; `false`: there is no room.
#[inline(always)]
pub(super) fn enter(key: u64, value: Proxied) -> bool {
    lb_enter_proxied(key, value.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_enter_proxied(key: u64, value: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return 0 };
    let now = env::now(config);
    let [primary, alternate] = buckets(config.place_seed, key);
    let entered = replace(primary, key, value)
        || replace(alternate, key, value)
        || claim(primary, key, value, now)
        || claim(alternate, key, value, now);
    entered.into()
}

/// Gives the key that is there another value.
#[inline(always)]
fn replace(bucket: u32, key: u64, value: u64) -> bool {
    let Some(bucket) = PROXIED.get_ptr_mut(bucket) else { return false };
    let mut slot = 0;
    while slot < SLOTS {
        let (keys, word) = words(bucket, slot);
        // SAFETY: map elements; aligned words are read whole.
        let (there, old) = unsafe { (read_volatile(keys), read_volatile(word)) };
        if there == key && swap(word, old, value) {
            return true;
        }
        slot += 1;
    }
    false
}

/// Takes a slot that is nobody's.
#[inline(always)]
fn claim(bucket: u32, key: u64, value: u64, now: u16) -> bool {
    let Some(bucket) = PROXIED.get_ptr_mut(bucket) else { return false };
    let mut slot = 0;
    while slot < SLOTS {
        let (keys, word) = words(bucket, slot);
        // SAFETY: map elements; aligned words are read whole.
        let (there, old) = unsafe { (read_volatile(keys), read_volatile(word)) };
        slot += 1;
        let free = there == 0 || old == 0 || Proxied(old).left(now) < 0;
        if free && swap(keys, there, key) {
            if swap(word, old, value) {
                // Unless another one has taken the key meanwhile.
                // SAFETY: a map element, read whole.
                if unsafe { read_volatile(keys) } == key {
                    return true;
                }
                swap(word, value, 0);
                continue;
            }
            // Another one has it.
            swap(keys, key, 0);
        }
    }
    false
}

/// Marks a bucket for the peer of a pair.
#[inline(always)]
fn mark(bucket: u32) {
    if let Some(line) = PROXIED_CHANGES.get_ptr_mut(bucket / BUCKETS) {
        // SAFETY: a map element; the byte is one of its own.
        unsafe {
            let marks = ptr::addr_of_mut!((*line).changed).cast::<u8>();
            write_volatile(marks.add((bucket % BUCKETS) as usize), 1);
        }
    }
}

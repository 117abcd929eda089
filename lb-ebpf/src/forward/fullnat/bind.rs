//! Which flow has which source address and port. Two maps and a protocol by which CPUs
//! share them without locks: see [`lb_common::binding`].

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    num::NonZero,
    ptr::{self, read_volatile, write_volatile},
};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_smp_processor_id};
use lb_common::{
    binding::{self, Binding, Flow, TRIES, Task},
    flow::{FlowState, FlowValue, Timeouts},
    tcp,
};

use crate::{
    maps::{BINDINGS, BOUND, CURSORS, TASK},
    parse::TCP,
    select,
};

/// An answer of [`bind`]: no port was found free.
pub(super) const EXHAUSTED: u64 = u64::MAX;
/// An answer of [`bind`]: the packet is of a TCP connection that has no port, and does not
/// open one.
pub(super) const UNBOUND: u64 = u64::MAX - 1;

/// An entry of `BINDINGS`.
#[derive(Clone, Copy)]
pub(super) struct Entry(*mut Binding);

/// What an entry said when it was read.
pub(super) struct Bound {
    /// Where it is.
    pub entry: Entry,
    /// The flow.
    pub flow: Flow,
    /// Backend, turn, state and the second it lives to.
    pub value: FlowValue,
}

impl Entry {
    #[inline(always)]
    fn value(self) -> *mut u64 {
        // SAFETY: a map element.
        unsafe { ptr::addr_of_mut!((*self.0).value) }
    }

    #[inline(always)]
    fn read(self) -> FlowValue {
        // SAFETY: a map element; aligned words are read whole.
        FlowValue(unsafe { read_volatile(self.value()) })
    }

    #[inline(always)]
    fn flow(self) -> Flow {
        // SAFETY: a map element; a flow that changes meanwhile is found out by its turn.
        unsafe {
            Flow {
                client: read_volatile(ptr::addr_of!((*self.0).client)),
                ports: read_volatile(ptr::addr_of!((*self.0).ports)),
                service: read_volatile(ptr::addr_of!((*self.0).service)).into(),
            }
        }
    }

    /// Stores a value where there is still the old one.
    #[inline(always)]
    fn swap(self, old: FlowValue, new: FlowValue) -> bool {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: an aligned word of a map element.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.value(), old.0, new.0).1 }
    }

    /// Changes what lives on by `change`, until that holds or another flow has the entry.
    #[inline(always)]
    fn update(self, mut value: FlowValue, change: impl Fn(FlowValue) -> FlowValue) {
        let turn = value.tag();
        let mut attempt = 0;
        while attempt < 4 {
            let new = change(value);
            if new == value || self.swap(value, new) {
                return;
            }
            value = self.read();
            if value.tag() != turn || value.backend() == 0 {
                return;
            }
            attempt += 1;
        }
    }

    /// Notes a packet of the backend's: a longer life, and whether it closes.
    #[inline(always)]
    pub(super) fn touch(self, value: FlowValue, now: u16, closes: bool, of_service: Timeouts) {
        let timeouts = binding::timeouts(of_service);
        self.update(value, |value| {
            let state = if closes { FlowState::Closing as u8 } else { value.state() };
            value.touched(now.wrapping_add(timeouts.of(state)), state)
        });
    }
}

/// Whose an entry is; `None`: nobody's.
#[inline(always)]
pub(super) fn at(index: u32, now: u16) -> Option<Bound> {
    let entry = Entry(BINDINGS.get_ptr_mut(index)?);
    let value = entry.read();
    if value.backend() == 0 || value.left(now) < 0 {
        return None;
    }
    let flow = entry.flow();
    let same = entry.read().tag() == value.tag();
    same.then_some(Bound { entry, flow, value })
}

/// The entry of a flow.
#[inline(always)]
pub(super) fn find(flow: &Flow, now: u16) -> Option<(u32, Bound)> {
    // SAFETY: a word, read at once; what it says is compared with the entry.
    let index = *unsafe { BOUND.get(flow) }?;
    let bound = at(index, now)?;
    (bound.flow == *flow).then_some((index, bound))
}

/// Index of the entry of the flow in `TASK`, or of one that is now its own; or
/// [`EXHAUSTED`], or [`UNBOUND`].
#[inline(always)]
pub(super) fn bind() -> u64 {
    lb_bind()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_bind() -> u64 {
    let Some(task) = TASK.get_ptr_mut(0) else { return EXHAUSTED };
    // SAFETY: this CPU's element; nothing else on this CPU runs meanwhile.
    let task: &Task = unsafe { &*task };
    if let Some(index) = go_on(task) {
        return index.into();
    }
    if task.proto == TCP && !tcp::opens(task.tcp_flags) {
        return UNBOUND;
    }
    lb_take_port()
}

/// The entry that the flow has, which gets longer life by its packet, and the backend
/// that was selected.
#[inline(always)]
fn go_on(task: &Task) -> Option<u32> {
    let (index, bound) = find(&task.flow, task.now)?;
    let timeouts = binding::timeouts(Timeouts::from_raw(task.timeouts));
    bound.entry.update(bound.value, |value| {
        let state = select::next_state(task.proto, task.tcp_flags, value.state());
        // A client may take up a port again after it closed it.
        let state = state.unwrap_or(FlowState::Embryonic as u8);
        let expires = task.now.wrapping_add(timeouts.of(state));
        value.touched(expires, state).with_backend(task.backend)
    });
    Some(index)
}

/// Takes a port for the flow in `TASK`. A global function: the verifier goes through its
/// loop once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_take_port() -> u64 {
    let Some(task) = TASK.get_ptr_mut(0) else { return EXHAUSTED };
    // SAFETY: this CPU's element; nothing else on this CPU runs meanwhile.
    let task: &Task = unsafe { &*task };
    let Some(sources) = NonZero::new(task.sources) else { return EXHAUSTED };
    let v4 = task.v4 != 0;
    let Some(cursor) = CURSORS.get_ptr_mut(task.v4 & 1) else { return EXHAUSTED };
    // SAFETY: as above; the helper takes no arguments.
    let (from, cpu) = unsafe { (*cursor, bpf_get_smp_processor_id()) };
    let from = if from == 0 { binding::beginning(cpu) } else { from };
    let mut attempt = 0;
    while attempt < TRIES {
        let position = binding::position(from, attempt, sources);
        let index = binding::at(v4, sources, position);
        let Some(binding) = BINDINGS.get_ptr_mut(index) else { return EXHAUSTED };
        let entry = Entry(binding);
        if let Some(value) = claim(entry, task.now) {
            // SAFETY: as above.
            unsafe { *cursor = position + 1 };
            return enter(task, index, entry, value);
        }
        attempt += 1;
    }
    // SAFETY: as above.
    unsafe { *cursor = from.wrapping_add(TRIES) };
    EXHAUSTED
}

/// Claims an entry that is nobody's: what it says then.
#[inline(always)]
fn claim(entry: Entry, now: u16) -> Option<FlowValue> {
    let old = entry.read();
    if old.0 != 0 && old.left(now) >= 0 {
        return None;
    }
    let turn = old.tag().wrapping_add(1) & 0xff_ffff;
    let new = FlowValue::new(0, turn, FlowState::Embryonic, now.wrapping_add(1));
    entry.swap(old, new).then_some(new)
}

/// Enters the flow in an entry that was claimed.
#[inline(always)]
fn enter(task: &Task, index: u32, entry: Entry, claimed: FlowValue) -> u64 {
    let before = entry.flow();
    // SAFETY: a word, read at once.
    if unsafe { BOUND.get(before) } == Some(&index) {
        let _ = BOUND.remove(before);
    }
    let timeouts = binding::timeouts(Timeouts::from_raw(task.timeouts));
    let expires = task.now.wrapping_add(timeouts.embryonic);
    let value = FlowValue::new(task.backend, claimed.tag(), FlowState::Embryonic, expires);
    // SAFETY: a map element, which is ours while it has no backend.
    unsafe {
        write_volatile(ptr::addr_of_mut!((*entry.0).client), task.flow.client);
        write_volatile(ptr::addr_of_mut!((*entry.0).ports), task.flow.ports);
        write_volatile(ptr::addr_of_mut!((*entry.0).service), task.flow.service as u16);
        write_volatile(entry.value(), value.0);
    }
    if BOUND.insert(task.flow, index, BPF_NOEXIST.into()).is_ok() {
        return index.into();
    }
    // Another CPU was faster, or what is there is out of date.
    let other = go_on(task);
    if other.is_none() && BOUND.insert(task.flow, index, 0).is_ok() {
        return index.into();
    }
    entry.swap(value, FlowValue(0));
    other.map_or(EXHAUSTED, u64::from)
}

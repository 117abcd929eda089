//! Bindings of mode `fullnat`, beside the packets that use them: releases ports, and
//! enters what the peer of a pair tells. See [`lb_common::binding`].

use std::{
    io,
    mem::offset_of,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use aya::maps::{HashMap, MapData};
use lb_common::{
    binding::{Binding, Flow},
    flow::{FlowState, FlowValue},
};

use super::{flows::Entered, kernel::into_io, mmap::Mapped};
use crate::core::plan::BackendId;

const VALUE: usize = offset_of!(Binding, value);
/// Where ports and service are, in one word.
const PORTS: usize = offset_of!(Binding, ports);

impl Mapped<Binding> {
    /// Releases entries whose time is up: how many. Packets treat them as free anyway,
    /// but their clock wraps after 18 hours, see [`Mapped::sweep`] of flows. A packet
    /// that claims one at the same moment keeps it.
    pub fn sweep(&self, entries: Range<u32>, now: u16) -> u32 {
        self.release(entries, |_, value| value.left(now) < 0)
    }

    /// Releases entries that are `spent` by their index and value: how many. One that
    /// changes at the same moment is left alone.
    pub fn release(&self, entries: Range<u32>, spent: impl Fn(u32, FlowValue) -> bool) -> u32 {
        let release = |index: u32| {
            let word = self.word64(index, VALUE);
            let value = word.load(Ordering::Acquire);
            let over = value != 0 && spent(index, FlowValue(value));
            over && word.compare_exchange(value, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        entries.map(|index| u32::from(release(index))).sum()
    }

    /// Whose an entry is, see [`FlowValue`]; without a backend: nobody's.
    #[must_use]
    pub fn value(&self, index: u32) -> FlowValue {
        FlowValue(self.word64(index, VALUE).load(Ordering::Acquire))
    }

    /// An entry that is a live flow's. One that changes hands meanwhile is nobody's.
    #[must_use]
    pub fn held(&self, index: u32, now: u16) -> Option<Binding> {
        let before = self.value(index);
        let entry = self.read(index);
        // The words of a flow are written only while the entry has no backend.
        let value = self.value(index);
        let same = value.tag() == before.tag() && before.backend() != 0 && value.backend() != 0;
        (same && value.left(now) >= 0).then_some(Binding { value: value.0, ..entry })
    }
}

/// Whose an entry is.
fn flow_of(entry: &Binding) -> Flow {
    Flow { client: entry.client, ports: entry.ports, service: entry.service.into() }
}

/// `BOUND`: which entry a flow has.
pub trait Bound: Send + Sync {
    /// Its index, which may be out of date.
    ///
    /// # Errors
    /// The kernel's answer.
    fn get(&self, flow: &Flow) -> io::Result<Option<u32>>;
    /// Sets it.
    ///
    /// # Errors
    /// The kernel's answer.
    fn set(&self, flow: &Flow, index: u32) -> io::Result<()>;
    /// Forgets it.
    ///
    /// # Errors
    /// The kernel's answer.
    fn remove(&self, flow: &Flow) -> io::Result<()>;
}

/// The kernel's map; keys are the words of a [`Flow`].
pub(super) struct KernelBound(pub(super) Mutex<HashMap<MapData, [u32; 6], u32>>);

impl KernelBound {
    fn map(&self) -> MutexGuard<'_, HashMap<MapData, [u32; 6], u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bound for KernelBound {
    fn get(&self, flow: &Flow) -> io::Result<Option<u32>> {
        found(self.map().get(&bytemuck::cast(*flow), 0).map_err(into_io))
    }

    fn set(&self, flow: &Flow, index: u32) -> io::Result<()> {
        self.map().insert(bytemuck::cast::<_, [u32; 6]>(*flow), index, 0).map_err(into_io)
    }

    fn remove(&self, flow: &Flow) -> io::Result<()> {
        found(self.map().remove(&bytemuck::cast(*flow)).map_err(into_io)).map(|_| ())
    }
}

/// What is not there is no error.
fn found<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Both maps, for who enters what the peer has.
pub struct Bindings {
    /// `BINDINGS`.
    pub entries: Arc<Mapped<Binding>>,
    bound: Box<dyn Bound>,
}

impl Bindings {
    /// Of a data plane.
    pub fn new(entries: Arc<Mapped<Binding>>, bound: Box<dyn Bound>) -> Self {
        Self { entries, bound }
    }

    /// Enters a binding that the peer has, by the protocol of packets and beside them:
    /// backend, state, and the second it lives to. What lives here, the flow's own or
    /// another one's at this port, stays unless this node `yields` to what the peer
    /// says. `now` is the data plane's second.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn enter(
        &self,
        index: u32,
        flow: &Flow,
        new: (BackendId, FlowState, u16),
        now: u16,
        yields: bool,
    ) -> io::Result<Entered> {
        if !yields && self.find(flow, now)?.is_some() {
            return Ok(Entered::Known);
        }
        // Who loses against a packet, or against who releases ports, looks again.
        loop {
            if let Some(entered) = self.try_to_enter(index, flow, new, now, yields)? {
                return Ok(entered);
            }
        }
    }

    /// `None`: somebody was faster.
    fn try_to_enter(
        &self,
        index: u32,
        flow: &Flow,
        (backend, state, expires): (BackendId, FlowState, u16),
        now: u16,
        yields: bool,
    ) -> io::Result<Option<Entered>> {
        let entries = &self.entries;
        let word = entries.word64(index, VALUE);
        let replace = |old: FlowValue, new: FlowValue| {
            word.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let old = entries.value(index);
        let former = flow_of(&entries.read(index));
        let taken = old.0 != 0 && old.left(now) >= 0;
        if taken && old.backend() == 0 {
            // A packet is at work on it.
            return Ok(Some(Entered::NoRoom));
        }
        if taken && !yields {
            return Ok(Some(Entered::Known));
        }
        if taken && former == *flow {
            let value = old.touched(expires, state as u8).with_backend(backend);
            if !replace(old, value) {
                return Ok(None);
            }
            self.lead(flow, index)?;
            let known = old.backend() == backend;
            return Ok(Some(if known { Entered::Known } else { Entered::Moved }));
        }
        let turn = old.tag().wrapping_add(1) & 0xff_ffff;
        let claimed = FlowValue::new(0, turn, FlowState::Embryonic, now.wrapping_add(1));
        if !replace(old, claimed) {
            return Ok(None);
        }
        if former != Flow::ZERO && self.bound.get(&former)? == Some(index) {
            self.bound.remove(&former)?;
        }
        let entry = Binding {
            client: flow.client,
            value: claimed.0,
            ports: flow.ports,
            service: flow.service as u16,
            _pad: 0,
        };
        let words: [u64; 4] = bytemuck::cast(entry);
        for at in [0, size_of::<u64>(), PORTS] {
            entries.word64(index, at).store(words[at / size_of::<u64>()], Ordering::Release);
        }
        if !replace(claimed, FlowValue::new(backend, turn, state, expires)) {
            return Ok(None);
        }
        self.lead(flow, index)?;
        Ok(Some(Entered::New))
    }

    /// The live entry of a flow.
    fn find(&self, flow: &Flow, now: u16) -> io::Result<Option<u32>> {
        let index = self.bound.get(flow)?.filter(|index| *index < self.entries.entries());
        let is_his = |index: &u32| {
            self.entries.held(*index, now).is_some_and(|entry| flow_of(&entry) == *flow)
        };
        Ok(index.filter(is_his))
    }

    /// Has packets of a flow find its entry.
    fn lead(&self, flow: &Flow, index: u32) -> io::Result<()> {
        if self.bound.get(flow)? == Some(index) { Ok(()) } else { self.bound.set(flow, index) }
    }
}

/// `BOUND` of a data plane in private memory.
#[cfg(test)]
#[derive(Default)]
pub(super) struct FakeBound(Mutex<std::collections::HashMap<[u32; 6], u32>>);

#[cfg(test)]
impl Bound for FakeBound {
    fn get(&self, flow: &Flow) -> io::Result<Option<u32>> {
        Ok(self.0.lock().unwrap().get(&bytemuck::cast::<_, [u32; 6]>(*flow)).copied())
    }

    fn set(&self, flow: &Flow, index: u32) -> io::Result<()> {
        self.0.lock().unwrap().insert(bytemuck::cast(*flow), index);
        Ok(())
    }

    fn remove(&self, flow: &Flow) -> io::Result<()> {
        self.0.lock().unwrap().remove(&bytemuck::cast::<_, [u32; 6]>(*flow));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::MAX_TIMEOUT;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_over_is_released() {
        let bindings = Mapped::<Binding>::anonymous(5).unwrap();
        let now = 3_u16;
        for (index, left) in [(0, -1), (1, 0), (2, -2000), (3, MAX_TIMEOUT.cast_signed())] {
            let expires = now.wrapping_add_signed(left);
            let value = FlowValue::new(7, 1, FlowState::Established, expires).0;
            bindings.write(index, &Binding { value, ports: 9, ..Binding::ZERO });
        }
        assert_eq!(bindings.sweep(0..5, now), 2);
        let held = |index: &u32| bindings.read(*index).value != 0;
        assert_eq!((0..5).filter(held).collect::<Vec<_>>(), [1, 3]);
        // What the flow was tells the next one what to forget.
        assert_eq!(bindings.read(0).ports, 9);
    }

    const NOW: u16 = 7;

    fn flow(number: u64) -> Flow {
        Flow { client: [number, 0], ports: number as u32, service: 3 }
    }

    fn bindings(entries: u32) -> Bindings {
        let entries = Mapped::anonymous(entries).unwrap();
        Bindings::new(Arc::new(entries), Box::<FakeBound>::default())
    }

    proptest! {
        /// Who stands by has at last what it was told last, of each port and each flow.
        #[test]
        fn who_yields_has_what_it_was_told_last(
            told in prop::collection::vec((0_u32..6, 0_u64..6, 1_u16..4, -1_i16..3), 1..60),
        ) {
            let bindings = bindings(6);
            let mut last = std::collections::BTreeMap::new();
            for (index, number, backend, left) in told {
                let expires = NOW.wrapping_add_signed(left);
                let new = (backend, FlowState::Established, expires);
                let entered = bindings.enter(index, &flow(number), new, NOW, true).unwrap();
                let known = last.insert(index, (number, backend, left));
                let expected = match known {
                    Some((had, at, left)) if had == number && left >= 0 => {
                        if at == backend { Entered::Known } else { Entered::Moved }
                    }
                    _ => Entered::New,
                };
                prop_assert_eq!(entered, expected);
                let found = bindings.find(&flow(number), NOW).unwrap();
                prop_assert_eq!(found, (left >= 0).then_some(index));
                for (index, (number, backend, left)) in &last {
                    let live = bindings.entries.held(*index, NOW);
                    prop_assert_eq!(live.is_some(), *left >= 0);
                    let is_his = |entry: Binding| {
                        flow_of(&entry) == flow(*number)
                            && FlowValue(entry.value).backend() == *backend
                    };
                    prop_assert!(live.is_none_or(is_his));
                    // No flow is led to a port that is another's.
                    let led = bindings.bound.get(&flow(*number)).unwrap();
                    let free = |led| last.get(&led).is_some_and(|(owner, ..)| owner == number);
                    prop_assert!(led.is_none_or(free));
                }
            }
        }
    }

    #[test]
    fn who_serves_keeps_its_own() {
        let bindings = bindings(4);
        let new = |backend| (backend, FlowState::Established, NOW + 9);
        let enter = |index, number, backend, yields| {
            bindings.enter(index, &flow(number), new(backend), NOW, yields).unwrap()
        };
        assert_eq!(enter(1, 1, 5, true), Entered::New);
        // Another flow at its port, another port of its own, another backend.
        assert_eq!(enter(1, 2, 5, false), Entered::Known);
        assert_eq!(enter(2, 1, 5, false), Entered::Known);
        assert_eq!(enter(1, 1, 6, false), Entered::Known);
        let found = |number| bindings.find(&flow(number), NOW).unwrap();
        assert_eq!((found(1), found(2)), (Some(1), None));
        assert_eq!(bindings.entries.value(1).backend(), 5);
        assert_eq!(bindings.entries.value(2).0, 0);
        // What it has not.
        assert_eq!(enter(3, 3, 5, false), Entered::New);
        assert_eq!(found(3), Some(3));
    }

    #[test]
    fn a_port_that_changes_hands_has_another_turn_and_leads_nobody_astray() {
        let bindings = bindings(2);
        let new = (5, FlowState::Established, NOW + 9);
        bindings.enter(1, &flow(1), new, NOW, true).unwrap();
        let turn = bindings.entries.value(1).tag();
        bindings.enter(1, &flow(2), new, NOW, true).unwrap();
        assert_ne!(bindings.entries.value(1).tag(), turn);
        assert_eq!(bindings.bound.get(&flow(1)).unwrap(), None);
        // A packet that claims an entry is not disturbed.
        let claimed = FlowValue::new(0, 9, FlowState::Embryonic, NOW + 1);
        bindings.entries.write(0, &Binding { value: claimed.0, ..Binding::ZERO });
        assert_eq!(bindings.enter(0, &flow(3), new, NOW, true).unwrap(), Entered::NoRoom);
        assert_eq!(bindings.entries.held(0, NOW), None);
        assert_eq!(bindings.entries.value(0), claimed);
    }

    #[test]
    fn what_is_spent_is_released() {
        let bindings = bindings(4);
        for index in 0..4 {
            let new = (index as u16 + 1, FlowState::Established, NOW + 9);
            bindings.enter(index, &flow(index.into()), new, NOW, true).unwrap();
        }
        let released = bindings.entries.release(0..4, |index, value| {
            assert_eq!(u32::from(value.backend()), index + 1);
            index % 2 == 0
        });
        assert_eq!(released, 2);
        let held = |index: &u32| bindings.entries.held(*index, NOW).is_some();
        assert_eq!((0..4).filter(held).collect::<Vec<_>>(), [1, 3]);
    }
}

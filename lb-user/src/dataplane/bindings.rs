//! Releases ports of mode `fullnat`, beside the packets that take them.

use std::{mem::offset_of, ops::Range, sync::atomic::Ordering};

use lb_common::{binding::Binding, flow::FlowValue};

use super::mmap::Mapped;

const VALUE: usize = offset_of!(Binding, value);

impl Mapped<Binding> {
    /// Releases entries whose time is up: how many. Packets treat them as free anyway,
    /// but their clock wraps after 18 hours, see [`Mapped::sweep`] of flows. A packet
    /// that claims one at the same moment keeps it.
    pub fn sweep(&self, entries: Range<u32>, now: u16) -> u32 {
        let release = |index: u32| {
            let word = self.word64(index, VALUE);
            let value = word.load(Ordering::Acquire);
            let over = value != 0 && FlowValue(value).left(now) < 0;
            over && word.compare_exchange(value, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        entries.map(|index| u32::from(release(index))).sum()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{FlowState, MAX_TIMEOUT};

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
}

//! What becomes of a packet.

use lb_common::stats::Counter;

/// The end of a packet's way. Only `main.rs` turns it into an action and a
/// counter.
///
/// One word, because a BPF function that is not inlined returns one register.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Verdict(u64);

/// What a [`Verdict`] says.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    /// To the kernel.
    Pass,
    /// Nowhere.
    Drop,
    /// Back out of the interface it came in by.
    Transmit,
    /// Out of another interface.
    Redirect,
    /// On in `lb_fullnat`, with this backend (0: it is not on its way to one). A program
    /// calls it at its end: what functions call by way of a map comes back to them.
    FullNat,
}

impl Verdict {
    #[inline(always)]
    const fn new(action: Action, value: u32) -> Self {
        Self((action as u64) << 32 | value as u64)
    }

    /// To the kernel, counted.
    #[inline(always)]
    pub(crate) const fn pass(counter: Counter) -> Self {
        Self::new(Action::Pass, counter as u32)
    }

    /// Nowhere, for this reason.
    #[inline(always)]
    pub(crate) const fn drop(reason: Counter) -> Self {
        Self::new(Action::Drop, reason as u32)
    }

    /// Nowhere, for the reason with this number.
    #[inline(always)]
    pub(crate) const fn drop_for(reason: u32) -> Self {
        Self::new(Action::Drop, reason)
    }

    /// Back out of the interface it came in by; counted with its backend.
    #[inline(always)]
    pub(crate) const fn transmit() -> Self {
        Self::new(Action::Transmit, 0)
    }

    /// The same, an answer of our own.
    #[inline(always)]
    pub(crate) const fn answer(counter: Counter) -> Self {
        Self::answer_for(counter as u32)
    }

    /// The same, counted by the counter with this number.
    #[inline(always)]
    pub(crate) const fn answer_for(counter: u32) -> Self {
        Self::new(Action::Transmit, counter)
    }

    /// Out of the interface with this index; counted with its backend.
    #[inline(always)]
    pub(crate) const fn redirect(ifindex: u32) -> Self {
        Self::new(Action::Redirect, ifindex)
    }

    /// On in `lb_fullnat`; see [`lb_common::binding::Task::backend`].
    #[inline(always)]
    pub(crate) const fn full_nat(backend: u16) -> Self {
        Self::new(Action::FullNat, backend as u32)
    }

    /// As one register.
    #[inline(always)]
    pub(crate) const fn to_raw(self) -> u64 {
        self.0
    }

    /// From what [`Self::to_raw`] gave.
    #[inline(always)]
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// What to do.
    #[inline(always)]
    pub(crate) const fn action(self) -> Action {
        match self.0 >> 32 {
            0 => Action::Pass,
            1 => Action::Drop,
            2 => Action::Transmit,
            3 => Action::Redirect,
            _ => Action::FullNat,
        }
    }

    /// Number of the counter (0: none but for [`Action::Pass`]), interface index, or
    /// backend.
    #[inline(always)]
    pub(crate) const fn value(self) -> u32 {
        self.0 as u32
    }
}

/// Not ours: the kernel gets it untouched.
pub(crate) const PASS: Verdict = Verdict::pass(Counter::Passed);

//! Until when this node serves the groups of its pair, see [`lb_common::lease`].

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{clock::Clock, explain::into_io, mmap::Mapped};

/// A tick of the kernel's, read at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// The leases of the data plane. They may be written by another thread than
/// that which changes the configuration.
pub struct Leases {
    ends: Mapped<u64>,
    clock: Arc<Clock>,
    /// See [`lb_common::config::Config::tick_scale`].
    tick_scale: u64,
}

impl Leases {
    /// Takes over `LEASES`, and ends all leases: an earlier agent's groups may
    /// have been others.
    pub(super) fn take_over(ends: Mapped<u64>, clock: Arc<Clock>, tick_scale: u64) -> Self {
        let leases = Self { ends, clock, tick_scale };
        (0..leases.ends.entries() as usize).for_each(|group| leases.set(group, None));
        leases
    }

    /// The current moment, by the clock that leases end by.
    ///
    /// To be read *before* it is decided how long a lease lasts: a process that
    /// is stopped after that then writes a lease that is over already.
    ///
    /// # Errors
    /// The kernel refused to run the program.
    pub fn now(&self) -> io::Result<Moment> {
        self.clock.now().map(|now| Moment(now.tick)).map_err(into_io)
    }

    /// Has this node serve the group at a position for so long from a moment
    /// on, at most: its lease ends up to two ticks earlier. `None`: it does not
    /// serve it.
    ///
    /// # Panics
    /// There is no such group: see [`lb_common::limits::GROUPS`].
    pub fn set(&self, group: usize, lease: Option<(Moment, Duration)>) {
        let end = lease.map_or(0, |(from, length)| end(from, length, self.tick_scale));
        self.ends.word64(group as u32, 0).store(end, Ordering::Release);
    }
}

/// The tick at which a lease ends, rounded down: the moment may have been just
/// before the next tick.
fn end(Moment(from): Moment, length: Duration, tick_scale: u64) -> u64 {
    // `tick_scale` is `2^32 / HZ`, rounded down.
    let rate = ((1 << 32) + tick_scale / 2) / tick_scale;
    let ticks = length.as_nanos() * u128::from(rate) / Duration::from_secs(1).as_nanos();
    from.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_rate() -> impl Strategy<Value = u64> {
        prop::sample::select(vec![100, 250, 300, 1000, 1024])
    }

    proptest! {
        #[test]
        fn a_lease_is_never_longer_than_it_was_meant(
            rate in any_rate(), from in 0..u64::MAX / 2, nanos in 0..1_000_000_000_000_u64
        ) {
            let length = Duration::from_nanos(nanos);
            let ticks = end(Moment(from), length, (1 << 32) / rate) - from;
            let (lasts, meant) = (u128::from(ticks) * 1_000_000_000, length.as_nanos() * u128::from(rate));
            prop_assert!(lasts <= meant && meant - lasts < 1_000_000_000, "{} ticks", ticks);
        }

        #[test]
        fn whole_ticks_are_what_they_are(rate in any_rate(), seconds in 0..1000_u64) {
            let length = Duration::from_secs(seconds);
            prop_assert_eq!(end(Moment(7), length, (1 << 32) / rate), 7 + seconds * rate);
        }
    }

    #[test]
    fn what_does_not_fit_lasts_for_ever() {
        assert_eq!(end(Moment(1), Duration::MAX, 1 << 22), u64::MAX);
    }
}

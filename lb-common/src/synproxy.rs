//! The SYN proxy (`syn_cookies_above`): while more SYNs come than a service is to see, a
//! client's SYN is answered with a [cookie](crate::cookie), and the connection with the
//! backend is opened when the client has confirmed it. From then on both have numbered
//! the backend's bytes from different beginnings, so each packet is translated.
//!
//! # The table
//! `PROXIED` has an entry for each such connection: a key ([`crate::hash::flow_key_hashed`]
//! with the service's salt, so the same on both nodes of a pair) and a value, in buckets of
//! four, two for each key. Unlike there nothing is displaced
//! before its time is up: only who has confirmed a cookie has an entry. And every change
//! is a compare-and-swap, packets' and agent's alike:
//! - who enters a connection swaps the key of a slot whose time is up for its own, then
//!   the value, and looks at the key again: another one may have taken it in between;
//! - who finds its key with a value whose time is up has found nothing.
//!
//! What two packets of one connection do at once is done by one of them; the other goes
//! by what it found.

use crate::{
    flow::{SLOTS, Timeouts},
    pod::map_type,
};

map_type! {
    /// A bucket of `PROXIED`: one 64-byte cache line. Key 0 is an empty slot.
    pub struct Bucket: 64 {
        /// Keys of connections.
        0 => pub keys: [u64; SLOTS],
        /// [`Proxied`] as a word.
        32 => pub values: [u64; SLOTS],
    }
}

/// How windows to the client are shifted, whatever the backend's shift is
/// (RFC 7323, section 2.2), if the client offered that.
pub const SCALE: u8 = 7;

/// Seconds that a connection is kept without a packet at least (RFC 5382, section 5):
/// without its entry it is lost.
pub const IDLE: u16 = 7440;
/// Seconds that it is kept when one side has closed it, likewise (REQ-5 there).
pub const HALF: u16 = 240;
/// Seconds that a backend has to accept a connection, unless the service has less.
pub const OPENING: u16 = 30;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The client has confirmed a cookie, the backend has not answered yet.
    Opening = 0,
    /// Both are there.
    Open = 1,
    /// Two FIN or RST seen: of both sides, unless one was said again.
    Closing = 2,
    /// One FIN or RST seen: the other side may go on for long, and whoever knows the ports
    /// can forge one.
    Half = 3,
}

/// Bit of a value, see [`Proxied::is_challenged`].
const CHALLENGED: u64 = 1 << 47;

/// Value of an entry, as a word; 0: nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied(pub u64);

impl Proxied {
    /// A connection whose client confirmed `cookie`. `scale` is the client's, see
    /// [`crate::cookie::Offer::scale`]; `group` the service's, see [`crate::lease::group`].
    #[inline(always)]
    #[must_use]
    pub const fn opening(cookie: u32, scale: u8, group: u16, expires: u16) -> Self {
        let rest = (scale as u64 & 15) << 34 | (group as u64 & 31) << 42;
        Self(cookie as u64 | rest | (expires as u64) << 48)
    }

    /// The same when its backend has accepted it: with `sequence` as first number (host
    /// byte order), and its own shift of windows.
    #[inline(always)]
    #[must_use]
    pub const fn opened(self, sequence: u32, scale: u8, expires: u16) -> Self {
        let offset = sequence.wrapping_sub(self.number());
        let kept = self.0 & (15 << 34 | 31 << 42);
        let new = offset as u64 | (Stage::Open as u64) << 32 | (scale as u64 & 15) << 38;
        Self(kept | new | (expires as u64) << 48)
    }

    /// While it is opening the cookie; then what is to be added to the client's numbers of
    /// the backend's bytes to have the backend's.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Number of the [`Stage`].
    #[inline(always)]
    #[must_use]
    pub const fn stage(self) -> u8 {
        (self.0 >> 32 & 3) as u8
    }

    /// Whether the backend has not accepted it yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(self) -> bool {
        self.stage() == Stage::Opening as u8
    }

    /// The client's shift of windows, see [`crate::cookie::Offer::scale`].
    #[inline(always)]
    #[must_use]
    pub const fn client_scale(self) -> u8 {
        (self.0 >> 34 & 15) as u8
    }

    /// The backend's, likewise.
    #[inline(always)]
    #[must_use]
    pub const fn backend_scale(self) -> u8 {
        (self.0 >> 38 & 15) as u8
    }

    /// See [`crate::lease::group`]; 0: none.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u16 {
        (self.0 >> 42 & 31) as u16
    }

    /// Whether a SYN was answered since: the client may have begun another connection, and
    /// a packet that confirms the cookie says that it has.
    #[inline(always)]
    #[must_use]
    pub const fn is_challenged(self) -> bool {
        self.0 & CHALLENGED != 0
    }

    /// The same when a packet shows that the connection lives.
    #[inline(always)]
    #[must_use]
    pub const fn alive(self) -> Self {
        Self(self.0 & !CHALLENGED)
    }

    /// The stage behind a FIN or RST.
    #[inline(always)]
    #[must_use]
    pub const fn closed(self) -> u8 {
        if self.stage() == Stage::Open as u8 { Stage::Half as u8 } else { Stage::Closing as u8 }
    }

    /// The same when a SYN is answered.
    #[inline(always)]
    #[must_use]
    pub const fn challenged(self) -> Self {
        Self(self.0 | CHALLENGED)
    }

    /// Seconds left to live; negative when it is over.
    #[inline(always)]
    #[must_use]
    pub const fn left(self, now: u16) -> i16 {
        ((self.0 >> 48) as u16).wrapping_sub(now).cast_signed()
    }

    /// The same with another life, and perhaps in another stage.
    #[inline(always)]
    #[must_use]
    pub const fn touched(self, stage: u8, expires: u16) -> Self {
        let kept = self.0 & !(3 << 32 | 0xffff << 48);
        Self(kept | (stage as u64 & 3) << 32 | (expires as u64) << 48)
    }

    /// The same of another group, for a node that numbers them otherwise.
    #[must_use]
    pub const fn of_group(self, group: u16) -> Self {
        Self(self.0 & !(31 << 42) | (group as u64 & 31) << 42)
    }

    /// A window of the backend's as the client is to read it. Whatever its shift, the
    /// client takes it to be [`SCALE`], or none.
    #[inline(always)]
    #[must_use]
    pub const fn window_to_client(self, window: u16) -> u16 {
        shift(window, self.backend_scale(), announced(self.client_scale()))
    }

    /// A window of the client's as the backend is to read it: one that knows no shift
    /// takes it as it is.
    #[inline(always)]
    #[must_use]
    pub const fn window_to_backend(self, window: u16) -> u16 {
        let scale = self.client_scale();
        let read = if self.backend_scale() == crate::cookie::UNSCALED { 0 } else { scale };
        shift(window, scale, read)
    }
}

/// The shift that is announced to a client with this one.
#[inline(always)]
#[must_use]
pub const fn announced(client: u8) -> u8 {
    if client == crate::cookie::UNSCALED { crate::cookie::UNSCALED } else { SCALE }
}

/// A window that was shifted by `from`, shifted by `to`: as large as can be said.
#[inline(always)]
#[must_use]
pub const fn shift(window: u16, from: u8, to: u8) -> u16 {
    let wide = (window as u32) << bits(from) >> bits(to);
    if wide > 0xffff { 0xffff } else { wide as u16 }
}

#[inline(always)]
const fn bits(scale: u8) -> u32 {
    if scale == crate::cookie::UNSCALED { 0 } else { scale as u32 & 15 }
}

/// How long an entry lives in a stage, in seconds.
#[inline(always)]
#[must_use]
pub const fn timeout(of_service: Timeouts, stage: u8) -> u16 {
    let Timeouts { embryonic, established, closing } = of_service;
    if stage == Stage::Open as u8 {
        if established > IDLE { established } else { IDLE }
    } else if stage == Stage::Half as u8 {
        if established > HALF { HALF } else { established }
    } else if stage == Stage::Closing as u8 {
        closing
    } else if embryonic < OPENING {
        embryonic
    } else {
        OPENING
    }
}

/// How many SYNs a second a service is to see that nobody has confirmed, as it is in
/// [`crate::service::Service::syn_rate`]: five bits of exponent and eleven of mantissa,
/// and one more; 0: any number, 1: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynRate(pub u16);

/// A second of [`crate::pace`].
const SECOND: u64 = 1 << 32;

impl SynRate {
    /// All that come: the service answers none any more, but connections go on.
    pub const ALL: Self = Self(u16::MAX);

    /// At most `rate` a second, and as many at once; above 2047 in steps of less than a
    /// thousandth.
    #[must_use]
    pub const fn new(rate: u32) -> Self {
        let mut exponent = 0;
        while rate >> exponent > 2047 {
            exponent += 1;
        }
        Self((exponent << 11 | (rate >> exponent) as u16) + 1)
    }

    /// How many a second.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u64 {
        let code = self.0.wrapping_sub(1);
        (code as u64 & 2047) << (code >> 11)
    }

    /// Whether a SYN may pass `now`, when the next one is `due`: if so, when the one after
    /// it is.
    #[inline(always)]
    #[must_use]
    pub const fn admit(self, due: u64, now: u64) -> Option<u64> {
        match SECOND.checked_div(self.get()) {
            None => None,
            Some(interval) => crate::pace::next(due, now, interval, SECOND),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cookie::UNSCALED;

    proptest! {
        #[test]
        fn a_value_gives_back_what_was_put_in(
            cookie: u32, sequence: u32, client in 0_u8..16, backend in 0_u8..16,
            group in 0_u16..=16, expires: u16, later: u16,
        ) {
            let opening = Proxied::opening(cookie, client, group, expires);
            prop_assert!(opening.is_opening() && opening.left(expires) == 0);
            prop_assert_eq!((opening.number(), opening.client_scale()), (cookie, client));
            let open = opening.opened(sequence, backend, later);
            prop_assert_eq!(cookie.wrapping_add(open.number()), sequence);
            prop_assert_eq!((open.client_scale(), open.backend_scale()), (client, backend));
            prop_assert_eq!((open.group(), open.stage(), open.left(later)), (group, 1, 0));
            let closing = open.touched(Stage::Closing as u8, expires);
            prop_assert_eq!((closing.stage(), closing.left(expires)), (2, 0));
            prop_assert_eq!(closing.touched(1, later), open);
            prop_assert!(open.challenged().is_challenged() && !open.is_challenged());
            prop_assert_eq!(open.challenged().group(), group);
            prop_assert_eq!(open.challenged().alive(), open);
            let half = open.touched(open.closed(), later);
            prop_assert_eq!((open.closed(), half.closed(), closing.closed()), (3, 2, 2));
            prop_assert_eq!(open.of_group(3).of_group(group), open);
        }

        #[test]
        fn windows_are_what_they_were_as_far_as_they_can_be_said(
            window: u16, client in 0_u8..=15, backend in 0_u8..=15,
        ) {
            // A backend is offered a shift only if the client offers one.
            let backend = if client == UNSCALED { UNSCALED } else { backend };
            let bits = |scale: u8| if scale == UNSCALED { 0 } else { scale };
            let value = Proxied::opening(0, client, 0, 0).opened(0, backend, 0);
            let real = u64::from(window) << bits(backend);
            let read = u64::from(value.window_to_client(window)) << bits(announced(client));
            let most = 0xffff << bits(announced(client));
            prop_assert!(read <= real && (read + 128 > real || read == most));
            let real = u64::from(window) << bits(client);
            let of_backend = if backend == UNSCALED { 0 } else { bits(client) };
            let read = u64::from(value.window_to_backend(window)) << of_backend;
            prop_assert_eq!(read, real.min(0xffff << of_backend));
        }

        #[test]
        fn a_rate_is_kept_within_a_thousandth(rate: u32) {
            let kept = SynRate::new(rate).get();
            prop_assert!(kept <= rate.into() && kept + u64::from(rate) / 1000 >= rate.into());
            prop_assert!(SynRate::new(rate).0 != 0);
        }

        #[test]
        fn as_many_pass_as_may(rate in 1_u32..100_000, seconds in 1_u64..4) {
            let (code, mut due, mut passed) = (SynRate::new(rate), 0, 0_u64);
            let rate = code.get();
            let begin = 400 * SECOND;
            for step in 0..=seconds * 1000 {
                let now = begin + step * (SECOND / 1000);
                for _ in 0..rate / 500 + 2 {
                    if let Some(next) = code.admit(due, now) {
                        (due, passed) = (next, passed + 1);
                    }
                }
            }
            let expected = rate * seconds;
            // As many as of one second more where they are saved up.
            prop_assert!(passed >= expected.min(2 * 1000 * seconds) && passed <= expected + rate + rate / 1000 + 2);
        }
    }

    #[test]
    fn of_none_none_pass() {
        assert_eq!(SynRate::new(0), SynRate(1));
        assert_eq!(SynRate::new(0).admit(0, 1 << 40), None);
        assert!((0..10_000).all(|due| SynRate::ALL.admit(due, 1 << 40).is_some()));
        assert_eq!(SynRate::new(u32::MAX).get() >> 21, 2047);
    }

    #[test]
    fn an_idle_connection_is_kept_for_two_hours_at_least() {
        let of = Timeouts { embryonic: 60, established: 600, closing: 30 };
        assert_eq!(timeout(of, Stage::Half as u8), HALF);
        assert_eq!(timeout(Timeouts { established: 2, ..of }, Stage::Half as u8), 2);
        let of_stages = |of| {
            [Stage::Opening, Stage::Open, Stage::Closing].map(|stage| timeout(of, stage as u8))
        };
        assert_eq!(of_stages(of), [OPENING, IDLE, 30]);
        assert_eq!(of_stages(Timeouts { embryonic: 5, established: 9000, ..of }), [5, 9000, 30]);
    }
}

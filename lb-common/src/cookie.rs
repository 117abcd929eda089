//! SYN cookies (RFC 4987, section 3.6): the sequence number of an answer to a SYN that
//! is a proof of the SYN when the client confirms it, so that nothing is kept of who has
//! not shown that he gets what is sent to him.
//!
//! A cookie has, from its highest bit: the period it was made in (2), what the client's
//! SYN offered ([`Offer`]: 4, 1, 2), and 23 bits of SipHash-2-4 over all of this and the
//! connection. Two of 2^23 guesses are right at a time, as of the kernel's cookies. The
//! kernel's helpers make cookies of 4 sizes of segments, do not give back which it was,
//! and have a secret of each host; these have the secret of a pair, and the rest of the
//! offer need not be lost.

/// What a client's SYN offers (RFC 9293, section 3.7.1; RFC 7323, section 2; RFC 2018,
/// section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Bits by which the client's windows are shifted; [`UNSCALED`] where they are not.
    pub scale: u8,
    /// Whether it takes selective acknowledgements.
    pub sack: bool,
    /// Class of the longest segment it takes, see [`segment_size`].
    pub size: u8,
}

/// No shift of windows was offered.
pub const UNSCALED: u8 = 15;

/// The longest segment of a class, 0 to 3; of IPv4 as the kernel's cookies have them.
#[inline(always)]
#[must_use]
pub const fn segment_size(v4: bool, class: u8) -> u16 {
    match (class & 3, v4) {
        (0, true) => 536,
        (0, false) => 1220,
        (1, _) => 1300,
        (2, true) => 1440,
        (2, false) => 1420,
        (_, true) => 1460,
        (_, false) => 1440,
    }
}

impl Offer {
    /// An offer: the largest class that is not longer than what the client takes (0: it
    /// does not say). `scale` above 14 counts as 14 (RFC 7323, section 2.3).
    #[inline(always)]
    #[must_use]
    pub const fn new(v4: bool, size: u16, sack: bool, scale: Option<u8>) -> Self {
        let class = if size >= segment_size(v4, 3) {
            3
        } else if size >= segment_size(v4, 2) {
            2
        } else if size >= segment_size(v4, 1) {
            1
        } else {
            0
        };
        let scale = match scale {
            None => UNSCALED,
            Some(scale) if scale > 14 => 14,
            Some(scale) => scale,
        };
        Self { scale, sack, size: class }
    }

    /// As 7 bits.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        (self.scale as u32 & 15) << 3 | (self.sack as u32) << 2 | self.size as u32 & 3
    }

    /// From what [`Self::to_bits`] gave; more bits are ignored.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self { scale: (bits >> 3 & 15) as u8, sack: bits & 4 != 0, size: (bits & 3) as u8 }
    }
}

/// Who opens a connection with whom. Words as loaded from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client's address.
    pub client: [u64; 2],
    /// The VIP.
    pub vip: [u64; 2],
    /// Ports as the client sends them, see [`crate::hash::ports`].
    pub ports: u32,
    /// The client's first sequence number (host byte order).
    pub sequence: u32,
}

/// Nanoseconds of a period, as a shift: 68.7 seconds.
const PERIOD: u32 = 36;

/// The period of a moment of International Atomic Time, in nanoseconds: both nodes of a
/// pair have the same one or its neighbour.
#[inline(always)]
#[must_use]
pub const fn period(now: u64) -> u32 {
    (now >> PERIOD) as u32
}

/// The cookie for a connection.
#[inline(always)]
#[must_use]
pub const fn make(key: [u64; 2], of: &Connection, offer: Offer, period: u32) -> u32 {
    let bits = offer.to_bits();
    (period & 3) << 30 | bits << 23 | proof(key, of, bits, period)
}

/// What the SYN offered, if the cookie is one for this connection, of this period (which
/// a cookie names by its last two bits) or one beside it.
#[inline(always)]
#[must_use]
pub const fn check(key: [u64; 2], of: &Connection, cookie: u32, period: u32) -> Option<Offer> {
    // 0: this one, 1: the next one (of a peer whose clock is ahead), 3: the last one.
    let ahead = (cookie >> 30).wrapping_sub(period) & 3;
    if ahead == 2 {
        return None;
    }
    let made = period.wrapping_add(if ahead == 3 { u32::MAX } else { ahead });
    let bits = cookie >> 23 & 0x7f;
    if cookie & PROOF == proof(key, of, bits, made) { Some(Offer::from_bits(bits)) } else { None }
}

const PROOF: u32 = (1 << 23) - 1;

#[inline(always)]
const fn proof(key: [u64; 2], of: &Connection, offer: u32, period: u32) -> u32 {
    let words = [
        of.client[0],
        of.client[1],
        of.vip[0],
        of.vip[1],
        of.ports as u64 | (period as u64) << 32,
        of.sequence as u64 | (offer as u64) << 32,
    ];
    siphash(key, &words) as u32 & PROOF
}

/// SipHash-2-4 of whole words (J.-P. Aumasson, D. J. Bernstein: SipHash, 2012).
#[inline(always)]
#[must_use]
const fn siphash(key: [u64; 2], words: &[u64; 6]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i <= words.len() {
        // The last one has the length in bytes.
        let word = if i < words.len() { words[i] } else { (words.len() as u64 * 8) << 56 };
        v[3] ^= word;
        v = round(round(v));
        v[0] ^= word;
        i += 1;
    }
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v2 = v2.wrapping_add(v3);
    v1 = v1.rotate_left(13) ^ v0;
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v1);
    v0 = v0.wrapping_add(v3);
    v1 = v1.rotate_left(17) ^ v2;
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn connections()(client: [u64; 2], vip: [u64; 2], ports: u32, sequence: u32)
            -> Connection
        {
            Connection { client, vip, ports, sequence }
        }
    }

    proptest! {
        #[test]
        fn the_hash_is_the_library_s(key: [u64; 2], words: [u64; 6]) {
            #[expect(deprecated, reason = "there is no other SipHash-2-4 in the library")]
            let mut hasher = std::hash::SipHasher::new_with_keys(key[0], key[1]);
            let bytes: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            std::hash::Hasher::write(&mut hasher, &bytes);
            prop_assert_eq!(siphash(key, &words), std::hash::Hasher::finish(&hasher));
        }

        #[test]
        fn a_cookie_gives_back_the_offer_for_a_while(
            key: [u64; 2], of in connections(), bits in 0_u32..128, period: u32,
        ) {
            let offer = Offer::from_bits(bits);
            prop_assert_eq!(offer.to_bits(), bits);
            let cookie = make(key, &of, offer, period);
            for now in [period, period.wrapping_add(1), period.wrapping_sub(1)] {
                prop_assert_eq!(check(key, &of, cookie, now), Some(offer));
            }
            for later in [2, 3, 4, 5, 100] {
                // By chance one of two million is taken for another period's.
                let found = check(key, &of, cookie, period.wrapping_add(later));
                prop_assert!(found.is_none() || later > 2);
            }
        }

        #[test]
        fn sizes_are_never_longer_than_offered(v4: bool, size in 536_u16.., sack: bool) {
            let offer = Offer::new(v4, size, sack, None);
            let taken = segment_size(v4, offer.size);
            prop_assert!(taken <= size || offer.size == 0);
            prop_assert!(offer.size == 3 || segment_size(v4, offer.size + 1) > size);
            prop_assert_eq!((offer.sack, offer.scale), (sack, UNSCALED));
        }
    }

    #[test]
    fn what_is_another_s_is_refused() {
        let (key, offer) = ([1, 2], Offer::new(true, 1460, true, Some(7)));
        let of = Connection { client: [3, 0], vip: [4, 0], ports: 5, sequence: 6 };
        let cookie = make(key, &of, offer, 7);
        let others = [
            Connection { client: [4, 0], ..of },
            Connection { vip: [3, 0], ..of },
            Connection { ports: 6, ..of },
            Connection { sequence: 7, ..of },
        ];
        assert!(others.iter().all(|other| check(key, other, cookie, 7).is_none()));
        assert_eq!(check([1, 3], &of, cookie, 7), None);
        // No bit may be another.
        assert!((0..32).all(|bit| check(key, &of, cookie ^ 1 << bit, 7).is_none()));
        // One of 2^22 guesses is right.
        let guessed = (0..1_u32 << 16).map(|guess| guess.wrapping_mul(0x9e37_79b9));
        assert!(guessed.filter(|guess| check(key, &of, *guess, 7).is_some()).count() <= 1);
    }

    #[test]
    fn a_scale_is_at_most_fourteen() {
        assert_eq!(Offer::new(false, 9000, false, Some(15)).scale, 14);
        assert_eq!(Offer::new(false, 9000, false, Some(255)).scale, 14);
        assert_eq!(Offer::new(true, 0, false, Some(3)), Offer { scale: 3, sack: false, size: 0 });
    }
}

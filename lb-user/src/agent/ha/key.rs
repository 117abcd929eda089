//! The pair's keys: 32 random bytes each, that both nodes have in a [`mod@file`].
//! Who can read it can speak for a node.
//!
//! There is one, or two while the pair changes from one to the next, see
//! `voice.rs`. A key itself is used for nothing but to derive others, one for
//! each use and pair.

pub mod file;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display};

use ring::{hkdf, hmac};

/// Length of a key in bytes.
const LENGTH: usize = 32;
/// What the secret that places flows is derived for.
const PLACE: &str = "place";

/// A key of a pair.
#[derive(Clone, Debug)]
pub struct Key {
    secret: hkdf::Prk,
    fingerprint: Fingerprint,
}

/// By which a key is known to those who have it: nothing of it can be told from
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

/// The keys of a pair, the newest first, and what places flows.
#[derive(Clone, Debug)]
pub struct Keys {
    /// At least one.
    keys: Vec<Key>,
    place: Key,
}

impl From<[u8; LENGTH]> for Key {
    fn from(secret: [u8; LENGTH]) -> Self {
        // The secret is random: extraction needs no salt (RFC 5869, section 3.1).
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret);
        let [fingerprint, ..] = words(&derive(&secret, "fingerprint", ""));
        Self { secret, fingerprint: Fingerprint(fingerprint) }
    }
}

impl Key {
    /// See [`Fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The secret for one use by one pair: HKDF-SHA256 (RFC 5869) with both names
    /// in `info`. `purpose` has no byte 0, so no two of them run together.
    #[must_use]
    pub fn secret(&self, purpose: &str, pair: &str) -> [u8; LENGTH] {
        derive(&self.secret, purpose, pair)
    }

    /// [`Self::secret`] to authenticate with.
    #[must_use]
    pub fn derive(&self, purpose: &str, pair: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.secret(purpose, pair))
    }
}

impl Keys {
    /// All of them, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The newest.
    #[must_use]
    pub fn newest(&self) -> &Key {
        &self.keys[0]
    }

    /// The oldest.
    #[must_use]
    pub fn oldest(&self) -> &Key {
        &self.keys[self.keys.len() - 1]
    }

    /// The one with this fingerprint.
    #[must_use]
    pub fn get(&self, fingerprint: Fingerprint) -> Option<&Key> {
        self.keys.iter().find(|key| key.fingerprint == fingerprint)
    }

    /// The secret that places flows in the affinity tables of both nodes, see
    /// [`lb_common::hash::place`]. It outlives the keys: recorded flows would not be
    /// found any more by another one.
    #[must_use]
    pub fn place_seed(&self, pair: &str) -> [u64; 2] {
        let [first, second, ..] = words(&self.place.secret(PLACE, pair));
        [first, second]
    }
}

impl From<Key> for Keys {
    fn from(key: Key) -> Self {
        let place = key.secret(PLACE, "").into();
        Self { keys: vec![key], place }
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn derive(secret: &hkdf::Prk, purpose: &str, pair: &str) -> [u8; LENGTH] {
    let info = [b"lb ", purpose.as_bytes(), b"\0", pair.as_bytes()];
    let mut derived = [0; LENGTH];
    let expanded = secret.expand(&info, hkdf::HKDF_SHA256);
    expanded.and_then(|expanded| expanded.fill(&mut derived)).expect("as long as a digest");
    derived
}

/// The bytes of a secret as numbers, big-endian.
fn words(secret: &[u8; LENGTH]) -> [u64; LENGTH / 8] {
    let (words, _) = secret.as_chunks();
    std::array::from_fn(|index| u64::from_be_bytes(words[index]))
}

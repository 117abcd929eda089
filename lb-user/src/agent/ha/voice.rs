//! Which of its keys a node speaks with.
//!
//! It understands all that it has, and every heartbeat says which is the newest
//! that its sender has. So each node knows what the other understands, and speaks
//! with the newest key that it has in common with it. Whichever node gets a new key
//! first, and whenever agents start in between, no frame is lost over it.

use std::path::Path;

use super::{
    ballot::Ballots,
    frame::{Codec, Frame, FrameError},
    key::{Fingerprint, Key, Keys, file::KeyError},
};
use crate::{api, core::ha::Beat};

/// The keys of a node, and what it knows of the peer's.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    pair: String,
    keys: Keys,
    codec: Codec,
    ballots: Ballots,
    spoken: Key,
    /// While the peer is there.
    peer: Option<Known>,
    /// The newest key that the witness answered by.
    witness: Option<Fingerprint>,
}

/// Keys that the peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// That which it speaks with.
    spoken: Fingerprint,
    /// Its newest, which this node need not have.
    newest: Fingerprint,
}

impl Voice {
    /// Of a node that has not heard its peer: which may have the oldest key only.
    pub(super) fn new(keys: Keys, pair: &str) -> Self {
        let (codec, ballots) = (Codec::new(&keys, pair), Ballots::new(&keys, pair));
        let spoken = keys.oldest().clone();
        Self { pair: pair.to_owned(), keys, codec, ballots, spoken, peer: None, witness: None }
    }

    /// The frame of a beat, which answers one that was made with the key `answers`:
    /// who speaks with it understands it.
    pub(super) fn encode(&self, beat: &Beat, answers: Option<Fingerprint>) -> Vec<u8> {
        self.codec.encode(beat, answers.unwrap_or(self.spoken.fingerprint()))
    }

    /// See [`Codec::decode`].
    pub(super) fn decode(&self, datagram: &[u8]) -> Result<Frame, FrameError> {
        self.codec.decode(datagram)
    }

    /// Takes in a frame of the peer's that has an effect: whether anything is new.
    pub(super) fn hear(&mut self, frame: &Frame) -> bool {
        let known = Some(Known { spoken: frame.key, newest: frame.newest });
        if self.peer == known {
            return false;
        }
        self.peer = known;
        self.choose();
        true
    }

    /// Forgets what a peer that is gone had: whether there was anything.
    pub(super) fn forget_peer(&mut self) -> bool {
        self.peer.take().is_some()
    }

    /// Makes sure that this node can go on with other keys, those of `path`.
    ///
    /// # Errors
    /// The peer knows none of them, or may know none, since it was not heard with one;
    /// or recorded flows would not be found.
    pub(super) fn allow(&self, keys: &Keys, path: &Path) -> Result<(), KeyError> {
        if keys.place_seed(&self.pair) != self.place_seed() {
            return Err(KeyError::Displaced { path: path.to_owned() });
        }
        let knows = |peer: Known| peer.all().into_iter().any(|key| keys.get(key).is_some());
        match self.peer {
            Some(peer) if knows(peer) => Ok(()),
            Some(_) => Err(KeyError::Apart { path: path.to_owned() }),
            // What is spoken is what the peer had, as far as anybody knows.
            None if keys.get(self.spoken.fingerprint()).is_some() => Ok(()),
            None => Err(KeyError::Unheard { path: path.to_owned() }),
        }
    }

    /// Makes sure that the witness knows the key by which it would be asked.
    ///
    /// # Errors
    /// It has not answered by that one yet.
    pub(super) fn allow_before_witness(&self, keys: &Keys, path: &Path) -> Result<(), KeyError> {
        let asked_by = keys.oldest().fingerprint();
        if asked_by == self.keys.oldest().fingerprint() || self.witness == Some(asked_by) {
            Ok(())
        } else {
            Err(KeyError::Unwitnessed { path: path.to_owned() })
        }
    }

    /// Whether the witness is to show that it has the newest key, by which it is not
    /// asked yet.
    pub(super) fn probes_witness(&self) -> bool {
        let newest = self.keys.newest().fingerprint();
        newest != self.keys.oldest().fingerprint() && self.witness != Some(newest)
    }

    /// The witness answered by the key at this position: whether that is new.
    pub(super) fn hear_witness(&mut self, key: usize) -> bool {
        let known = self.keys.iter().nth(key).map(Key::fingerprint);
        let is_new = key == 0 && self.witness != known;
        if is_new {
            self.witness = known;
        }
        is_new
    }

    /// Goes on with other keys: whether one has gone.
    pub(super) fn renew(&mut self, keys: Keys) -> bool {
        self.codec = Codec::new(&keys, &self.pair);
        self.ballots = Ballots::new(&keys, &self.pair);
        let before = std::mem::replace(&mut self.keys, keys);
        self.choose();
        before.iter().any(|key| self.keys.get(key.fingerprint()).is_none())
    }

    fn choose(&mut self) {
        let known = self.peer.iter().flat_map(Known::all).chain([self.spoken.fingerprint()]);
        let both = known.into_iter().find_map(|key| self.keys.get(key));
        self.spoken = both.unwrap_or_else(|| self.keys.oldest()).clone();
    }

    /// What is said to the witness, and by it.
    pub(super) fn ballots(&self) -> &Ballots {
        &self.ballots
    }

    /// A secret of the key that is spoken.
    pub(super) fn secret(&self, purpose: &str) -> [u8; 32] {
        self.spoken.secret(purpose, &self.pair)
    }

    /// The same of all keys, the newest first.
    pub(super) fn secrets(&self, purpose: &str) -> Vec<[u8; 32]> {
        self.keys.iter().map(|key| key.secret(purpose, &self.pair)).collect()
    }

    /// See [`Keys::place_seed`].
    pub(super) fn place_seed(&self) -> [u64; 2] {
        self.keys.place_seed(&self.pair)
    }

    /// What an operator is told.
    pub(super) fn status(&self) -> api::HaKey {
        api::HaKey {
            spoken: self.spoken.fingerprint().to_string(),
            newest: self.keys.newest().fingerprint().to_string(),
            peer_newest: self.peer.map(|peer| peer.newest.to_string()),
        }
    }
}

impl Known {
    /// The best first.
    fn all(&self) -> [Fingerprint; 2] {
        [self.newest, self.spoken]
    }
}

#[cfg(test)]
mod tests;

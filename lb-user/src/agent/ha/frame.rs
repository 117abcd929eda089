//! Heartbeats as datagrams.
//!
//! Numbers are in network byte order (big-endian). A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `lbHA` |
//! | 1 | version, 1 |
//! | 1 | flags: 1, it is an answer; 2, `heard` is there; no others |
//! | 1 | priority |
//! | 1 | length of the node's name, 1 to 64 |
//! | 1 | number of candidates, 0 to 4 |
//! | 1 | number of groups, 0 to 16 |
//! | 16 | stamp: number of the run, then of the frame |
//! | 0 or 16 | `heard`, likewise |
//! | 1 to 64 | name of the node, UTF-8 |
//! | 16 each | candidates, likewise |
//! | 17 each | groups: id (8), term (8), stance and preference (1) |
//! | 32 | tag: HMAC-SHA256 (RFC 2104) of everything before it |
//!
//! A group's last byte has the stance in its two lowest bits (0 standby, 1
//! claiming, 2 resigned, 3 active), then whether it is preferred; the others
//! are 0. The tag's key is derived from the pair's key and name, so it tells
//! pairs apart as well. Every beat has one frame only.

use ring::hmac;

use super::key::Key;
use crate::{
    config::value::NAME_LENGTH,
    core::{
        ha::{Beat, CANDIDATES, GroupBeat, Stamp, Stance},
        model::ha::GROUPS,
    },
};

/// Longest frame in bytes: with what is around it, it fits any path of IPv6.
pub const MOST_BYTES: usize =
    HEAD + 2 * STAMP + NAME_LENGTH + CANDIDATES * STAMP + GROUPS * GROUP + TAG;
/// Shortest frame in bytes.
const LEAST_BYTES: usize = HEAD + STAMP + 1 + TAG;

const MAGIC: &[u8; 4] = b"lbHA";
const VERSION: u8 = 1;
/// What the key is derived for.
const PURPOSE: &str = "heartbeat";

/// Bytes of the parts: up to the stamp, a stamp, a group, the tag.
const HEAD: usize = 10;
const STAMP: usize = 16;
const GROUP: usize = 17;
const TAG: usize = 32;

const ANSWER: u8 = 1 << 0;
const HEARD: u8 = 1 << 1;

/// In the order of their numbers.
const STANCES: [Stance; 4] = [Stance::Standby, Stance::Claiming, Stance::Resigned, Stance::Active];
const PREFERRED: u8 = 1 << 2;

/// Why a datagram is no frame of the pair's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It begins otherwise.
    #[error("no heartbeat")]
    Foreign,
    /// Of another version of lb.
    #[error("version {0}, expected {VERSION}")]
    Version(u8),
    /// No frame is that short or long.
    #[error("{0} bytes, expected {LEAST_BYTES} to {MOST_BYTES}")]
    Length(usize),
    /// Of another pair, or somebody has changed or invented it.
    #[error("another pair's key or name")]
    Key,
    /// Made with the pair's key, and yet no frame.
    #[error("malformed")]
    Malformed,
}

/// Makes and reads the frames of a pair.
#[derive(Clone, Debug)]
pub struct Codec {
    key: hmac::Key,
}

impl Codec {
    /// Of the pair of this key and name.
    #[must_use]
    pub fn new(key: &Key, pair: &str) -> Self {
        Self { key: key.derive(PURPOSE, pair) }
    }

    /// The frame of a beat that keeps the limits which its parts state.
    #[must_use]
    pub fn encode(&self, beat: &Beat) -> Vec<u8> {
        let Beat { node, stamp, answer, heard, candidates, priority, groups } = beat;
        let answer = if *answer { ANSWER } else { 0 };
        let flags = answer | if heard.is_some() { HEARD } else { 0 };
        let lengths = [node.len(), candidates.len(), groups.len()].map(|length| length as u8);
        let mut frame = Vec::with_capacity(MOST_BYTES);
        frame.extend(MAGIC);
        frame.extend([VERSION, flags, *priority]);
        frame.extend(lengths);
        frame.extend(stamp_bytes(stamp));
        frame.extend(heard.iter().flat_map(stamp_bytes));
        frame.extend(node.as_bytes());
        frame.extend(candidates.iter().flat_map(stamp_bytes));
        for GroupBeat { id, term, stance, preferred } in groups {
            frame.extend(id.to_be_bytes());
            frame.extend(term.to_be_bytes());
            frame.push(*stance as u8 | if *preferred { PREFERRED } else { 0 });
        }
        frame.extend(hmac::sign(&self.key, &frame).as_ref());
        frame
    }

    /// The beat in a datagram. Until the tag is verified nothing is allocated,
    /// and nothing looked at but the first bytes and the length.
    ///
    /// # Errors
    /// It is no frame of this pair's.
    pub fn decode(&self, datagram: &[u8]) -> Result<Beat, FrameError> {
        let rest = datagram.strip_prefix(MAGIC).ok_or(FrameError::Foreign)?;
        match rest.first() {
            Some(&VERSION) | None => {}
            Some(&version) => return Err(FrameError::Version(version)),
        }
        if !(LEAST_BYTES..=MOST_BYTES).contains(&datagram.len()) {
            return Err(FrameError::Length(datagram.len()));
        }
        let (signed, tag) = datagram.split_at(datagram.len() - TAG);
        hmac::verify(&self.key, signed, tag).map_err(|_| FrameError::Key)?;
        read(&signed[MAGIC.len() + 1..]).ok_or(FrameError::Malformed)
    }
}

fn stamp_bytes(stamp: &Stamp) -> [u8; STAMP] {
    let Stamp { boot, sequence } = stamp;
    (u128::from(*boot) << 64 | u128::from(*sequence)).to_be_bytes()
}

/// Reads what stands between version and tag.
fn read(body: &[u8]) -> Option<Beat> {
    let mut rest = Rest(body);
    let [flags, priority, name, candidates, groups] = rest.bytes()?;
    let within = (1..=NAME_LENGTH).contains(&name.into())
        && usize::from(candidates) <= CANDIDATES
        && usize::from(groups) <= GROUPS;
    if flags & !(ANSWER | HEARD) != 0 || !within {
        return None;
    }
    let stamp = rest.stamp()?;
    let heard = if flags & HEARD != 0 { Some(rest.stamp()?) } else { None };
    let node = str::from_utf8(rest.slice(name.into())?).ok()?.to_owned();
    let candidates = (0..candidates).map(|_| rest.stamp()).collect::<Option<_>>()?;
    let groups = (0..groups).map(|_| rest.group()).collect::<Option<_>>()?;
    let answer = flags & ANSWER != 0;
    rest.0.is_empty().then_some(Beat { node, stamp, answer, heard, candidates, priority, groups })
}

/// What is still to be read.
struct Rest<'f>(&'f [u8]);

impl<'f> Rest<'f> {
    fn slice(&mut self, length: usize) -> Option<&'f [u8]> {
        self.0.split_off(..length)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { boot: self.number()?, sequence: self.number()? })
    }

    fn group(&mut self) -> Option<GroupBeat> {
        let (id, term, [state]) = (self.number()?, self.number()?, self.bytes()?);
        let stance = *STANCES.get(usize::from(state & !PREFERRED))?;
        Some(GroupBeat { id, term, stance, preferred: state & PREFERRED != 0 })
    }
}

#[cfg(test)]
mod tests;

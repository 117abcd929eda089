//! Heartbeats as datagrams.
//!
//! Numbers are in network byte order (big-endian). A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `lbHA` |
//! | 1 | version, 1 |
//! | 1 | flags: 1, it is an answer; 2, `heard` is there; 4, `echo` is; no others |
//! | 1 | priority |
//! | 1 | length of the node's name, 1 to 64 |
//! | 1 | number of groups, 0 to 16 |
//! | 4 | time between heartbeats, microseconds |
//! | 4 | grant, likewise |
//! | 16 | stamp: number of the run, then of the frame |
//! | 0 or 16 | `heard`, likewise |
//! | 0 or 16 | `echo`, likewise |
//! | 1 to 64 | name of the node, UTF-8 |
//! | 25 each | groups: id (8), digest (8), term (8), state (1) |
//! | 32 | tag: HMAC-SHA256 (RFC 2104) of everything before it |
//!
//! A group's state has the stance in its two lowest bits (0 standby, 1
//! claiming, 2 resigned, 3 active), then whether it is preferred, then whether it
//! is fit; the others are 0. The tag's key is derived from the pair's key and
//! name, so it tells pairs apart as well. Every beat has one frame only.

use std::time::Duration;

use ring::hmac;

use super::{key::Key, term::HIGHEST};
use crate::{
    config::value::NAME_LENGTH,
    core::{
        ha::{Beat, GroupBeat, Stamp, Stance},
        model::ha::GROUPS,
    },
};

/// Longest frame in bytes: with what is around it, it fits any path of IPv6.
pub const MOST_BYTES: usize = HEAD + 3 * STAMP + NAME_LENGTH + GROUPS * GROUP + TAG;
/// Shortest frame in bytes.
const LEAST_BYTES: usize = HEAD + STAMP + 1 + TAG;

const MAGIC: &[u8; 4] = b"lbHA";
const VERSION: u8 = 1;
/// What the key is derived for.
const PURPOSE: &str = "heartbeat";

/// Bytes of the parts: up to the stamp, a stamp, a group, the tag.
const HEAD: usize = 17;
const STAMP: usize = 16;
const GROUP: usize = 25;
const TAG: usize = 32;

const ANSWER: u8 = 1 << 0;
const HEARD: u8 = 1 << 1;
const ECHO: u8 = 1 << 2;

/// Longest time in a frame: who has the key has the right to no more.
const LONGEST: Duration = Duration::from_secs(60);

/// In the order of their numbers.
const STANCES: [Stance; 4] = [Stance::Standby, Stance::Claiming, Stance::Resigned, Stance::Active];
const PREFERRED: u8 = 1 << 2;
const FIT: u8 = 1 << 3;

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
        let Beat { node, stamp, answer, interval, heard, grant, echo, priority, groups } = beat;
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let flags =
            flag(*answer, ANSWER) | flag(heard.is_some(), HEARD) | flag(echo.is_some(), ECHO);
        let mut frame = Vec::with_capacity(MOST_BYTES);
        frame.extend(MAGIC);
        frame.extend([VERSION, flags, *priority, node.len() as u8, groups.len() as u8]);
        for time in [interval, grant] {
            frame.extend((time.as_micros() as u32).to_be_bytes());
        }
        for stamp in [Some(stamp), heard.as_ref(), echo.as_ref()].into_iter().flatten() {
            frame.extend(stamp_bytes(stamp));
        }
        frame.extend(node.as_bytes());
        for GroupBeat { id, digest, term, stance, preferred, fit } in groups {
            frame.extend([id, digest, term].map(|number| number.to_be_bytes()).as_flattened());
            frame.push(*stance as u8 | flag(*preferred, PREFERRED) | flag(*fit, FIT));
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
    let [flags, priority, name, groups] = rest.bytes()?;
    let within = (1..=NAME_LENGTH).contains(&name.into()) && usize::from(groups) <= GROUPS;
    if flags & !(ANSWER | HEARD | ECHO) != 0 || !within {
        return None;
    }
    let (interval, grant) = (rest.time()?, rest.time()?);
    let stamp = rest.stamp()?;
    let heard = if flags & HEARD != 0 { Some(rest.stamp()?) } else { None };
    let echo = if flags & ECHO != 0 { Some(rest.stamp()?) } else { None };
    let node = str::from_utf8(rest.slice(name.into())?).ok()?.to_owned();
    let groups = (0..groups).map(|_| rest.group()).collect::<Option<_>>()?;
    let answer = flags & ANSWER != 0;
    let beat = Beat { node, stamp, answer, interval, heard, grant, echo, priority, groups };
    rest.0.is_empty().then_some(beat)
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

    fn time(&mut self) -> Option<Duration> {
        let time = Duration::from_micros(u32::from_be_bytes(self.bytes()?).into());
        (time <= LONGEST).then_some(time)
    }

    fn group(&mut self) -> Option<GroupBeat> {
        let (id, digest, term) = (self.number()?, self.number()?, self.number()?);
        let [state] = self.bytes()?;
        let stance = *STANCES.get(usize::from(state & !(PREFERRED | FIT)))?;
        let (preferred, fit) = (state & PREFERRED != 0, state & FIT != 0);
        let group = GroupBeat { id, digest, term, stance, preferred, fit };
        (term <= HIGHEST).then_some(group)
    }
}

#[cfg(test)]
mod tests;

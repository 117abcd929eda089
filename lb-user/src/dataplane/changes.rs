//! What changes in the affinity table, for the thread that copies flows to the
//! other node of a pair: see [`lb_common::change`].

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use lb_common::{
    change::{BUCKETS, ChangeLine, Mark},
    config::Config,
    flow::{Bucket, FlowState, FlowValue, MAX_TIMEOUT},
    hash::{self, Place},
    synproxy::{self, Proxied},
};

use super::{
    bindings::Bindings,
    clock::Clock,
    explain::into_io,
    flows::{Entered, Entry, wait_for_packets},
    mmap::Mapped,
};
use crate::core::plan::BackendId;

/// Marks that are taken by one access.
const WORD: usize = size_of::<u64>();

/// `PROXIED` and its marks.
pub struct ProxiedChanges {
    /// The table.
    pub table: Arc<Mapped<synproxy::Bucket>>,
    /// `PROXIED_CHANGES`.
    pub marks: Mapped<ChangeLine>,
}

/// The affinity table and its marks. They may be used by another thread than
/// that which changes the configuration.
pub struct Changes {
    /// `FLOWS`.
    pub flows: Arc<Mapped<Bucket>>,
    /// `CHANGES`.
    pub marks: Mapped<ChangeLine>,
    /// Ports of mode `fullnat`.
    pub bindings: Bindings,
    /// Connections that SYN cookies opened.
    pub proxied: ProxiedChanges,
    clock: Arc<Clock>,
    place_seed: [u64; 2],
    mask: u32,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Of a data plane with this `CONFIG`.
    pub(super) fn new(
        flows: Arc<Mapped<Bucket>>,
        marks: Mapped<ChangeLine>,
        bindings: Bindings,
        proxied: ProxiedChanges,
        clock: Arc<Clock>,
        config: &Config,
    ) -> Self {
        Self {
            flows,
            marks,
            bindings,
            proxied,
            clock,
            place_seed: config.place_seed,
            mask: config.flow_mask,
        }
    }

    /// The data plane's second, see [`lb_common::flow::second`].
    ///
    /// # Errors
    /// The kernel refused to run the program that tells it.
    pub fn second(&self) -> io::Result<u16> {
        self.clock.now().map(|now| now.second).map_err(into_io)
    }

    /// Where a key belongs.
    #[must_use]
    pub fn place(&self, key: u64) -> Place {
        hash::place(key, self.place_seed, self.mask)
    }

    /// Enters a flow that the peer has, see [`Mapped::enter`]: one with `left`
    /// seconds to live. A live entry of this node's stays unless it `yields`.
    pub fn enter(
        &self,
        key: u64,
        (backend, state, left): (BackendId, FlowState, u16),
        now: u16,
        yields: bool,
    ) -> Entered {
        let place = self.place(key);
        let expires = now.wrapping_add(left.min(MAX_TIMEOUT));
        let new = FlowValue::new(backend, place.tag, state, expires);
        self.flows.enter(key, new, &place, now, yields)
    }

    /// Enters a connection that the peer opened by a SYN cookie: what became of it, and the
    /// number of its entry. A live entry of this node's stays unless it `yields`.
    pub fn enter_connection(
        &self,
        key: u64,
        value: Proxied,
        now: u16,
        yields: bool,
    ) -> (Entered, Option<u32>) {
        let table = &self.proxied.table;
        let place = hash::place(key, self.place_seed, table.entries() - 1);
        table.enter_connection(key, value, &place, now, yields)
    }

    /// What is known of a connection of a client (its address as loaded from a frame) with
    /// a service that has this salt; `None`: no SYN cookie opened it.
    ///
    /// # Errors
    /// The kernel refused to run the program that tells the second.
    pub fn connection(
        &self,
        client: [u64; 2],
        ports: u32,
        salt: u64,
    ) -> io::Result<Option<Proxied>> {
        let key = hash::flow_key_hashed(client, ports, salt, self.place_seed);
        let table = &self.proxied.table;
        let place = hash::place(key, self.place_seed, table.entries() - 1);
        Ok(table.find(key, &place, self.second()?))
    }

    /// Makes room for flows that found none, where other flows can have other slots: the
    /// keys of these. The kernel waits for packets once, for however many flows.
    ///
    /// # Errors
    /// The kernel does not wait for packets that are being handled; nothing has changed.
    pub fn make_room(&self, keys: impl Iterator<Item = u64>, now: u16) -> io::Result<Vec<u64>> {
        let places = keys.map(|key| self.place(key));
        let moved = self.flows.make_room(places, now, |key| self.place(key), wait_for_packets)?;
        // If they had marks, these were their former buckets'.
        moved.iter().for_each(|moved| self.marks.give_back(moved.bucket, Mark::Changed));
        Ok(moved.into_iter().map(|moved| moved.key).collect())
    }

    /// The slot that has a key, see [`Mapped::find`].
    #[must_use]
    pub fn find(&self, key: u64) -> Option<u32> {
        self.flows.find(key, &self.place(key))
    }

    /// The flows in a bucket whose time is not up at `now`. A slot that a packet
    /// is about to claim is nobody's yet.
    pub fn live(&self, bucket: u32, now: u16) -> impl Iterator<Item = Entry> + '_ {
        let whole = |entry: &Entry| self.place(entry.key).tag == entry.value.tag();
        self.flows.live_in(bucket, now).filter(whole)
    }
}

impl Mapped<ChangeLine> {
    /// Takes the marks of these lines, [`BUCKETS`] buckets each: every bucket
    /// that has one, and the higher of its two. A mark is gone when it is given
    /// out, so what is read of the bucket after that is what it was set for, or
    /// newer. Marks of a line go together: who stops amidst loses some.
    pub fn take(&self, lines: Range<u32>) -> impl Iterator<Item = (u32, Mark)> + '_ {
        // A line without marks is only read, so it stays shared with packets.
        let marked = lines.filter(|&line| self.read(line) != ChangeLine::ZERO);
        marked.flat_map(|line| {
            let taken = self.take_line(line);
            (0..BUCKETS).zip(taken.changed.into_iter().zip(taken.exceptions)).filter_map(
                move |(bucket, marks)| {
                    let mark = match marks {
                        (0, 0) => return None,
                        (_, 0) => Mark::Changed,
                        _ => Mark::Exception,
                    };
                    Some((line * BUCKETS + bucket, mark))
                },
            )
        })
    }

    /// Marks a bucket again whose mark was taken for nothing.
    pub fn give_back(&self, bucket: u32, mark: Mark) {
        let mut line = ChangeLine::ZERO;
        let at = (bucket % BUCKETS) as usize;
        match mark {
            Mark::Changed => line.changed[at] = 1,
            Mark::Exception => line.exceptions[at] = 1,
        }
        let (words, _) = bytemuck::bytes_of(&line).as_chunks::<WORD>();
        for (word, bytes) in words.iter().enumerate().filter(|(_, bytes)| **bytes != [0; WORD]) {
            // Packets may mark others of the line meanwhile.
            let bits = u64::from_ne_bytes(*bytes);
            self.word64(bucket / BUCKETS, word * WORD).fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// How many buckets have a mark.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let lines = (0..self.entries()).map(|line| self.read(line));
        let marked = |line: ChangeLine| {
            let buckets = line.changed.into_iter().zip(line.exceptions);
            buckets.filter(|marks| *marks != (0, 0)).count()
        };
        lines.filter(|line| *line != ChangeLine::ZERO).map(marked).sum()
    }

    fn take_line(&self, line: u32) -> ChangeLine {
        let mut taken = ChangeLine::ZERO;
        let (words, _) = bytemuck::bytes_of_mut(&mut taken).as_chunks_mut::<WORD>();
        for (word, bytes) in words.iter_mut().enumerate() {
            *bytes = self.word64(line, word * WORD).swap(0, Ordering::AcqRel).to_ne_bytes();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LINES: u32 = 4;

    fn any_mark() -> impl Strategy<Value = Mark> {
        prop::sample::select(vec![Mark::Changed, Mark::Exception])
    }

    /// Marks a bucket as packets do.
    fn mark(marks: &Mapped<ChangeLine>, bucket: u32, mark: Mark) {
        let (line, at) = (bucket / BUCKETS, (bucket % BUCKETS) as usize);
        let mut entry = marks.read(line);
        match mark {
            Mark::Changed => entry.changed[at] = 1,
            Mark::Exception => entry.exceptions[at] = 1,
        }
        marks.write(line, &entry);
    }

    proptest! {
        #[test]
        fn every_mark_is_taken_once_and_an_exception_outdoes_a_change(
            set in prop::collection::vec((0..LINES * BUCKETS, any_mark()), 0..40),
            from in 0..=LINES, to in 0..=LINES,
        ) {
            let marks = Mapped::anonymous(LINES).unwrap();
            let mut expected = BTreeMap::new();
            for (bucket, what) in set {
                mark(&marks, bucket, what);
                let known = expected.entry(bucket).or_insert(what);
                *known = what.max(*known);
            }
            prop_assert_eq!(marks.waiting(), expected.len());
            let (inside, outside): (BTreeMap<_, _>, BTreeMap<_, _>) = expected
                .into_iter()
                .partition(|(bucket, _)| (from..to).contains(&(bucket / BUCKETS)));
            prop_assert!(marks.take(from..to).eq(inside.clone()));
            prop_assert_eq!(marks.take(from..to).count(), 0);
            inside.iter().for_each(|(bucket, mark)| marks.give_back(*bucket, *mark));
            prop_assert!(marks.take(from..to).eq(inside));
            prop_assert!(marks.take(0..LINES).eq(outside));
        }
    }

    #[test]
    fn a_mark_is_gone_when_it_is_given_out() {
        let marks = Mapped::anonymous(LINES).unwrap();
        mark(&marks, 40, Mark::Changed);
        for (bucket, what) in marks.take(0..LINES) {
            assert_eq!(marks.read(bucket / BUCKETS), ChangeLine::ZERO);
            mark(&marks, bucket, what);
        }
        assert_eq!(marks.take(0..LINES).collect::<Vec<_>>(), [(40, Mark::Changed)]);
    }
}

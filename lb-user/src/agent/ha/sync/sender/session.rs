//! What is told over one connection.
//!
//! The packet path marks buckets that changed. A mark is taken away, then the
//! bucket is read: so the marks are the queue, with a place for everything, and
//! a peer that is slow, or away, costs nothing. Beside that all buckets are told,
//! pass by pass: by the first a peer that knows nothing learns all, and by the
//! others flows that just go on do not run out there, and what was missed is
//! repaired: what the peer has besides is over.

mod bindings;
mod connections;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use lb_common::{change::Mark, flow::FlowState, lease};
use tokio::sync::oneshot;

use self::connections::{Connections, messages};
use super::{
    super::{
        Common, Groups,
        channel::{Error, Outgoing},
        message::{MOST_BINDINGS, MOST_NAMES, MOST_RECORDS, Message},
    },
    PATIENCE,
    progress::{Kind, Part, Progress},
};
use crate::core::sync::Record;

/// A message is sent at least that often.
const ALIVE: Duration = Duration::from_secs(1);
/// Messages that the peer has not confirmed, after which it is left alone.
const WINDOW: usize = 64;
/// Marked buckets, or buckets of a first pass, that one turn tells at most.
const BUCKETS: u32 = 16_384;
/// Lines of marks that one turn looks at most: four megabytes.
const LINES: u32 = 1 << 16;
/// How long a later pass takes, unless flows live for less than two of them.
const PASS: Duration = Duration::from_secs(15);
/// Time between two turns of who serves: while there are changes, and otherwise.
const TICK: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_millis(25);

/// A connection with the peer.
pub(super) struct Session {
    common: Common,
    say: Outgoing,
    at: Progress,
    /// Whether the peer was told names over this connection.
    named: bool,
    /// Whether it was told all that had changed when this connection began.
    caught_up: bool,
    unconfirmed: VecDeque<Unconfirmed>,
    /// Whether the peer could enter all that it was told.
    whole: bool,
    /// When something was said last.
    said: Instant,
    /// When the latest turn ended, and whether it found changes.
    turned: Instant,
    busy: bool,
    marks: Marks,
    /// Who waits for which message to be confirmed.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    records: u64,
    lag: Option<Duration>,
}

/// A message that the peer has not confirmed.
struct Unconfirmed {
    sequence: u64,
    said: Instant,
    /// Moment after which the changes that it tells of were made.
    since: Option<Instant>,
}

/// Where marks are looked for.
struct Marks {
    /// The line to go on with.
    next: u32,
    /// When the latest whole round began, and the one that goes on.
    whole: Instant,
    began: Instant,
}

/// How telling goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct State {
    /// The peer knows all flows.
    pub(in super::super) complete: bool,
    /// Records told.
    pub(in super::super) records: u64,
    /// How old the changes were, at most, that the peer confirmed last.
    pub(in super::super) lag: Option<Duration>,
}

impl Session {
    /// Goes on with `at`, as far as a peer that has this memory knows of it.
    pub(super) fn new(common: Common, say: Outgoing, mut at: Progress, memory: u64) -> Self {
        let now = Instant::now();
        let marks = [&common.changes.marks, &common.changes.proxied.marks];
        let resumes = at.resume(memory, marks, length(&at) / 2);
        Self {
            common,
            say,
            at,
            named: false,
            caught_up: !resumes,
            unconfirmed: VecDeque::new(),
            whole: true,
            said: now,
            turned: now,
            busy: true,
            marks: Marks { next: 0, whole: now, began: now },
            flushes: Vec::new(),
            records: 0,
            lag: None,
        }
    }

    /// Whether it goes on with an earlier one.
    pub(super) fn resumes(&self) -> bool {
        !self.caught_up
    }

    /// What the peer knows, for the next connection.
    pub(super) fn into_progress(self) -> Progress {
        self.at
    }

    pub(super) fn state(&self) -> State {
        let Self { records, lag, .. } = *self;
        let sequence = self.at.sequence;
        let confirmed = self.unconfirmed.front().map_or(sequence, |next| next.sequence - 1);
        let told = matches!(self.at.pass.kind, Kind::Later(told) if told <= confirmed);
        let complete = told && self.whole;
        State { complete, records, lag }
    }

    /// When there is something to tell again, unless roles or names change.
    pub(super) fn due(&self) -> Instant {
        self.turned
            + match self.at.pass.kind {
                _ if self.at.told() == 0 => ALIVE,
                Kind::Later(_) if !self.busy => QUIET,
                _ => TICK,
            }
    }

    /// Tells everything again.
    pub(super) fn begin_anew(&mut self) {
        self.at.begin_anew();
    }

    /// Takes in what the peer says.
    pub(super) fn hear(&mut self, message: &Message) -> Result<(), Error> {
        let Message::Heard { sequence, whole } = message else { return Err(Error::Malformed) };
        self.whole = *whole;
        while let Some(sent) = self.unconfirmed.pop_front_if(|sent| sent.sequence <= *sequence) {
            self.lag = sent.since.map(|since| since.elapsed()).or(self.lag);
        }
        self.at.confirm(*sequence);
        self.common.owes.store(self.at.owes, Ordering::Relaxed);
        self.answer_flushes();
        Ok(())
    }

    /// Tells what there is to tell.
    pub(super) async fn turn(&mut self) -> Result<(), Error> {
        self.follow().await?;
        if self.unconfirmed.front().is_some_and(|sent| sent.said.elapsed() > PATIENCE) {
            return Err(Error::late());
        }
        if self.unconfirmed.len() < WINDOW {
            self.tell_changes().await?;
            self.go_on().await?;
        }
        if self.said.elapsed() >= ALIVE {
            self.tell(&[], false, None).await?;
        }
        self.turned = Instant::now();
        Ok(())
    }

    /// Tells all changes until now; who waits learns when the peer has them.
    pub(super) async fn flush(&mut self, waits: oneshot::Sender<()>) -> Result<(), Error> {
        self.follow().await?;
        self.tell_all_changes().await?;
        self.flushes.push((self.at.sequence, waits));
        self.answer_flushes();
        Ok(())
    }

    fn answer_flushes(&mut self) {
        let next = self.unconfirmed.front().map_or(u64::MAX, |sent| sent.sequence);
        for (_, waits) in self.flushes.extract_if(.., |(until, _)| *until < next) {
            // Who asked may have lost patience.
            let _ = waits.send(());
        }
    }

    /// Follows names and roles.
    async fn follow(&mut self) -> Result<(), Error> {
        let names = Arc::clone(&self.common.names.borrow());
        if !Arc::ptr_eq(&names, &self.at.names) || !self.named {
            if names.renumbers(&self.at.names) {
                self.begin_anew();
            }
            let all: Vec<_> = names.iter().map(|(id, named)| (id, named.identity)).collect();
            for some in all.chunks(MOST_NAMES) {
                self.say.say(&Message::Names(some.to_vec())).await?;
            }
            (self.at.names, self.named) = (names, true);
        }
        let serving = self.common.serving.borrow().clone();
        let (gained, lost) = self.at.follow(&serving);
        if lost != 0 {
            // What changed just before.
            self.tell_all_changes().await?;
        }
        if gained != 0 {
            self.begin_anew();
        }
        self.at.serving = (self.at.serving | gained) & !lost;
        self.common.owes.store(self.at.owes, Ordering::Relaxed);
        if self.at.pass.kind == Kind::New {
            self.say.say(&Message::Begin).await?;
            (self.at.pass.kind, self.caught_up) = (Kind::First, true);
        }
        Ok(())
    }

    /// Tells all that changed until now.
    async fn tell_all_changes(&mut self) -> Result<(), Error> {
        self.marks.next = 0;
        loop {
            self.tell_changes().await?;
            if self.marks.next == 0 {
                return Ok(());
            }
        }
    }

    /// Tells the flows of marked buckets, those first that the peer's tables
    /// would give another backend.
    async fn tell_changes(&mut self) -> Result<(), Error> {
        if self.at.told() == 0 {
            self.caught_up = true;
            return Ok(());
        }
        let changes = Arc::clone(&self.common.changes);
        let now = changes.second()?;
        if self.marks.next == 0 {
            self.marks.began = Instant::now();
            self.tell_changed_bindings(now).await?;
            self.tell_changed_connections(now).await?;
        }
        let (mut exceptions, mut others) = (Vec::new(), Vec::new());
        let (lines, mut marked) = (changes.marks.entries(), Vec::new());
        let end = lines.min(self.marks.next.saturating_add(LINES));
        while self.marks.next < end && marked.len() < BUCKETS as usize {
            for (bucket, mark) in changes.marks.take(self.marks.next..self.marks.next + 1) {
                let exception = mark == Mark::Exception;
                self.read(bucket, now, if exception { &mut exceptions } else { &mut others });
                marked.push((bucket, mark));
            }
            self.marks.next += 1;
        }
        self.busy = !marked.is_empty() || self.marks.next < lines;
        let since = self.marks.whole;
        let over = self.marks.next == lines;
        if over {
            (self.marks.next, self.marks.whole) = (0, self.marks.began);
        }
        exceptions.append(&mut others);
        if !exceptions.is_empty() {
            self.at.open(self.after(exceptions.len()), Part::Changes(marked));
        }
        self.tell_all(&exceptions, false, Some(since)).await?;
        self.caught_up |= over;
        Ok(())
    }

    /// Goes on with the pass, which is over at once where there is nothing to
    /// tell.
    async fn go_on(&mut self) -> Result<(), Error> {
        if !self.caught_up {
            return Ok(());
        }
        let names = Arc::clone(&self.at.names);
        let buckets = self.common.changes.flows.entries();
        // Bindings come after all buckets, and connections after them.
        let (ports, proxied) = (names.sources().entries(), self.proxied_buckets());
        let all = if self.at.told() == 0 { 0 } else { buckets + ports + proxied };
        let start = self.at.pass.next;
        let end = all.min(start.saturating_add(self.pace(all)));
        if start < end {
            let (now, mut records, mut bindings) =
                (self.common.changes.second()?, Vec::new(), Vec::new());
            let mut connections = Connections::default();
            for at in start..end {
                match (at.checked_sub(buckets), at.checked_sub(buckets + ports)) {
                    (None, _) => self.read(at, now, &mut records),
                    (Some(position), None) => {
                        self.read_binding(names.sources().entry(position), now, &mut bindings);
                    }
                    (_, Some(bucket)) => self.read_connections(bucket, now, &mut connections),
                }
            }
            let until = self.after(records.len())
                + bindings.len().div_ceil(MOST_BINDINGS) as u64
                + messages(&connections);
            if self.at.pass.kind == Kind::First && until > self.at.sequence {
                self.at.open(until, Part::Pass(start));
            }
            self.tell_all(&records, true, None).await?;
            self.tell_bindings(&bindings, true, None).await?;
            self.tell_connections(&connections, true, None).await?;
        }
        self.at.pass.next = end;
        if end >= all {
            self.end_pass().await?;
        }
        Ok(())
    }

    async fn end_pass(&mut self) -> Result<(), Error> {
        self.at.pass.next = 0;
        let (is_later, groups) = (matches!(self.at.pass.kind, Kind::Later(_)), self.at.serving);
        if is_later && groups == 0 {
            // There is nothing to compare with.
            return Ok(());
        }
        let sequence = self.number(0);
        if !is_later {
            self.at.pass.kind = Kind::Later(sequence);
        }
        let ids = (0..).zip(&self.common.groups);
        let served = ids.filter(|(position, _)| groups >> position & 1 != 0);
        let groups = served.map(|(_, id)| *id).collect();
        self.confirmable(&Message::Told { sequence, groups }, None).await
    }

    /// Number of the next message, which has so many records.
    fn number(&mut self, records: usize) -> u64 {
        self.records += records as u64;
        self.at.sequence += 1;
        self.at.sequence
    }

    /// Number of the message after which so many records are told.
    fn after(&self, records: usize) -> u64 {
        self.at.sequence + records.div_ceil(MOST_RECORDS) as u64
    }

    /// Buckets and bindings of the pass in this turn.
    fn pace(&self, buckets: u32) -> u32 {
        if self.at.pass.kind == Kind::First {
            return BUCKETS;
        }
        let share = self.turned.elapsed().div_duration_f64(length(&self.at));
        BUCKETS.min((f64::from(buckets) * share).ceil() as u32)
    }

    /// Adds the flows in a bucket that are to be told. With embryonic ones the peer
    /// would do the same, but for exceptions, and a flood of them is not worth to be
    /// told. Each is given two passes more than it has left: packets prolong it
    /// meanwhile, and that is told by a pass only.
    fn read(&self, bucket: u32, now: u16, records: &mut Vec<Record>) {
        let more = 2 * length(&self.at).as_secs() as u16 + 1;
        for entry in self.common.changes.live(bucket, now) {
            let value = entry.value;
            if value.state() == FlowState::Embryonic as u8 {
                continue;
            }
            let left = value.left(now).unsigned_abs().saturating_add(more);
            let told = self.at.names.tell(entry.key, value.backend(), value.state(), left);
            let is_told = |group| self.at.told() & Groups::from(1_u8) << lease::index(group) != 0;
            records.extend(told.filter(|(_, group)| is_told(*group)).map(|(record, _)| record));
        }
    }

    async fn tell_all(
        &mut self,
        records: &[Record],
        pass: bool,
        since: Option<Instant>,
    ) -> Result<(), Error> {
        for some in records.chunks(MOST_RECORDS) {
            self.tell(some, pass, since).await?;
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        records: &[Record],
        pass: bool,
        since: Option<Instant>,
    ) -> Result<(), Error> {
        let (sequence, records) = (self.number(records.len()), records.to_vec());
        self.confirmable(&Message::Flows { sequence, pass, records }, since).await
    }

    async fn confirmable(
        &mut self,
        message: &Message,
        since: Option<Instant>,
    ) -> Result<(), Error> {
        let said = Instant::now();
        self.said = said;
        self.unconfirmed.push_back(Unconfirmed { sequence: self.at.sequence, said, since });
        self.say.say(message).await
    }
}

/// How long a later pass takes.
fn length(at: &Progress) -> Duration {
    let life = at.names.shortest().map(|life| Duration::from_secs(life.into()) / 2);
    PASS.min(life.unwrap_or(PASS)).max(QUIET)
}

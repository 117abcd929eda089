//! What the nodes say to each other: frames that are sent, and taken in.

use std::{collections::VecDeque, time::Duration};

use super::{
    Beat, Errand, Group, GroupBeat, GroupSettings, Pair, Peer, STRANGER, Stamp, peer::Admission,
};

/// Runs of the peer that are remembered to be over.
const OVER: usize = 4;
/// Frames of unknown runs that are answered in the time of a heartbeat: a flood
/// of old frames shall not keep a new run waiting, nor this node busy.
const ECHOES: u32 = 64;
/// Frames whose moment is remembered: all that a node sends while it waits for a
/// stranger, even in such a flood, since the peer may be as far as that.
const SENT: usize = 2048;
const _: () = assert!(SENT > (STRANGER * ECHOES) as usize * 5 / 4);

/// Why a frame has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A frame that was there before.
    Replayed,
    /// The first frame of a run, which may be replayed: to be answered with a
    /// frame that echoes it, unless there were too many of late.
    Unproven(Option<Stamp>),
    /// Our own frame.
    Reflected,
}

impl Refusal {
    /// It in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Unproven(_) => "unproven",
            Self::Reflected => "reflected",
        }
    }
}

impl Pair {
    /// Whether frames are due: a heartbeat has passed, or there is news.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.news || self.beaten.is_none_or(|last| now >= last + self.settings.heartbeat)
    }

    /// Begins a round of frames, one by each path, see [`Self::beat`].
    pub fn begin_round(&mut self, now: Duration) {
        self.beaten = Some(now);
        self.news = false;
    }

    /// The frame to send by the next path, or as an answer to one that came by
    /// it, which it echoes if that was [`Refusal::Unproven`]: each has a number
    /// of its own.
    pub fn beat(&mut self, answer: bool, echo: Option<Stamp>, now: Duration) -> Beat {
        let stamp = self.stamp(now);
        let grant = self.wait();
        let heard = self.peer(now).map(|peer| (peer.latest(), peer.heard));
        if let (Some(peer), Some((_, at))) = (&mut self.peer, heard) {
            peer.promised = peer.promised.max(at + grant);
        }
        let group = |index| {
            let Group { settings, term, fit, .. } = self.groups[index];
            let GroupSettings { id, digest, preferred } = settings;
            GroupBeat { id, digest, term, stance: self.stance(index), preferred, fit }
        };
        Beat {
            node: self.settings.node.clone(),
            stamp,
            answer,
            interval: self.settings.heartbeat,
            heard: heard.map(|(stamp, _)| stamp),
            grant,
            echo,
            witness: self.witness_run(now),
            priority: self.settings.priority,
            groups: (0..self.groups.len()).map(group).collect(),
        }
    }

    /// Takes in an authenticated frame: whether it is to be answered at once, by
    /// the path that it came by, so that its sender knows that it is heard.
    ///
    /// # Errors
    /// It has no effect.
    pub fn receive(&mut self, beat: &Beat, now: Duration) -> Result<bool, Refusal> {
        let run = beat.stamp.boot;
        if run == self.boot {
            return Err(Refusal::Reflected);
        }
        self.notice_sleep(now);
        let acknowledged = beat.heard.and_then(|stamp| self.sent_at(stamp));
        let proof = acknowledged.max(beat.echo.and_then(|stamp| self.sent_at(stamp)));
        if self.peer.as_ref().is_none_or(|peer| peer.boot() != run) {
            if self.over.contains(&run) {
                return Err(Refusal::Replayed);
            }
            let lately = |sent| now.saturating_sub(sent) <= self.beats(STRANGER);
            if !proof.is_some_and(lately) {
                return Err(Refusal::Unproven(self.may_echo(now).then_some(beat.stamp)));
            }
            if let Some(before) = self.peer.replace(Peer::new(beat, now)) {
                push(&mut self.over, before.boot());
            }
        }
        let gone = self.peer(now).is_none();
        let Some(peer) = &mut self.peer else { return Err(Refusal::Unproven(None)) };
        match peer.window.admit(beat.stamp.sequence) {
            Admission::Replayed => return Err(Refusal::Replayed),
            // What it says has been overtaken.
            Admission::Late => return Ok(false),
            Admission::Latest if gone => peer.forget(),
            Admission::Latest => {}
        }
        peer.learn(beat, acknowledged, now);
        self.compare_witness(beat.witness, now);
        self.fence = Errand::Idle;
        self.weigh(now);
        self.learn_terms();
        Ok(!beat.answer)
    }

    /// Who serves keeps the term in which it does.
    pub(super) fn learn_terms(&mut self) {
        let Some(peer) = &self.peer else { return };
        for group in self.groups.iter_mut().filter(|group| group.lease.is_none()) {
            let theirs = peer.group(group.settings.id).map_or(0, |theirs| theirs.term);
            group.term = group.term.max(theirs);
        }
    }

    /// The number of a frame that is sent now.
    pub(super) fn stamp(&mut self, now: Duration) -> Stamp {
        self.sequence += 1;
        self.sent.push_back((self.sequence, now));
        if self.sent.len() > SENT {
            self.sent.pop_front();
        }
        Stamp { boot: self.boot, sequence: self.sequence }
    }

    /// When a frame was sent, if it is one of ours.
    pub(super) fn sent_at(&self, stamp: Stamp) -> Option<Duration> {
        let number = (stamp.boot == self.boot).then_some(stamp.sequence)?;
        let at = self.sent.binary_search_by_key(&number, |(sequence, _)| *sequence).ok()?;
        Some(self.sent[at].1)
    }

    /// Whether a frame of an unknown run may be answered.
    fn may_echo(&mut self, now: Duration) -> bool {
        let (since, number) = &mut self.echoes;
        if now.saturating_sub(*since) >= self.settings.heartbeat {
            (*since, *number) = (now, 0);
        }
        *number += 1;
        *number <= ECHOES
    }
}

/// Adds to a short list; the oldest makes room.
fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == OVER {
        list.pop_front();
    }
    list.push_back(item);
}

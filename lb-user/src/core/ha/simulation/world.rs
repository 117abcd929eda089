//! The nodes, and the network between them.

use std::collections::{BTreeSet, VecDeque};

use crate::core::ha::*;

/// Time between heartbeats.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(50);
/// How finely time passes.
pub(super) const STEP: Duration = Duration::from_micros(2500);
pub(super) const PATHS: usize = 2;
pub(super) const GROUPS: usize = 2;
/// Whatever happened, by then one node serves, and stays.
pub(super) const SETTLED: u32 = STRANGER + 3 * GONE;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No frame of this node arrives.
    Mute(usize),
    /// One path is cut in both directions.
    Path(usize),
    /// All paths are cut in both directions.
    Partition,
    /// The agent of a node stands still; its data plane does not.
    Freeze(usize),
    /// A node is gone, and starts anew when the fault is over; so does its data
    /// plane.
    Crash(usize),
    /// The agent ends in good order, and starts anew.
    Leave(usize),
    /// A group is handed over by command.
    Failover(usize),
    /// Every second frame is lost.
    Loss,
    /// A node is able to serve no group.
    Unfit(usize),
}

/// How the nodes and the network between them are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub(super) preempt: bool,
    /// Of the second node; the first has [`HEARTBEAT`].
    pub(super) heartbeat: Duration,
    /// Both nodes have one name and priority.
    pub(super) alike: bool,
    /// Steps that a frame takes at least, and how many more at most: frames
    /// overtake others.
    pub(super) delay: (u64, u64),
    /// Old frames that somebody sends again in a step.
    pub(super) replays: u64,
}

/// A network as it usually is, in which somebody sends frames again now and then.
pub(super) const USUAL: Conditions =
    Conditions { preempt: false, heartbeat: HEARTBEAT, alike: false, delay: (0, 8), replays: 0 };

impl Conditions {
    /// Heartbeats of the slower node, hundredths of them.
    pub(super) fn hundredths(self, number: u32) -> Duration {
        HEARTBEAT.max(self.heartbeat) * number / 100
    }

    pub(super) fn beats(self, number: u32) -> Duration {
        self.hundredths(number * 100)
    }
}

/// Numbers that look drawn by lot (xorshift).
struct Lots(u64);

impl Lots {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

struct Node {
    number: usize,
    conditions: Conditions,
    /// What its clock is ahead of the world's.
    ahead: Duration,
    /// `None`: not running.
    pair: Option<Pair>,
    /// Persistent: highest term.
    term: u64,
    frozen: bool,
    /// With the paths by which they came.
    inbox: VecDeque<(usize, Beat)>,
    /// The data plane: until when it serves each group, in the world's time.
    leases: [Duration; GROUPS],
}

impl Node {
    fn new(number: usize, conditions: Conditions, ahead: Duration) -> Self {
        let inbox = VecDeque::new();
        let leases = [Duration::ZERO; GROUPS];
        Self { number, conditions, ahead, pair: None, term: 0, frozen: false, inbox, leases }
    }

    fn start(&mut self, boot: u64, now: Duration) {
        let Conditions { preempt, heartbeat, alike, .. } = self.conditions;
        let role = if alike { 0 } else { self.number };
        let settings = Settings {
            node: ["a", "b"][role].to_owned(),
            priority: [150, 100][role],
            heartbeat: [HEARTBEAT, heartbeat][self.number],
            preempt,
            // Each is preferred somewhere.
            groups: (0..GROUPS).map(|group| self.group(group)).collect(),
        };
        let mut pair = Pair::new(settings, boot, self.term, now + self.ahead);
        pair.inform(true);
        self.pair = Some(pair);
    }

    fn set_fit(&mut self, fit: bool) {
        if let Some(pair) = &mut self.pair {
            (0..GROUPS).for_each(|group| pair.set_fit(group, fit));
        }
    }

    fn group(&self, group: usize) -> GroupSettings {
        GroupSettings { id: group as u64, digest: 0, preferred: group == self.number }
    }

    /// What the agent does in a moment: its frames, with their paths.
    fn run(&mut self, now: Duration) -> Vec<(usize, Beat)> {
        let Some(pair) = self.pair.as_mut().filter(|_| !self.frozen) else { return Vec::new() };
        let own = now + self.ahead;
        let mut answers = BTreeSet::new();
        let mut echoes = Vec::new();
        for (path, beat) in self.inbox.drain(..) {
            match pair.receive(&beat, own) {
                Ok(true) => drop(answers.insert(path)),
                Err(Refusal::Unproven(Some(stamp))) => echoes.push((path, Some(stamp))),
                _ => {}
            }
        }
        echoes.extend(answers.into_iter().map(|path| (path, None)));
        let answer = |(path, echo)| (path, pair.beat(true, echo, own));
        let mut frames: Vec<_> = echoes.into_iter().map(answer).collect();
        pair.tick(own);
        self.term = pair.term();
        for (lease, view) in self.leases.iter_mut().zip(pair.groups()) {
            *lease = view.lease.map_or(Duration::ZERO, |end| end.saturating_sub(self.ahead));
        }
        if pair.is_due(own) {
            pair.begin_round(own);
            frames.extend((0..PATHS).map(|path| (path, pair.beat(false, None, own))));
        }
        frames
    }
}

pub(super) struct World {
    pub(super) now: Duration,
    lots: Lots,
    nodes: [Node; 2],
    /// Frames under way: when they arrive, by which path, where.
    wire: Vec<(Duration, usize, usize, Beat)>,
    /// What an eavesdropper has.
    heard: Vec<Beat>,
    boots: u64,
    pub(super) conditions: Conditions,
    /// Whether somebody sends frames again, or for the first time, later.
    haunted: bool,
}

impl World {
    pub(super) fn new(seed: u64, conditions: Conditions) -> Self {
        let mut lots = Lots(seed | 1);
        let ahead = [0, 1].map(|_| Duration::from_millis(lots.draw(1 << 30)));
        let nodes = [0, 1].map(|number| Node::new(number, conditions, ahead[number]));
        let (wire, heard) = (Vec::new(), Vec::new());
        let mut world = Self {
            now: Duration::ZERO,
            lots,
            nodes,
            wire,
            heard,
            boots: 0,
            conditions,
            haunted: true,
        };
        world.start(0);
        world.start(1);
        world
    }

    /// Both nodes run, in a network as it usually is.
    pub(super) fn calm(seed: u32) -> Self {
        let calm = Conditions { delay: (0, 1), ..USUAL };
        let mut world = Self::new(u64::from(seed) * 0x9e37_79b9, calm);
        world.haunted = false;
        world.live(HEARTBEAT * SETTLED + STEP * (seed % 40), None, &|_| {});
        world
    }

    fn start(&mut self, node: usize) {
        // A run that slept takes the next number.
        self.boots += 1 << 20;
        self.nodes[node].start(self.boots, self.now);
    }

    pub(super) fn step(&mut self, fault: Option<Fault>) {
        self.now += STEP;
        let now = self.now;
        let (arrived, rest) = self.wire.drain(..).partition(|(at, ..)| *at <= now);
        self.wire = rest;
        let arrived: Vec<_> = arrived;
        for (_, path, to, beat) in arrived {
            if self.nodes[to].pair.is_some() {
                self.nodes[to].inbox.push_back((path, beat));
            }
        }
        // An eavesdropper sends what it has heard to whom it likes.
        let now_and_then = u64::from(self.haunted && self.lots.draw(20) == 0);
        for _ in 0..now_and_then + self.conditions.replays {
            if !self.heard.is_empty() {
                let index = self.lots.draw(self.heard.len() as u64) as usize;
                let (path, to) = (self.lots.draw(2) as usize, self.lots.draw(2) as usize);
                let arrives = now + STEP * self.conditions.delay.0 as u32;
                self.wire.push((arrives, path, to, self.heard[index].clone()));
            }
        }
        for from in 0..2 {
            for (path, beat) in self.nodes[from].run(now) {
                let lost = match fault {
                    Some(Fault::Mute(node)) => node == from,
                    Some(Fault::Path(cut)) => cut == path,
                    Some(Fault::Partition) => true,
                    Some(Fault::Loss) => self.lots.draw(2) == 0,
                    _ => false,
                };
                if self.lots.draw(50) == 0 && self.heard.len() < 4096 {
                    self.heard.push(beat.clone());
                }
                if !lost {
                    let (least, more) = self.conditions.delay;
                    let delay = STEP * (least + self.lots.draw(more + 1)) as u32;
                    for _ in 0..=u8::from(self.lots.draw(8) == 0) {
                        self.wire.push((now + delay, path, 1 - from, beat.clone()));
                    }
                }
            }
        }
    }

    pub(super) fn begin(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Freeze(node) => self.nodes[node].frozen = true,
            Fault::Crash(node) => {
                self.nodes[node].pair = None;
                self.nodes[node].leases = [Duration::ZERO; GROUPS];
                self.nodes[node].inbox.clear();
            }
            Fault::Leave(node) => {
                let node = &mut self.nodes[node];
                if let Some(pair) = &mut node.pair {
                    pair.leave(now + node.ahead);
                }
            }
            Fault::Unfit(node) => self.nodes[node].set_fit(false),
            Fault::Failover(group) => {
                for node in &mut self.nodes {
                    if let Some(pair) = &mut node.pair {
                        pair.resign(group, now + node.ahead);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Freeze(node) => self.nodes[node].frozen = false,
            Fault::Unfit(node) => self.nodes[node].set_fit(true),
            Fault::Crash(node) | Fault::Leave(node) => {
                self.nodes[node].inbox.clear();
                self.start(node);
            }
            _ => {}
        }
    }

    /// Lives through a fault.
    pub(super) fn suffer(&mut self, fault: Fault, length: Duration, check: &dyn Fn(&Self)) {
        self.begin(fault);
        self.live(length, Some(fault), check);
        self.end(fault);
    }

    pub(super) fn live(&mut self, length: Duration, fault: Option<Fault>, check: &dyn Fn(&Self)) {
        let end = self.now + length;
        while self.now < end {
            self.step(fault);
            check(self);
        }
    }

    /// Who serves a group.
    pub(super) fn serving(&self, group: usize) -> Vec<usize> {
        (0..2).filter(|node| self.nodes[*node].leases[group] > self.now).collect()
    }

    pub(super) fn check_none_serves_beside_the_other(&self) {
        for group in 0..GROUPS {
            assert!(self.serving(group).len() < 2, "both serve {group} at {:?}", self.now);
        }
    }

    pub(super) fn check_one_serves(&self) {
        for group in 0..GROUPS {
            assert_eq!(self.serving(group).len(), 1, "of group {group} at {:?}", self.now);
        }
    }
}

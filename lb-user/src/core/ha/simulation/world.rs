//! The nodes, and the network between them.

use std::collections::VecDeque;

use super::{
    ears::Ears,
    node::{Clock, Frame, Node, WITNESS},
};
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
    /// Of the frames of a node by one path some are lost, of a hundred, and the
    /// others take so many steps more.
    Way { from: usize, path: usize, lost: u64, late: u64 },
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
    /// A node does not know the peer's flows.
    Uninformed(usize),
    /// A node and the witness do not hear each other.
    Apart(usize),
    /// The witness is gone, and starts anew when the fault is over.
    NoWitness,
    /// The witness stands still.
    FreezeWitness,
}

impl Fault {
    /// Whether frames that go this way suffer from it.
    fn is_way(self, by: usize, by_path: usize, to: usize) -> bool {
        matches!(self, Self::Way { from, path, .. } if (from, path) == (by, by_path))
            && to != WITNESS
    }
}

/// How the nodes and the network between them are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    /// Whether a silent peer is fenced, and whether that works.
    pub(super) fence: Option<bool>,
    /// Whether there is a witness.
    pub(super) witness: bool,
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
    /// Steps after which the peer has been told the latest flows, or has not listened.
    pub(super) flush: u32,
    /// An agent misses so many steps for each that it takes.
    pub(super) sluggish: u64,
}

/// A network as it usually is, in which somebody sends frames again now and then.
pub(super) const USUAL: Conditions = Conditions {
    fence: None,
    witness: false,
    preempt: false,
    heartbeat: HEARTBEAT,
    alike: false,
    delay: (0, 8),
    replays: 0,
    flush: 0,
    sluggish: 0,
};

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

/// The third host.
struct ThirdHost {
    clock: Clock,
    /// `None`: not running.
    witness: Option<Witness>,
    frozen: bool,
    inbox: VecDeque<(usize, Question)>,
}

pub(super) struct World {
    pub(super) now: Duration,
    lots: Lots,
    nodes: [Node; 2],
    third: ThirdHost,
    /// Frames under way: when they arrive, by which path (of the witness: from
    /// whom), where.
    wire: Vec<(Duration, usize, usize, Frame)>,
    /// What an eavesdropper has.
    heard: Vec<Frame>,
    boots: u64,
    pub(super) conditions: Conditions,
    /// What is wrong now.
    faults: Vec<Fault>,
    /// Whether somebody sends frames again, or for the first time, later.
    haunted: bool,
    /// The longest time that a frame took.
    pub(super) slowest: Duration,
}

impl World {
    pub(super) fn new(seed: u64, conditions: Conditions) -> Self {
        let mut lots = Lots(seed | 1);
        let [a, b, third] = [0, 1, 2].map(|_| Clock {
            ahead: Duration::from_millis(lots.draw(1 << 30)),
            faster: lots.draw(201) as u32,
        });
        let nodes = [(0, a), (1, b)].map(|(number, clock)| Node::new(number, conditions, clock));
        let third = ThirdHost {
            clock: third,
            // It has run for long.
            witness: Some(Witness::new(0, Duration::ZERO)),
            frozen: false,
            inbox: VecDeque::new(),
        };
        let mut world = Self {
            now: Duration::ZERO,
            lots,
            nodes,
            third,
            wire: Vec::new(),
            heard: Vec::new(),
            boots: 0,
            conditions,
            faults: Vec::new(),
            haunted: true,
            slowest: Duration::ZERO,
        };
        world.start(0);
        world.start(1);
        world
    }

    /// Both nodes run, in a network as it usually is, with a witness or without.
    pub(super) fn calm(seed: u32, witness: bool) -> Self {
        let calm = Conditions { witness, delay: (0, 1), ..USUAL };
        let mut world = Self::new(u64::from(seed) * 0x9e37_79b9, calm);
        world.haunted = false;
        world.live(HEARTBEAT * SETTLED + STEP * (seed % 40), &|_| {});
        world
    }

    /// Has both nodes start anew with a program that fences, or fails to.
    pub(super) fn fence_with(&mut self, works: bool) {
        self.conditions.fence = Some(works);
        for number in 0..2 {
            self.nodes[number].conditions.fence = Some(works);
            self.nodes[number].die();
            self.start(number);
        }
        self.live(HEARTBEAT * SETTLED, &|_| {});
    }

    fn boot(&mut self) -> u64 {
        // A run that slept takes the next number.
        self.boots += 1 << 20;
        self.boots
    }

    fn start(&mut self, node: usize) {
        let boot = self.boot();
        self.nodes[node].start(boot, self.now);
    }

    /// Whether a frame between these arrives nowhere.
    fn loses(&mut self, from: usize, path: usize, to: usize) -> bool {
        let between = |one, other| (from, to) == (one, other) || (from, to) == (other, one);
        let percent = self.lots.draw(100);
        let lost = self.faults.iter().any(|fault| match *fault {
            Fault::Way { lost, .. } if fault.is_way(from, path, to) => percent < lost,
            Fault::Mute(node) => node == from && to != WITNESS,
            Fault::Path(cut) => cut == path && between(0, 1),
            Fault::Partition => between(0, 1),
            Fault::Apart(node) => between(node, WITNESS),
            _ => false,
        });
        lost || self.faults.contains(&Fault::Loss) && self.lots.draw(2) == 0
    }

    fn send(&mut self, from: usize, path: usize, to: usize, frame: &Frame) {
        if self.lots.draw(50) == 0 && self.heard.len() < 4096 {
            self.heard.push(frame.clone());
        }
        if self.loses(from, path, to) {
            return;
        }
        let (least, more) = self.conditions.delay;
        let late = self.faults.iter().map(|fault| match *fault {
            Fault::Way { late, .. } if fault.is_way(from, path, to) => late,
            _ => 0,
        });
        let late = late.max().unwrap_or_default();
        let takes = STEP * (least + late + self.lots.draw(more + 1)) as u32;
        self.slowest = self.slowest.max(takes);
        let arrives = self.now + takes;
        let path = if to == WITNESS { from } else { path };
        for _ in 0..=u8::from(self.lots.draw(8) == 0) {
            self.wire.push((arrives, path, to, frame.clone()));
        }
    }

    fn deliver(&mut self) {
        let (arrived, rest): (Vec<_>, _) =
            self.wire.drain(..).partition(|(at, ..)| *at <= self.now);
        self.wire = rest;
        for (_, path, to, frame) in arrived {
            match frame {
                Frame::Question(question) if self.third.witness.is_some() => {
                    self.third.inbox.push_back((path, question));
                }
                frame if to != WITNESS && self.nodes[to].pair.is_some() => {
                    self.nodes[to].inbox.push_back((path, frame));
                }
                _ => {}
            }
        }
    }

    /// An eavesdropper sends what it has heard to whom it likes.
    fn haunt(&mut self) {
        let now_and_then = u64::from(self.haunted && self.lots.draw(20) == 0);
        for _ in 0..now_and_then + self.conditions.replays {
            if !self.heard.is_empty() {
                let index = self.lots.draw(self.heard.len() as u64) as usize;
                let (path, to) = (self.lots.draw(2) as usize, self.lots.draw(2) as usize);
                let arrives = self.now + STEP * self.conditions.delay.0 as u32;
                let frame = self.heard[index].clone();
                let to = if matches!(frame, Frame::Question(_)) { WITNESS } else { to };
                self.wire.push((arrives, path, to, frame));
            }
        }
    }

    /// Has a node's program do what it is asked to: the peer is gone, until it is
    /// started by hand.
    fn fence(&mut self, node: usize) {
        let own = self.nodes[node].clock.at(self.now);
        let Some(pair) = self.nodes[node].pair.as_mut().filter(|pair| pair.wants_fence()) else {
            return;
        };
        if self.conditions.fence == Some(true) {
            pair.fenced(own);
            self.nodes[1 - node].die();
        }
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        self.deliver();
        self.haunt();
        for from in 0..2 {
            if self.conditions.sluggish > 0 && self.lots.draw(self.conditions.sluggish + 1) > 0 {
                continue;
            }
            for (path, to, frame) in self.nodes[from].run(self.now) {
                self.send(from, path, to, &frame);
            }
        }
        (0..2).for_each(|node| self.fence(node));
        let ThirdHost { clock, witness, frozen, inbox } = &mut self.third;
        let Some(witness) = witness.as_mut().filter(|_| !*frozen) else { return };
        let own = clock.at(self.now);
        let answer = |(to, question)| Some((to, witness.answer(&question, own).ok()?));
        for (to, answer) in inbox.drain(..).filter_map(answer).collect::<Vec<_>>() {
            self.send(WITNESS, 0, to, &Frame::Answer(answer));
        }
    }

    pub(super) fn begin(&mut self, fault: Fault) {
        let now = self.now;
        self.faults.push(fault);
        match fault {
            Fault::Freeze(node) => self.nodes[node].frozen = true,
            Fault::Crash(node) => self.nodes[node].die(),
            Fault::Leave(node) => {
                let node = &mut self.nodes[node];
                if let Some(pair) = &mut node.pair {
                    pair.leave(node.clock.at(now));
                }
            }
            Fault::Unfit(node) => self.nodes[node].set_fit(false, now),
            Fault::Uninformed(node) => self.nodes[node].inform(false),
            Fault::NoWitness => {
                self.third.witness = None;
                self.third.inbox.clear();
            }
            Fault::FreezeWitness => self.third.frozen = true,
            Fault::Failover(group) => {
                for node in &mut self.nodes {
                    if let Some(pair) = &mut node.pair {
                        pair.resign(group, node.clock.at(now));
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn end(&mut self, fault: Fault) {
        if let Some(index) = self.faults.iter().position(|one| *one == fault) {
            self.faults.swap_remove(index);
        }
        match fault {
            Fault::Freeze(node) => self.nodes[node].frozen = false,
            Fault::Unfit(node) => self.nodes[node].set_fit(true, self.now),
            Fault::Uninformed(node) => self.nodes[node].inform(true),
            Fault::Crash(node) | Fault::Leave(node) => {
                self.nodes[node].inbox.clear();
                self.start(node);
            }
            Fault::NoWitness => {
                let boot = self.boot();
                self.third.witness = Some(Witness::new(boot, self.third.clock.at(self.now)));
            }
            Fault::FreezeWitness => self.third.frozen = false,
            _ => {}
        }
    }

    /// Lives through a fault.
    pub(super) fn suffer(&mut self, fault: Fault, length: Duration, check: &dyn Fn(&Self)) {
        self.begin(fault);
        self.live(length, check);
        self.end(fault);
    }

    /// Lives through faults that may come together: when each begins, and how long
    /// it lasts, in hundredths of heartbeats.
    pub(super) fn live_with(&mut self, faults: &[(u32, u32, Fault)], check: &dyn Fn(&Self)) {
        let ends = |&(at, length, fault)| [(at, true, fault), (at + length, false, fault)];
        let mut events: Vec<_> = faults.iter().flat_map(ends).collect();
        events.sort_by_key(|(at, ..)| *at);
        for (at, begins, fault) in events {
            self.live(self.conditions.hundredths(at).saturating_sub(self.now), check);
            if begins { self.begin(fault) } else { self.end(fault) }
        }
    }

    pub(super) fn live(&mut self, length: Duration, check: &dyn Fn(&Self)) {
        let end = self.now + length;
        while self.now < end {
            self.step();
            check(self);
        }
    }

    /// Who serves a group.
    pub(super) fn serving(&self, group: usize) -> Vec<usize> {
        (0..2).filter(|node| self.nodes[*node].leases[group] > self.own_time(*node)).collect()
    }

    /// Who could serve a group, of those that run.
    pub(super) fn fit(&self, group: usize) -> [bool; 2] {
        let fit = |pair: &Pair| pair.groups[group].fit;
        [0, 1].map(|node| self.nodes[node].pair.as_ref().is_some_and(fit))
    }

    /// What a node's clock shows.
    pub(super) fn own_time(&self, node: usize) -> Duration {
        self.nodes[node].clock.at(self.now)
    }

    pub(super) fn ears(&self, node: usize) -> &Ears {
        &self.nodes[node].ears
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

//! Two nodes on a virtual clock, and everything that happens to them.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const HEARTBEAT: Duration = Duration::from_millis(50);
/// How finely time passes.
const STEP: Duration = Duration::from_micros(2500);
const PATHS: usize = 2;
const GROUPS: usize = 2;
/// Whatever happened, by then one node serves, and stays.
const SETTLED: u32 = STRANGER + 3 * GONE;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
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
struct Conditions {
    preempt: bool,
    /// Of the second node; the first has [`HEARTBEAT`].
    heartbeat: Duration,
    /// Both nodes have one name and priority.
    alike: bool,
    /// Steps that a frame takes at least, and how many more at most: frames
    /// overtake others.
    delay: (u64, u64),
    /// Old frames that somebody sends again in a step.
    replays: u64,
}

/// A network as it usually is, in which somebody sends frames again now and then.
const USUAL: Conditions =
    Conditions { preempt: false, heartbeat: HEARTBEAT, alike: false, delay: (0, 8), replays: 0 };

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

struct World {
    now: Duration,
    lots: Lots,
    nodes: [Node; 2],
    /// Frames under way: when they arrive, by which path, where.
    wire: Vec<(Duration, usize, usize, Beat)>,
    /// What an eavesdropper has.
    heard: Vec<Beat>,
    boots: u64,
    conditions: Conditions,
    /// Whether somebody sends frames again, or for the first time, later.
    haunted: bool,
}

impl World {
    fn new(seed: u64, conditions: Conditions) -> Self {
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
    fn calm(seed: u32) -> Self {
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

    fn step(&mut self, fault: Option<Fault>) {
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

    fn begin(&mut self, fault: Fault) {
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

    fn end(&mut self, fault: Fault) {
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
    fn suffer(&mut self, fault: Fault, length: Duration, check: &dyn Fn(&Self)) {
        self.begin(fault);
        self.live(length, Some(fault), check);
        self.end(fault);
    }

    fn live(&mut self, length: Duration, fault: Option<Fault>, check: &dyn Fn(&Self)) {
        let end = self.now + length;
        while self.now < end {
            self.step(fault);
            check(self);
        }
    }

    /// Who serves a group.
    fn serving(&self, group: usize) -> Vec<usize> {
        (0..2).filter(|node| self.nodes[*node].leases[group] > self.now).collect()
    }

    fn check_none_serves_beside_the_other(&self) {
        for group in 0..GROUPS {
            assert!(self.serving(group).len() < 2, "both serve {group} at {:?}", self.now);
        }
    }

    fn check_one_serves(&self) {
        for group in 0..GROUPS {
            assert_eq!(self.serving(group).len(), 1, "of group {group} at {:?}", self.now);
        }
    }
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..2_usize).prop_map(Fault::Mute),
        (0..PATHS).prop_map(Fault::Path),
        (0..2_usize).prop_map(Fault::Freeze),
        (0..2_usize).prop_map(Fault::Crash),
        (0..2_usize).prop_map(Fault::Leave),
        (0..2_usize).prop_map(Fault::Unfit),
        (0..GROUPS).prop_map(Fault::Failover),
    ]
}

/// Faults: how long after the one before, how long, in hundredths of heartbeats.
fn any_faults() -> impl Strategy<Value = Vec<(u32, u32, Fault)>> {
    prop::collection::vec((0..8000_u32, 1..6000_u32, any_fault()), 0..6)
}

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let far = prop_oneof![Just((0, 8)), (0..100_u64, 0..8_u64)];
    let heartbeats = prop::sample::select(vec![HEARTBEAT, HEARTBEAT / 2, HEARTBEAT * 4]);
    let replays = prop::sample::select(vec![0, 0, 0, 8]);
    (any::<bool>(), heartbeats, any::<bool>(), far, replays).prop_map(
        |(preempt, heartbeat, alike, delay, replays)| Conditions {
            preempt,
            heartbeat,
            alike,
            delay,
            replays,
        },
    )
}

impl Conditions {
    /// Heartbeats of the slower node, hundredths of them.
    fn hundredths(self, number: u32) -> Duration {
        HEARTBEAT.max(self.heartbeat) * number / 100
    }

    fn beats(self, number: u32) -> Duration {
        self.hundredths(number * 100)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_one_fault_does_none_serves_beside_the_other(
        seed: u64,
        conditions in any_conditions(),
        faults in any_faults(),
    ) {
        let mut world = World::new(seed, conditions);
        let check = World::check_none_serves_beside_the_other;
        for (after, length, fault) in faults {
            world.live(conditions.hundredths(after), None, &check);
            world.suffer(fault, conditions.hundredths(length), &check);
            // Who starts, or slept, and is not heard takes the other for dead.
            if matches!(fault, Fault::Crash(_) | Fault::Leave(_) | Fault::Freeze(_)) {
                world.live(conditions.beats(STRANGER), None, &check);
            }
        }
        world.live(conditions.beats(SETTLED), None, &check);
        world.live(conditions.beats(20), None, &World::check_one_serves);
    }

    #[test]
    fn after_anything_one_serves(
        seed: u64,
        conditions in any_conditions(),
        faults in prop::collection::vec(
            (0..4000_u32, 1..6000_u32, prop_oneof![
                any_fault(), Just(Fault::Partition), Just(Fault::Loss)
            ]),
            0..8
        ),
    ) {
        let mut world = World::new(seed, conditions);
        let anything = |_: &World| {};
        for (after, length, fault) in faults {
            world.live(conditions.hundredths(after), None, &anything);
            world.suffer(fault, conditions.hundredths(length), &anything);
        }
        world.live(conditions.beats(SETTLED), None, &anything);
        world.live(conditions.beats(40), None, &World::check_one_serves);
    }
}

/// How long nobody serves a group when this happens to who does, at most.
fn gap(fault: impl Fn(usize) -> Fault) -> Duration {
    let mut longest = Duration::ZERO;
    for seed in 1..60 {
        let mut world = World::calm(seed);
        world.conditions = USUAL;
        let active = world.serving(0)[0];
        let (fault, began) = (fault(active), world.now);
        world.begin(fault);
        while world.serving(0) != [1 - active] && world.now < began + HEARTBEAT * SETTLED {
            world.step(Some(fault));
        }
        longest = longest.max(world.now - began);
    }
    longest
}

#[test]
fn who_stands_by_takes_over_soon() {
    let lost = gap(Fault::Crash);
    assert!(lost <= HEARTBEAT * 3 + STEP * 12, "{lost:?}");
    let handed = gap(Fault::Leave);
    assert!(handed <= STEP * 12, "{handed:?}");
}

/// What happens to who serves has one successor, which goes on when it is over.
#[test]
fn who_took_over_goes_on() {
    for fault in [Fault::Freeze as fn(usize) -> Fault, Fault::Crash, Fault::Leave, Fault::Mute] {
        for seed in 1..60 {
            let mut world = World::calm(seed);
            let active = world.serving(0)[0];
            let fault = fault(active);
            world.suffer(fault, HEARTBEAT * (5 + seed), &|_| {});
            let check =
                move |world: &World| assert_eq!(world.serving(0), [1 - active], "{fault:?}");
            world.live(HEARTBEAT * SETTLED, None, &check);
        }
    }
}

#[test]
fn after_a_partition_the_higher_term_goes_on() {
    for seed in 1..60 {
        let mut world = World::calm(seed);
        let active = world.serving(0)[0];
        world.suffer(Fault::Partition, HEARTBEAT * (20 + seed), &|_| {});
        assert_eq!(world.serving(0), [0, 1]);
        let check = move |world: &World| assert!(world.serving(0).contains(&(1 - active)));
        world.live(HEARTBEAT * 2, None, &check);
        let check = move |world: &World| assert_eq!(world.serving(0), [1 - active]);
        world.live(HEARTBEAT * SETTLED, None, &check);
    }
}

#[test]
fn the_death_of_who_stands_by_is_not_noticed() {
    for seed in 1..60 {
        let mut world = World::calm(seed);
        for active in 0..2 {
            let group = (0..GROUPS).find(|group| world.serving(*group) == [active]);
            if let Some(group) = group {
                let check = move |world: &World| assert_eq!(world.serving(group), [active]);
                world.suffer(Fault::Crash(1 - active), HEARTBEAT * 60, &check);
                world.live(HEARTBEAT * SETTLED, None, &check);
            }
        }
    }
}

/// A partition that ends in one direction only leaves one that serves: who hears
/// the other gives way, since the other cannot.
#[test]
fn who_knows_that_it_is_not_heard_gives_way() {
    for seed in 1..60 {
        for mute in 0..2 {
            let mut world = World::calm(seed);
            world.suffer(Fault::Partition, HEARTBEAT * 20, &|_| {});
            assert_eq!(world.serving(0), [0, 1]);
            world.begin(Fault::Mute(mute));
            world.live(HEARTBEAT * 10, Some(Fault::Mute(mute)), &|_| {});
            let check = move |world: &World| assert_eq!(world.serving(0), [1 - mute]);
            world.live(HEARTBEAT * 60, Some(Fault::Mute(mute)), &check);
            world.live(HEARTBEAT * SETTLED, None, &World::check_one_serves);
        }
    }
}

#[test]
fn what_was_given_up_by_order_is_not_claimed_back() {
    for seed in 1..60 {
        let conditions = Conditions { preempt: true, ..USUAL };
        let mut world = World::new(seed, conditions);
        world.live(HEARTBEAT * SETTLED, None, &|_| {});
        // Each group is preferred at the node of its number.
        assert_eq!(world.serving(0), [0]);
        world.suffer(Fault::Failover(0), HEARTBEAT * 4, &|_| {});
        let check = |world: &World| assert_eq!(world.serving(0), [1]);
        world.live(HEARTBEAT * SETTLED, None, &check);
        world.suffer(Fault::Crash(1), HEARTBEAT * 60, &|_| {});
        assert_eq!(world.serving(0), [0]);
    }
}

#[test]
fn a_group_is_where_it_can_be_served() {
    for seed in 1..60 {
        let mut world = World::calm(seed);
        for node in 0..2 {
            let check = move |world: &World| assert_eq!(world.serving(0), [1 - node]);
            world.begin(Fault::Unfit(node));
            world.live(HEARTBEAT * 10, None, &World::check_none_serves_beside_the_other);
            world.live(HEARTBEAT * SETTLED, None, &check);
            // That of two bad ones which serves goes on.
            world.suffer(Fault::Unfit(1 - node), HEARTBEAT * SETTLED, &check);
            world.end(Fault::Unfit(node));
            world.live(HEARTBEAT * 10, None, &check);
        }
    }
}

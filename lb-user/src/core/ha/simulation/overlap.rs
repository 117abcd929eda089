//! When both nodes of a pair without a witness may serve.

use proptest::prelude::*;

use super::{any_conditions, any_fault, ears::Ears, world::*};
use crate::core::ha::*;

/// Heartbeats after which one of two that serve has given way, if it hears the
/// other all along, which does not hear it: by then the other noticed that, and the
/// one, told of it, saw that the other does not stop. Beside, the word takes its time
/// on the way.
const ONE_WAY: u32 = GONE + TAKEOVER;

/// When a group was served by both.
struct Overlap {
    /// Latest frames of both when that began, or who is the abler to serve changed.
    said: [Stamp; 2],
    fit: [bool; 2],
    /// When it began, by the clock of each.
    since: [Duration; 2],
}

/// Who judges what the nodes do by what they really heard, which the role machine
/// has no part in ([`Ears`]). Two nodes that cannot tell silence from death
/// serve both if all paths are cut in both directions. So a node may begin to serve
/// beside the other only if
///
/// - it heard nothing of it for as long as one waits that takes over, nor since it
///   began to listen;
/// - and the other served on its own word: it had lately heard nothing either, or
///   nothing that showed that its frames arrive.
///
/// That ends as soon as both have heard what the other said since, and soon after
/// one of them hears the other without being heard.
#[derive(Default)]
struct Judge {
    served: [Vec<usize>; GROUPS],
    overlaps: [Option<Overlap>; GROUPS],
}

impl Judge {
    fn look(&mut self, world: &World) {
        for group in 0..GROUPS {
            let serving = world.serving(group);
            let served = std::mem::replace(&mut self.served[group], serving.clone());
            if serving.len() < 2 {
                self.overlaps[group] = None;
                continue;
            }
            let begin = (0..2).filter(|node| !served.contains(node));
            begin.for_each(|node| check_begin(world, group, node));
            let begins = || Overlap::begin(world, group);
            self.overlaps[group].get_or_insert_with(begins).check(world, group);
        }
    }
}

/// A node begins to serve a group, and the other serves it, too.
fn check_begin(world: &World, group: usize, node: usize) {
    let now = world.now;
    let hears = !world.ears(node).may_take_over(world.own_time(node));
    assert!(!hears, "{node} hears the other and takes over {group} at {now:?}");
    let other = 1 - node;
    let waits = world.ears(other).alone <= world.own_time(other);
    assert!(!waits, "{other} serves {group} on the word of the other at {now:?}");
}

impl Overlap {
    fn begin(world: &World, group: usize) -> Self {
        Self {
            said: [0, 1].map(|node| world.ears(node).said),
            fit: world.fit(group),
            since: [0, 1].map(|node| world.own_time(node)),
        }
    }

    fn check(&mut self, world: &World, group: usize) {
        let now = world.now;
        if self.fit != world.fit(group) {
            *self = Self { since: self.since, ..Self::begin(world, group) };
        }
        let order = |stamp: Stamp| (stamp.boot, stamp.sequence);
        let knows = |node: usize| {
            let heard = world.ears(node).heard;
            heard.is_some_and(|heard| order(heard) > order(self.said[1 - node]))
        };
        assert!(!(knows(0) && knows(1)), "both know that both serve {group} at {now:?}");
        for node in 0..2 {
            let &Ears { hears, slower, .. } = world.ears(node);
            let hears = world.own_time(node) - hears.max(self.since[node]);
            let unheard = world.ears(1 - node).silence(world.own_time(1 - node));
            assert!(
                hears.min(unheard) <= slower * ONE_WAY + world.slowest,
                "{node} serves {group} beside who it hears at {now:?}"
            );
        }
    }
}

/// One way of frames gets worse.
fn any_way() -> impl Strategy<Value = Fault> {
    let lost = prop_oneof![0..100_u64, Just(100)];
    let late = prop_oneof![Just(0), Just(0), 1..200_u64];
    (0..2_usize, 0..PATHS, lost, late).prop_map(|(from, path, lost, late)| Fault::Way {
        from,
        path,
        lost,
        late,
    })
}

/// Faults of all kinds: how long after the start, how long, in hundredths of
/// heartbeats. They come together.
fn any_faults() -> impl Strategy<Value = Vec<(u32, u32, Fault)>> {
    let fault = prop_oneof![
        7 => any_fault(),
        6 => any_way(),
        1 => Just(Fault::Partition),
        1 => Just(Fault::Loss),
    ];
    let length = prop_oneof![1..1500_u32, 1..10_000_u32];
    prop::collection::vec((0..20_000_u32, length, fault), 0..16)
}

proptest! {
    #![proptest_config(crate::core::schedules(200))]

    #[test]
    fn without_a_witness_both_serve_only_while_they_do_not_hear_each_other(
        seed: u64,
        conditions in any_conditions(),
        sluggish in prop::sample::select(vec![0, 0, 1, 3]),
        faults in any_faults(),
    ) {
        let conditions = Conditions { witness: false, sluggish, ..conditions };
        let mut world = World::new(seed, conditions);
        let judge = std::cell::RefCell::new(Judge::default());
        let check = |world: &World| judge.borrow_mut().look(world);
        world.live_with(&faults, &check);
        // Who misses its moments may lose a lease at any time.
        world.conditions.sluggish = 0;
        world.live(conditions.beats(SETTLED), &check);
        world.live(conditions.beats(20), &World::check_one_serves);
    }
}

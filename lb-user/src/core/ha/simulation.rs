//! Two nodes on a virtual clock, and everything that happens to them.

mod ears;
mod node;
mod overlap;
mod third;
mod world;

use proptest::prelude::*;

use self::world::*;
use super::*;

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..2_usize).prop_map(Fault::Mute),
        (0..PATHS).prop_map(Fault::Path),
        (0..2_usize).prop_map(Fault::Freeze),
        (0..2_usize).prop_map(Fault::Crash),
        (0..2_usize).prop_map(Fault::Leave),
        (0..2_usize).prop_map(Fault::Unfit),
        (0..2_usize).prop_map(Fault::Uninformed),
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
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let flushes = prop_oneof![Just(0), 0..80_u32];
    (flags, heartbeats, far, replays, flushes).prop_map(
        |((witness, preempt, alike), heartbeat, delay, replays, flush)| Conditions {
            fence: None,
            witness,
            preempt,
            heartbeat,
            alike,
            delay,
            replays,
            flush,
            sluggish: 0,
        },
    )
}

proptest! {
    #![proptest_config(crate::core::schedules(200))]

    #[test]
    fn whatever_one_fault_does_none_serves_beside_the_other(
        seed: u64,
        conditions in any_conditions(),
        faults in any_faults(),
    ) {
        let mut world = World::new(seed, conditions);
        let check = World::check_none_serves_beside_the_other;
        for (after, length, fault) in faults {
            world.live(conditions.hundredths(after), &check);
            world.suffer(fault, conditions.hundredths(length), &check);
            // Who starts, or slept, and is not heard takes the other for dead.
            if matches!(fault, Fault::Crash(_) | Fault::Leave(_) | Fault::Freeze(_)) {
                world.live(conditions.beats(STRANGER), &check);
            }
        }
        world.live(conditions.beats(SETTLED), &check);
        world.live(conditions.beats(20), &World::check_one_serves);
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
            world.live(conditions.hundredths(after), &anything);
            world.suffer(fault, conditions.hundredths(length), &anything);
        }
        world.live(conditions.beats(SETTLED), &anything);
        world.live(conditions.beats(40), &World::check_one_serves);
    }
}

/// How long nobody serves a group when this happens to who does, at most.
fn gap(witness: bool, fault: impl Fn(usize) -> Fault) -> Duration {
    let mut longest = Duration::ZERO;
    for seed in 1..60 {
        let mut world = World::calm(seed, witness);
        world.conditions = Conditions { witness, ..USUAL };
        let active = world.serving(0)[0];
        let (fault, began) = (fault(active), world.now);
        world.begin(fault);
        while world.serving(0) != [1 - active] && world.now < began + HEARTBEAT * SETTLED {
            world.step();
        }
        longest = longest.max(world.now - began);
    }
    longest
}

#[test]
fn who_stands_by_takes_over_soon() {
    let lost = gap(false, Fault::Crash);
    assert!(lost <= HEARTBEAT * 3 + STEP * 12, "{lost:?}");
    // A round trip more.
    let lost = gap(true, Fault::Crash);
    assert!(lost <= HEARTBEAT * 3 + STEP * 28, "{lost:?}");
    let handed = gap(false, Fault::Leave);
    assert!(handed <= STEP * 12, "{handed:?}");
}

/// What happens to who serves has one successor, which goes on when it is over.
#[test]
fn who_took_over_goes_on() {
    for fault in [Fault::Freeze as fn(usize) -> Fault, Fault::Crash, Fault::Leave, Fault::Mute] {
        for seed in 1..60 {
            let mut world = World::calm(seed, false);
            let active = world.serving(0)[0];
            let fault = fault(active);
            world.suffer(fault, HEARTBEAT * (5 + seed), &|_| {});
            let check =
                move |world: &World| assert_eq!(world.serving(0), [1 - active], "{fault:?}");
            world.live(HEARTBEAT * SETTLED, &check);
        }
    }
}

#[test]
fn after_a_partition_the_higher_term_goes_on() {
    for seed in 1..60 {
        let mut world = World::calm(seed, false);
        let active = world.serving(0)[0];
        world.suffer(Fault::Partition, HEARTBEAT * (20 + seed), &|_| {});
        assert_eq!(world.serving(0), [0, 1]);
        let check = move |world: &World| assert!(world.serving(0).contains(&(1 - active)));
        world.live(HEARTBEAT * 2, &check);
        let check = move |world: &World| assert_eq!(world.serving(0), [1 - active]);
        world.live(HEARTBEAT * SETTLED, &check);
    }
}

#[test]
fn the_death_of_who_stands_by_is_not_noticed() {
    for seed in 1..60 {
        let mut world = World::calm(seed, false);
        for active in 0..2 {
            let group = (0..GROUPS).find(|group| world.serving(*group) == [active]);
            if let Some(group) = group {
                let check = move |world: &World| assert_eq!(world.serving(group), [active]);
                world.suffer(Fault::Crash(1 - active), HEARTBEAT * 60, &check);
                world.live(HEARTBEAT * SETTLED, &check);
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
            let mut world = World::calm(seed, false);
            world.suffer(Fault::Partition, HEARTBEAT * 20, &|_| {});
            assert_eq!(world.serving(0), [0, 1]);
            world.begin(Fault::Mute(mute));
            world.live(HEARTBEAT * 10, &|_| {});
            let check = move |world: &World| assert_eq!(world.serving(0), [1 - mute]);
            world.live(HEARTBEAT * 60, &check);
            world.end(Fault::Mute(mute));
            world.live(HEARTBEAT * SETTLED, &World::check_one_serves);
        }
    }
}

#[test]
fn what_was_given_up_by_order_is_not_claimed_back() {
    for seed in 1..60 {
        let conditions = Conditions { preempt: true, ..USUAL };
        let mut world = World::new(seed, conditions);
        world.live(HEARTBEAT * SETTLED, &|_| {});
        // Each group is preferred at the node of its number.
        assert_eq!(world.serving(0), [0]);
        world.suffer(Fault::Failover(0), HEARTBEAT * 4, &|_| {});
        let check = |world: &World| assert_eq!(world.serving(0), [1]);
        world.live(HEARTBEAT * SETTLED, &check);
        world.suffer(Fault::Crash(1), HEARTBEAT * 60, &|_| {});
        assert_eq!(world.serving(0), [0]);
    }
}

#[test]
fn a_group_is_where_it_can_be_served() {
    for seed in 1..60 {
        let mut world = World::calm(seed, false);
        for node in 0..2 {
            let check = move |world: &World| assert_eq!(world.serving(0), [1 - node]);
            world.begin(Fault::Unfit(node));
            world.live(HEARTBEAT * 10, &World::check_none_serves_beside_the_other);
            world.live(HEARTBEAT * SETTLED, &check);
            // That of two bad ones which serves goes on.
            world.suffer(Fault::Unfit(1 - node), HEARTBEAT * SETTLED, &check);
            world.end(Fault::Unfit(node));
            world.live(HEARTBEAT * 10, &check);
        }
    }
}

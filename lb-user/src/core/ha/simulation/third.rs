//! What a witness changes, and a program that fences the peer.

use proptest::prelude::*;

use super::{any_conditions, any_fault, world::*};
use crate::core::ha::*;

/// Faults of nodes, networks and the witness: how long after the start, how long,
/// in hundredths of heartbeats. They may come together.
fn any_faults() -> impl Strategy<Value = Vec<(u32, u32, Fault)>> {
    let fault = prop_oneof![
        any_fault(),
        Just(Fault::Partition),
        Just(Fault::Loss),
        (0..2_usize).prop_map(Fault::Apart),
        Just(Fault::NoWitness),
        Just(Fault::FreezeWitness),
    ];
    prop::collection::vec((0..30_000_u32, 1..10_000_u32, fault), 0..12)
}

proptest! {
    #![proptest_config(crate::core::schedules(200))]

    #[test]
    fn with_a_witness_none_serves_beside_the_other_whatever_comes_together(
        seed: u64,
        conditions in any_conditions(),
        faults in any_faults(),
    ) {
        let conditions = Conditions { witness: true, ..conditions };
        let mut world = World::new(seed, conditions);
        let check = World::check_none_serves_beside_the_other;
        world.live_with(&faults, &check);
        world.live(conditions.beats(SETTLED), &check);
        world.live(conditions.beats(20), &World::check_one_serves);
    }
}

/// Who serves group 0 of a pair with a witness goes on, and nobody else begins.
fn goes_on(world: &mut World, length: Duration) {
    let active = world.serving(0)[0];
    let check = move |world: &World| assert_eq!(world.serving(0), [active]);
    world.live(length, &check);
}

#[test]
fn of_two_that_are_cut_off_from_each_other_the_one_that_serves_goes_on() {
    for seed in 1..60 {
        let mut world = World::calm(seed, true);
        world.begin(Fault::Partition);
        goes_on(&mut world, HEARTBEAT * (20 + seed));
        world.end(Fault::Partition);
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn who_is_cut_off_from_all_stops_and_the_other_serves() {
    for seed in 1..60 {
        let mut world = World::calm(seed, true);
        let active = world.serving(0)[0];
        world.begin(Fault::Apart(active));
        world.begin(Fault::Partition);
        world.live(HEARTBEAT * 5, &World::check_none_serves_beside_the_other);
        assert_eq!(world.serving(0), [1 - active]);
        goes_on(&mut world, HEARTBEAT * 60);
        world.end(Fault::Partition);
        world.end(Fault::Apart(active));
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn a_witness_that_is_gone_is_not_missed_while_the_pair_is_whole() {
    for seed in 1..60 {
        let mut world = World::calm(seed, true);
        world.begin(Fault::NoWitness);
        goes_on(&mut world, HEARTBEAT * SETTLED);
        world.end(Fault::NoWitness);
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn without_peer_and_witness_nobody_serves() {
    for seed in 1..60 {
        let mut world = World::calm(seed, true);
        world.begin(Fault::NoWitness);
        world.begin(Fault::Partition);
        world.live(HEARTBEAT * 4, &World::check_none_serves_beside_the_other);
        let none = |world: &World| assert_eq!(world.serving(0), [0_usize; 0]);
        world.live(HEARTBEAT * SETTLED, &none);
        world.end(Fault::Partition);
        world.live(HEARTBEAT * 10, &World::check_none_serves_beside_the_other);
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn who_takes_over_from_a_silent_peer_has_fenced_it() {
    for (seed, witness) in (1..60).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = World::calm(seed, witness);
        world.fence_with(true);
        let active = world.serving(0)[0];
        world.begin(Fault::Freeze(active));
        world.live(HEARTBEAT * 5, &World::check_none_serves_beside_the_other);
        assert_eq!(world.serving(0), [1 - active]);
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn of_two_that_are_cut_off_from_each_other_one_is_fenced() {
    for seed in 1..60 {
        let mut world = World::calm(seed, false);
        world.fence_with(true);
        world.begin(Fault::Partition);
        world.live(HEARTBEAT * 5, &World::check_none_serves_beside_the_other);
        world.check_one_serves();
        goes_on(&mut world, HEARTBEAT * SETTLED);
    }
}

#[test]
fn who_cannot_fence_a_silent_peer_does_not_take_over() {
    for seed in 1..60 {
        let mut world = World::calm(seed, false);
        world.fence_with(false);
        let active = world.serving(0)[0];
        world.begin(Fault::Partition);
        goes_on(&mut world, HEARTBEAT * SETTLED);
        world.end(Fault::Partition);
        goes_on(&mut world, HEARTBEAT * SETTLED);
        world.begin(Fault::Crash(active));
        let none = |world: &World| assert_eq!(world.serving(0), [0_usize; 0]);
        world.live(HEARTBEAT * SETTLED, &none);
        world.end(Fault::Crash(active));
        world.live(HEARTBEAT * SETTLED, &World::check_none_serves_beside_the_other);
        // What is handed over in good order needs no fence.
        let active = world.serving(0)[0];
        world.begin(Fault::Leave(active));
        world.live(HEARTBEAT, &World::check_none_serves_beside_the_other);
        assert_eq!(world.serving(0), [1 - active]);
    }
}

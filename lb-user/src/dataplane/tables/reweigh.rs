//! Changes of weights, in place.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    routes::check_routes,
    tests::{any_model, carry_out, host, serves, slots},
    *,
};
use crate::{
    core::{
        model::Model,
        plan::{
            self, Snapshot,
            identity::{BackendIdentity, ServiceIdentity},
            reweigh::Room,
        },
        weight::{Standing, Standings},
    },
    dataplane::fake,
};

/// Whatever new flows can be given to serves and belongs to the service.
fn check_slots(tables: &Tables) {
    for (id, entry) in tables.services_of(tables.config.read(0).active) {
        check_routes(tables, entry.table);
        check_routes(tables, entry.previous);
        for slot in slots(tables, entry.table) {
            let backend = tables.backends.read(slot.into());
            assert!(serves(&backend) && backend.service == id, "slot of {id} names {slot}");
        }
    }
}

/// Standings drawn from `seeds`, one for each backend in turn.
fn standings(model: &Model, seeds: &[(u16, bool)]) -> Standings {
    let backends = model
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(|b| BackendIdentity::of(service, b)));
    let standing = |&(weight, serving): &(u16, bool)| Standing {
        weight: if serving { weight } else { 0 },
        serving,
    };
    Standings(backends.zip(seeds.iter().cycle().map(standing)).collect())
}

/// Who is behind each slot, and who serves.
type View = BTreeMap<ServiceIdentity, (Vec<BackendIdentity>, BTreeSet<BackendIdentity>)>;

fn view(tables: &Tables) -> View {
    let snapshot = tables.snapshot().unwrap();
    let view = |(&id, entry): (&u16, &Service)| {
        let who = ServiceIdentity::read(entry);
        let read = |id: u16| BackendIdentity::read(&snapshot.backends[&id], who);
        let slots = tables.table(entry.table).into_iter().map(read).collect();
        let mine = snapshot.in_use().filter(|(_, entry)| entry.service == id && serves(entry));
        (who, (slots, mine.map(|(id, _)| read(id)).collect()))
    };
    snapshot.services.iter().map(view).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_step_of_a_reweighing_leaves_only_backends_that_serve(
        (model, network) in any_model(),
        rounds in prop::collection::vec(
            prop::collection::vec((0u16..4, any::<bool>()), 1..9), 1..5
        ),
    ) {
        let mut tables = fake::tables(64).unwrap();
        carry_out(&mut tables, &model, &network, |_| {});
        let all = model.services.iter().map(ServiceIdentity::of).collect();
        for seeds in &rounds {
            let standings = standings(&model, seeds);
            let snapshot = tables.snapshot().unwrap();
            let plan = plan::reweigh::reweigh(&model, &standings, &all, &snapshot, Room::InPlace).0;
            for operation in &plan.operations {
                tables.apply(operation).unwrap();
                check_slots(&tables);
            }
            let mut fresh = fake::tables(64).unwrap();
            let snapshot = fresh.snapshot().unwrap();
            let whole = plan::plan(&model, &standings, &network, &snapshot, &host()).unwrap();
            fresh.carry_out(&whole.operations).unwrap();
            prop_assert_eq!(view(&tables), view(&fresh));
        }
    }
}

/// The first of the services has no table at first; the others take all the
/// room, then change in place.
#[test]
fn without_room_tables_are_written_over_and_who_has_none_waits() {
    let mut tables = fake::tables(64).unwrap();
    let model = retire::many(100);
    let all: BTreeSet<_> = model.services.iter().map(ServiceIdentity::of).collect();
    let seeds = |first, weight| {
        let others = vec![(weight, true); 2 * model.services.len() - 2];
        standings(&model, &[vec![first; 2], others].concat())
    };
    let down = seeds((0, false), 100);
    let snapshot = tables.snapshot().unwrap();
    let whole =
        plan::plan(&model, &down, &Default::default(), &snapshot, &host()).unwrap().operations;
    tables.carry_out(&whole).unwrap();
    let mut resting = Vec::new();
    for weight in 50..53 {
        let snapshot = Snapshot { resting: resting.clone(), ..tables.snapshot().unwrap() };
        let down = seeds((0, false), weight);
        let (plan, left) = plan::reweigh::reweigh(&model, &down, &all, &snapshot, Room::InPlace);
        assert!(left.is_empty(), "{left:?}");
        resting.extend(plan::reweigh::freed(&plan, &snapshot));
        tables.carry_out(&plan.operations).unwrap();
        check_slots(&tables);
    }
    let snapshot = Snapshot { resting, ..tables.snapshot().unwrap() };
    let up = standings(&model, &[(10, true), (90, true)]);
    let (plan, left) = plan::reweigh::reweigh(&model, &up, &all, &snapshot, Room::InPlace);
    tables.carry_out(&plan.operations).unwrap();
    check_slots(&tables);
    let first = ServiceIdentity::of(&model.services[0]);
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [first]);
    let mut fresh = fake::tables(64).unwrap();
    let snapshot = fresh.snapshot().unwrap();
    let whole = plan::plan(&model, &up, &Default::default(), &snapshot, &host()).unwrap();
    fresh.carry_out(&whole.operations).unwrap();
    let [mut there, mut wanted] = [view(&tables), view(&fresh)];
    assert!(there.remove(&first).is_some_and(|(slots, _)| slots.is_empty()));
    wanted.remove(&first);
    assert!(there == wanted);
}

#[test]
fn lines_that_rest_are_not_written() {
    use crate::core::model::{
        Mode, Protocol,
        sample::{backend, model, service},
    };
    let mut tables = fake::tables(64).unwrap();
    let mut web = service("192.0.2.1", (80, 80), Protocol::Tcp, Mode::Nat);
    web.backends.push(backend([10, 0, 0, 1].into(), None, 1));
    let model = model(vec![web]);
    carry_out(&mut tables, &model, &Default::default(), |_| {});
    let all = model.services.iter().map(ServiceIdentity::of).collect();
    let mut resting = Vec::new();
    for weight in 1..6 {
        let standings = standings(&model, &[(weight, true)]);
        let snapshot = Snapshot { resting: resting.clone(), ..tables.snapshot().unwrap() };
        let (plan, _) = plan::reweigh::reweigh(&model, &standings, &all, &snapshot, Room::InPlace);
        let places = plan.operations.iter().find_map(|operation| match operation {
            Operation::SwitchTables(_, places) => Some(*places),
            _ => None,
        });
        let current = places.unwrap().current;
        assert!(!resting.contains(&current), "{current:?} is written over");
        resting.push(current);
        tables.carry_out(&plan.operations).unwrap();
    }
}

//! Tables that were in force before the current ones.

use std::net::Ipv4Addr;

use super::{
    tests::{carry_out, host},
    *,
};
use crate::{
    core::{
        model::{
            Mode, Model, Protocol,
            sample::{backend, model, service},
        },
        nexthop::Network,
        plan::{self, CapacityError},
        weight::Standings,
    },
    dataplane::fake,
};

/// As many services as current and new tables fit of, but not a third set.
const MANY: u32 = 1500;

pub(super) fn many(weight: u16) -> Model {
    let services = (0..MANY).map(|number| {
        let vip = Ipv4Addr::from(0xcb00_0000 + number).to_string();
        let mut service = service(&vip, (80, 80), Protocol::Tcp, Mode::Nat);
        let address = |last: u32| Ipv4Addr::from(0x0a00_0000 + 2 * number + last).into();
        service.backends = vec![backend(address(0), None, weight), backend(address(1), None, 100)];
        service
    });
    model(services.collect())
}

#[test]
fn room_is_made_by_retiring_previous_tables() {
    let (mut tables, network) = (fake::tables(64).unwrap(), Network::default());
    carry_out(&mut tables, &many(100), &network, |_| {});
    carry_out(&mut tables, &many(50), &network, |_| {});
    assert_eq!(tables.snapshot().unwrap().services.len(), MANY as usize);
    for weight in [25, 75, 50] {
        let snapshot = tables.snapshot().unwrap();
        let refused =
            plan::plan(&many(weight), &Standings::default(), &network, &snapshot, &host());
        assert!(matches!(refused, Err(CapacityError::Tables(_))), "{refused:?}");
        let all = || 1..=MANY as u16;
        assert_eq!(tables.retire_previous(all()), MANY);
        assert_eq!(tables.retire_previous(all()), 0);
        carry_out(&mut tables, &many(weight), &network, |_| {});
    }
}

#[test]
fn a_retired_table_is_not_looked_into() {
    let (mut tables, network) = (fake::tables(64).unwrap(), Network::default());
    let one = |weight| model(many(weight).services[..1].to_vec());
    carry_out(&mut tables, &one(100), &network, |_| {});
    carry_out(&mut tables, &one(10), &network, |_| {});
    let entry = |tables: &Tables| {
        let services = tables.services_of(tables.config.read(0).active & 1);
        *services.values().next().expect("the service")
    };
    let before = entry(&tables);
    assert_ne!(before.previous, before.table);
    assert_eq!(tables.retire_previous([1]), 1);
    let after = entry(&tables);
    assert_eq!((after.previous, after.table), (before.table, before.table));
}

//! Whose an id is, through plans and what is left of them.

use std::net::IpAddr;

use lb_common::flow::{FlowState, FlowValue};

use super::{
    tests::{carry_out, check_reach, host, ids, view, web},
    *,
};
use crate::{
    core::{nexthop::Network, plan, weight::Standings},
    dataplane::fake,
};

#[test]
fn ids_stay_while_their_owners_live() {
    let mut tables = fake::tables(64).unwrap();
    let network = Network::default();
    carry_out(&mut tables, &web(&[(1, 1), (2, 1), (3, 1)]), &network, check_reach);
    let before = ids(&tables);
    carry_out(&mut tables, &web(&[(4, 1), (3, 5), (1, 0)]), &network, check_reach);
    let after = ids(&tables);
    for last in [1, 3] {
        let address = IpAddr::from([10, 0, 0, last]);
        assert_eq!(before[&address], after[&address]);
    }
    let new = after[&IpAddr::from([10, 0, 0, 4])];
    assert!(before.values().all(|&id| id != new), "an id was used again at once");
}

#[test]
fn an_id_is_used_again_only_when_no_table_names_it_and_its_flows_are_gone() {
    let mut tables = fake::tables(64).unwrap();
    let network = Network::default();
    carry_out(&mut tables, &web(&[(1, 1), (2, 1)]), &network, check_reach);
    carry_out(&mut tables, &web(&[(1, 1)]), &network, check_reach);
    // Every id but 1 was used once; 2 is still in the previous table.
    for id in 3..limits::BACKENDS {
        tables.backends.write(id, &Backend { service: 9, ..Backend::ZERO });
    }
    let flow = |backend| FlowValue::new(backend, 1, FlowState::Established, 0).0;
    tables.flows.write(5, &Bucket { keys: [7, 8, 9, 0], values: [flow(1), flow(3), flow(4), 0] });
    carry_out(&mut tables, &web(&[(1, 1), (5, 1)]), &network, check_reach);
    assert_eq!(ids(&tables)[&IpAddr::from([10, 0, 0, 5])], 3);
    assert_eq!(tables.flows.read(5).keys, [7, 0, 9, 0]);
}

/// The service moves to another VIP, and the plan stops once the entries of its
/// backends are written.
#[test]
fn backends_of_a_service_that_did_not_come_are_not_taken_for_those_of_the_old_one() {
    let (mut tables, network) = (fake::tables(64).unwrap(), Network::default());
    let old = web(&[(1, 1), (2, 1)]);
    let mut moved = old.clone();
    moved.services[0].vip = "192.0.2.77".parse().unwrap();
    carry_out(&mut tables, &old, &network, check_reach);
    let before = view(&tables);
    let snapshot = tables.snapshot().unwrap();
    let cut = plan::plan(&moved, &Standings::default(), &network, &snapshot, &host()).unwrap();
    // With no other service's id left, they would be written under the old one's.
    let id = *snapshot.services.keys().next().unwrap();
    for operation in &cut.operations {
        if let Operation::WriteBackend(backend, entry) = operation {
            let entry = Backend { service: id, ..*entry };
            tables.apply(&Operation::WriteBackend(*backend, entry)).unwrap();
        }
    }
    carry_out(&mut tables, &old, &network, check_reach);
    assert_eq!(view(&tables), before);
    carry_out(&mut tables, &moved, &network, check_reach);
    let mut fresh = fake::tables(64).unwrap();
    carry_out(&mut fresh, &moved, &network, |_| {});
    assert_eq!(view(&tables), view(&fresh));
}

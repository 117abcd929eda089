//! Sets of QUIC configurations, as the packet path would find them.

use std::net::IpAddr;

use super::{tests::carry_out, *};
use crate::{
    core::{
        model::{
            self, Mode, Model, Protocol,
            quic::{QuicConfig, ServerId},
            sample::{backend, model, service},
        },
        nexthop::Network,
        plan::Plan,
    },
    dataplane::fake,
};

fn config(id: u8) -> QuicConfig {
    QuicConfig { id, server_id_length: 1, nonce_length: 4, key_file: None }
}

/// A service with backends that have these IDs.
fn named(ids: &[&str]) -> model::Service {
    let mut quic = service("192.0.2.1", (443, 443), Protocol::Udp, Mode::Nat);
    quic.quic.push(config(0));
    for (last, id) in (1..).zip(ids) {
        let server_ids = vec![ServerId::parse(id).unwrap()];
        let backend = backend(IpAddr::from([10, 0, 0, last]), None, 1);
        quic.backends.push(model::Backend { server_ids, ..backend });
    }
    quic
}

/// Carries a plan out; after every step of it the set of every service in force is there.
fn apply(tables: &mut Tables, model: &Model) -> Plan {
    carry_out(tables, model, &Network::default(), |tables| {
        let sets = tables.kernel.quic();
        for entry in tables.services_of(tables.config.read(0).active & 1).values() {
            assert!(entry.quic == 0 || sets.contains_key(&entry.quic));
        }
    })
}

fn set_of(tables: &Tables) -> QuicSetId {
    tables.services_of(tables.config.read(0).active & 1)[&1].quic
}

/// Server IDs of one octet and whom they name.
fn names(tables: &Tables) -> Vec<(u8, BackendId)> {
    let set = &tables.kernel.quic()[&set_of(tables)];
    set.servers.iter().map(|((_, id), backend)| ((id[0] >> 56) as u8, *backend)).collect()
}

#[test]
fn a_set_is_written_anew_where_it_changes_and_removed_by_the_plan_after() {
    let mut tables = fake::tables(64).unwrap();
    apply(&mut tables, &model(vec![named(&["0a", "0b"])]));
    assert_eq!((set_of(&tables), names(&tables)), (1, vec![(0x0a, 1), (0x0b, 2)]));
    // Weights and what is the same change nothing.
    let mut same = named(&["0a", "0b"]);
    same.backends[0].weight = 7;
    let plan = apply(&mut tables, &model(vec![same]));
    let is_about_sets =
        |op: &&Operation| matches!(op, Operation::WriteQuic(..) | Operation::RemoveQuic(_));
    assert_eq!(plan.operations.iter().filter(is_about_sets).count(), 0);
    // Whom a packet on its way has read of stays as it was.
    apply(&mut tables, &model(vec![named(&["0b", "0a"])]));
    assert_eq!((set_of(&tables), names(&tables)), (2, vec![(0x0a, 2), (0x0b, 1)]));
    assert_eq!(tables.kernel.quic()[&1].servers.len(), 2);
    // By now the first number is free.
    let mut rotated = named(&["0b", "0a"]);
    rotated.quic.push(config(3));
    apply(&mut tables, &model(vec![rotated]));
    assert_eq!(tables.kernel.quic().keys().copied().collect::<Vec<_>>(), [1, 2]);
    // Without configurations there is no set.
    let plain = service("192.0.2.1", (443, 443), Protocol::Udp, Mode::Nat);
    apply(&mut tables, &model(vec![plain.clone()]));
    apply(&mut tables, &model(vec![plain]));
    assert_eq!((set_of(&tables), tables.kernel.quic().len()), (0, 0));
}

#[test]
fn services_have_their_own_sets_and_too_many_are_refused() {
    let mut tables = fake::tables(64).unwrap();
    let many = |count: u8| {
        let service = |number: u8| {
            let vip = IpAddr::from([192, 0, 2, number]);
            model::Service { vip, name: format!("s{number}"), ..named(&["0a"]) }
        };
        model((0..count).map(service).collect())
    };
    apply(&mut tables, &many(3));
    assert_eq!(tables.kernel.quic().len(), 3);
    let snapshot = tables.snapshot().unwrap();
    let plan = |model: &Model| {
        let (standings, network) = Default::default();
        crate::core::plan::plan(model, &standings, &network, &snapshot, &tests::host())
    };
    assert!(plan(&many(255)).is_ok());
    let mut others = many(255);
    // The old sets are in force until the new ones are.
    others.services[0].quic.push(config(1));
    let error = plan(&others).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no number is left for the QUIC configurations of service `s254`, expected at most 255 \
         services with such, old and new together"
    );
}

#[test]
fn a_key_that_nobody_read_is_no_key() {
    let tables = fake::tables(64).unwrap();
    let mut keyed = named(&["0a"]);
    keyed.quic[0].key_file = Some("/etc/lb/quic.key".into());
    let (standings, network) = Default::default();
    let snapshot = tables.snapshot().unwrap();
    let plan = |host: &crate::core::plan::Host| {
        let model = model(vec![keyed.clone()]);
        crate::core::plan::plan(&model, &standings, &network, &snapshot, host)
    };
    let mut host = tests::host();
    let error = plan(&host).unwrap_err().to_string();
    assert_eq!(error, "the key in `/etc/lb/quic.key` has not been read");
    host.quic_keys.insert("/etc/lb/quic.key".into(), [0x5a; 16]);
    let told = format!("{:?}", plan(&host).unwrap());
    assert!(told.contains("WriteQuic") && !told.contains("5a5a"), "{told}");
}

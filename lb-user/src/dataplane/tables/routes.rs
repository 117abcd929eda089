//! Routes by source, as the packet path would find them.

use std::net::IpAddr;

use lb_common::{route::Blocks, service::flags, table::TableRef};

use super::{
    tests::{carry_out, host},
    *,
};
use crate::{
    core::{
        model::{
            self, Mode, Model, Protocol, Route,
            sample::{backend, model, service},
        },
        nexthop::Network,
        plan::{self, Plan},
        route::Prefix,
        weight::Standings,
    },
    dataplane::fake,
};

/// Prefixes that clients come from, within each other.
const PREFIXES: [[&str; 4]; 2] = [
    ["0.0.0.0/0", "198.51.100.0/24", "198.51.0.0/16", "198.51.100.7/32"],
    ["::/0", "2001:db8::/32", "2001:db8:7::/48", "2001:db8:7::1/128"],
];

/// Routes of these prefixes to "blue" or "green".
pub(super) fn any_routes(v6: bool, drawn: Vec<(usize, bool)>) -> Vec<Route> {
    let distinct: BTreeMap<_, _> = drawn.into_iter().collect();
    let route = |(prefix, blue): (usize, bool)| Route {
        from: vec![PREFIXES[usize::from(v6)][prefix].parse().unwrap()],
        group: if blue { "blue" } else { "green" }.to_owned(),
    };
    distinct.into_iter().map(route).collect()
}

/// Sources of some of these prefixes.
pub(super) fn any_sources(v6: bool, drawn: BTreeSet<usize>) -> Vec<IpNet> {
    let prefix = |prefix: usize| PREFIXES[usize::from(v6)][prefix].parse().unwrap();
    drawn.into_iter().map(prefix).collect()
}

/// Who is asked for its sources has some.
pub(super) fn check_sources(tables: &Tables, entry: &Service) {
    if entry.sources != 0 {
        assert_ne!(entry.flags & flags::GUARDED, 0);
        let sets = tables.kernel.routes();
        let sources = sets.get(&entry.sources).expect("a set that is not there");
        assert!(!sources.0.is_empty() && sources.0.values().all(|&blocks| blocks == Blocks::NONE));
    }
}

/// Wherever routes lead, there are blocks.
pub(super) fn check_routes(tables: &Tables, table: TableRef) {
    if table.routes() == 0 {
        return;
    }
    let sets = tables.kernel.routes();
    let routes = sets.get(&table.routes()).expect("a set that is not there");
    assert!(routes.0.contains_key(&Prefix::ALL), "a client without a way");
    let fits = |blocks: &Blocks| blocks.first() + blocks.count() <= table.blocks();
    assert!(table.is_none() || routes.0.values().all(fits));
}

/// A service with backends 1 and 2 in group "eu", 3 and 4 in "us".
fn routed(routes: &[(&str, &str)]) -> model::Service {
    let mut web = service("192.0.2.1", (80, 80), Protocol::Tcp, Mode::Nat);
    for (last, group) in [(1, "eu"), (2, "eu"), (3, "us"), (4, "us")] {
        let backend = backend(IpAddr::from([10, 0, 0, last]), None, 1);
        web.backends.push(model::Backend { group: Some(group.into()), ..backend });
    }
    let route = |&(net, group): &(&str, &str)| Route {
        from: vec![net.parse().unwrap()],
        group: group.into(),
    };
    web.routes = routes.iter().map(route).collect();
    web
}

fn apply(tables: &mut Tables, model: &Model) -> Plan {
    carry_out(tables, model, &Network::default(), |tables| {
        for entry in tables.services_of(tables.config.read(0).active).values() {
            check_routes(tables, entry.table);
            check_routes(tables, entry.previous);
        }
    })
}

fn entry(tables: &Tables) -> Service {
    tables.services_of(tables.config.read(0).active)[&1]
}

/// Ids of the backends that a table has for a client.
fn found(tables: &Tables, table: TableRef, client: &str) -> BTreeSet<BackendId> {
    let client: IpAddr = client.parse().unwrap();
    let blocks = match tables.kernel.routes().get(&table.routes()) {
        Some(routes) => routes.longest(IpNet::from(client).into()).unwrap(),
        None => Blocks::new(0, table.blocks() as u16),
    };
    let slots = tables.table(table);
    let at = |block: u32| (block * table.slots()) as usize;
    slots[at(blocks.first())..at(blocks.first() + blocks.count())].iter().copied().collect()
}

const EU: [BackendId; 2] = [1, 2];
const US: [BackendId; 2] = [3, 4];
const ALL: [BackendId; 4] = [1, 2, 3, 4];

#[test]
fn clients_with_a_route_are_served_by_its_group_alone() {
    let mut tables = fake::tables(64).unwrap();
    let mut web = routed(&[("198.51.100.0/24", "eu"), ("198.51.0.0/16", "us")]);
    apply(&mut tables, &model(vec![web.clone()]));
    let finds = |tables: &Tables, client, expected: &[BackendId]| {
        let found = found(tables, entry(tables).table, client);
        assert_eq!(found, expected.iter().copied().collect(), "{client}");
    };
    finds(&tables, "198.51.100.7", &EU);
    finds(&tables, "198.51.7.7", &US);
    finds(&tables, "203.0.113.7", &ALL);
    // The split is for those without a route.
    web.split = [("us".to_owned(), 1)].into();
    apply(&mut tables, &model(vec![web.clone()]));
    finds(&tables, "198.51.100.7", &EU);
    finds(&tables, "203.0.113.7", &US);
    // A group that takes no new flows is stood in for by all others.
    web.backends[0].weight = 0;
    web.backends[1].weight = 0;
    apply(&mut tables, &model(vec![web]));
    finds(&tables, "198.51.100.7", &US);
}

#[test]
fn who_has_no_route_does_not_notice_those_of_others() {
    let mut tables = fake::tables(64).unwrap();
    let slots = |tables: &Tables| {
        let table = entry(tables).table;
        tables.table(table)[..table.slots() as usize].to_vec()
    };
    apply(&mut tables, &model(vec![routed(&[])]));
    let before = slots(&tables);
    apply(&mut tables, &model(vec![routed(&[("198.51.100.0/24", "eu")])]));
    assert_eq!(slots(&tables), before);
}

#[test]
fn a_set_that_did_not_change_is_not_written_again_and_is_shared() {
    let mut tables = fake::tables(64).unwrap();
    let with = |weight| {
        let mut first = routed(&[("198.51.100.0/24", "eu")]);
        first.backends[0].weight = weight;
        let second = model::Service { vip: "192.0.2.2".parse().unwrap(), ..first.clone() };
        model(vec![first, second])
    };
    let is_about_routes =
        |op: &&Operation| matches!(op, Operation::WriteRoutes(..) | Operation::RemoveRoutes(_));
    let plan = apply(&mut tables, &with(1));
    assert_eq!(plan.operations.iter().filter(is_about_routes).count(), 1);
    let plan = apply(&mut tables, &with(7));
    assert_eq!(plan.operations.iter().filter(is_about_routes).count(), 0);
    assert_eq!(tables.kernel.routes().len(), 1);
}

#[test]
fn flows_of_before_a_change_of_routes_are_found_by_the_routes_of_before() {
    let mut tables = fake::tables(64).unwrap();
    apply(&mut tables, &model(vec![routed(&[("198.51.100.0/24", "eu")])]));
    let before = entry(&tables).table;
    // The same blocks, another prefix: no table is written.
    let plan = apply(&mut tables, &model(vec![routed(&[("203.0.113.0/24", "eu")])]));
    assert!(!plan.operations.iter().any(|op| matches!(op, Operation::WriteTable(..))));
    let Service { table, previous, .. } = entry(&tables);
    assert_eq!((table.first(), previous), (before.first(), before));
    assert_ne!(table.routes(), previous.routes());
    assert_eq!(found(&tables, previous, "198.51.100.7"), EU.into());
    assert_eq!(found(&tables, table, "198.51.100.7"), ALL.into());
    assert_eq!(found(&tables, table, "203.0.113.7"), EU.into());
    // It stays while the previous table leads to it, and a plan longer.
    assert_eq!(tables.retire_previous([1]), 1);
    assert_eq!(tables.kernel.routes().len(), 2);
    apply(&mut tables, &model(vec![routed(&[("203.0.113.0/24", "eu")])]));
    assert_eq!(tables.kernel.routes().len(), 1);
}

#[test]
fn sources_are_a_set_that_is_shared_and_goes_when_nobody_has_it() {
    let mut tables = fake::tables(64).unwrap();
    let with = |weight, sources: &[&str]| {
        let mut first = routed(&[]);
        first.backends[0].weight = weight;
        first.allow_sources = sources.iter().map(|net| net.parse().unwrap()).collect();
        let second = model::Service { vip: "192.0.2.2".parse().unwrap(), ..first.clone() };
        model(vec![first, second])
    };
    let some = ["198.51.100.0/24", "203.0.113.7/32"];
    apply(&mut tables, &with(1, &some));
    let number = entry(&tables).sources;
    assert!(number > TableRef::MAX_ROUTES);
    let written = |plan: &Plan| {
        plan.operations.iter().filter(|op| matches!(op, Operation::WriteRoutes(..))).count()
    };
    let plan = apply(&mut tables, &with(7, &some));
    assert_eq!((written(&plan), entry(&tables).sources), (0, number));
    assert_eq!(tables.kernel.routes().len(), 1);
    // What packets may still be asked by is not touched.
    let before = tables.kernel.routes()[&number].clone();
    let plan = apply(&mut tables, &with(7, &some[1..]));
    assert_eq!((written(&plan), tables.kernel.routes().len()), (1, 2));
    assert_eq!(tables.kernel.routes()[&number], before);
    let contains = |tables: &Tables, client: &str| {
        let client: IpAddr = client.parse().unwrap();
        let set = tables.kernel.routes()[&entry(tables).sources].clone();
        set.longest(IpNet::from(client).into()).is_some()
    };
    assert!(contains(&tables, "203.0.113.7") && !contains(&tables, "198.51.100.1"));
    apply(&mut tables, &with(7, &[]));
    assert_eq!((entry(&tables).sources, entry(&tables).flags & flags::GUARDED), (0, 0));
    apply(&mut tables, &with(8, &[]));
    assert!(tables.kernel.routes().is_empty());
}

#[test]
fn a_service_that_nobody_serves_keeps_its_routes() {
    let mut tables = fake::tables(64).unwrap();
    let mut nobody = routed(&[("198.51.100.0/24", "eu")]);
    nobody.backends.iter_mut().for_each(|backend| backend.weight = 0);
    let model = model(vec![nobody]);
    apply(&mut tables, &model);
    assert!(entry(&tables).table.is_none() && entry(&tables).table.routes() != 0);
    let standings = model.services[0].backends.iter().map(|backend| {
        let who = plan::identity::BackendIdentity::of(&model.services[0], backend);
        (who, crate::core::weight::Standing { weight: 1, serving: true })
    });
    let (standings, all) = (
        Standings(standings.collect()),
        [plan::identity::ServiceIdentity::of(&model.services[0])].into(),
    );
    let snapshot = tables.outline();
    let (plan, _) =
        plan::reweigh::reweigh(&model, &standings, &all, &snapshot, plan::reweigh::Room::InPlace);
    tables.carry_out(&plan.operations).unwrap();
    assert_eq!(found(&tables, entry(&tables).table, "198.51.100.7"), EU.into());
}

#[test]
fn too_many_prefixes_and_groups_are_refused() {
    let snapshot = fake::tables(64).unwrap().snapshot().unwrap();
    let plan = |service: &model::Service| {
        let model = model(vec![service.clone()]);
        plan::plan(&model, &Standings::default(), &Network::default(), &snapshot, &host())
    };
    let mut many = routed(&[("198.51.100.0/24", "eu")]);
    let net = |number: u32| ipnet::Ipv4Net::new(number.into(), 32).unwrap().into();
    many.routes[0].from = (0..limits::ROUTE_PREFIXES).map(net).collect();
    let error = plan(&many).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1048577 prefixes of `service.route` and `service.allow_sources`, old and new together, \
         expected at most 1048576"
    );
    assert!(error.passes());
    many.routes = (0..4000)
        .map(|number| Route { from: vec![net(number)], group: format!("g{number}") })
        .collect();
    let error = plan(&many).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service `192.0.2.1:80` routes to 4000 groups, expected at most 3967"
    );
    assert!(!error.passes());
}

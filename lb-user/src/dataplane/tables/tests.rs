//! Plans carried out step by step on a data plane in private memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    addr,
    backend::flags as backend_flags,
    config::features,
    hash,
    service::{EndpointKind, endpoint_bucket, endpoint_key_v4, endpoint_key_v6, flags},
    synproxy::SynRate,
    table::TableRef,
};
use proptest::prelude::*;

use super::{
    groups::any_ha,
    routes::{any_routes, any_sources, check_routes, check_sources},
    *,
};
use crate::{
    core::{
        model::{
            self, Mode, Model, Protocol,
            quic::Keys,
            sample::{backend, model, service},
        },
        nexthop::Network,
        plan::{
            self, Host,
            backends::Deltas,
            identity::{BackendIdentity, ServiceIdentity},
        },
        route::Routes,
        weight::Standings,
    },
    dataplane::fake,
};

const IFINDEX: u32 = 3;

pub(super) fn host() -> Host {
    let (attached, quic_keys) = (BTreeSet::from([IFINDEX]), Keys::new());
    Host { attached, ephemeral: 32768..=60999, merges: false, quic_keys }
}

fn hop(last: u8) -> NextHop {
    let (destination, source) = ([2, 0, 0, 0, 0, last], [2, 0, 0, 0, 1, 1]);
    NextHop { ifindex: IFINDEX, destination, source, mtu: 1500, vlan: 0 }
}

/// Carries out a plan and calls `check` after every step.
pub(super) fn carry_out(
    tables: &mut Tables,
    model: &Model,
    network: &Network,
    check: impl Fn(&Tables),
) -> plan::Plan {
    let plan =
        plan::plan(model, &Standings::default(), network, &tables.snapshot().unwrap(), &host())
            .unwrap();
    for operation in &plan.operations {
        tables.apply(operation).unwrap();
        check(tables);
    }
    plan
}

/// What the packet path would find in the active bank.
fn look_up(
    tables: &Tables,
    kind: EndpointKind,
    addr: addr::AddrBytes,
    port: u16,
    proto: u8,
) -> Option<u32> {
    let config = tables.config.read(0);
    let generation = config.generations[config.active as usize];
    let salt = generation.endpoint_salt;
    let key = if addr::from_bytes(addr).is_ipv4() {
        endpoint_key_v4(kind, addr::v4_of(addr), port.to_be(), proto)
    } else {
        endpoint_key_v6(kind, addr::words(addr), port.to_be(), proto, salt)
    };
    let bucket = endpoint_bucket(key, salt) & generation.endpoint_mask;
    let bucket = tables.endpoints.read(config.active * limits::ENDPOINT_BUCKETS + bucket);
    bucket.keys.iter().position(|&k| k == key).map(|slot| bucket.ids[slot])
}

pub(super) fn address(tables: &Tables, addr: addr::AddrBytes) -> Option<Address> {
    let index = look_up(tables, EndpointKind::Address, addr, 0, 0)?;
    Some(tables.addresses.read(tables.config.read(0).active * limits::ADDRESSES + index))
}

pub(super) fn serves(entry: &Backend) -> bool {
    entry.flags & backend_flags::SERVING != 0
}

/// Whatever a packet can reach exists, is whole and may serve.
pub(super) fn check_reach(tables: &Tables) {
    for (id, entry) in tables.services_of(tables.config.read(0).active) {
        for slot in slots(tables, entry.table) {
            let backend = tables.backends.read(slot.into());
            assert!(serves(&backend), "backend {slot} of service {id} does not serve");
            assert_eq!(backend.service, id);
            check_replies(tables, &backend, &entry);
        }
        for table in [entry.table, entry.previous] {
            check_routes(tables, table);
        }
        check_sources(tables, &entry);
        for slot in slots(tables, entry.previous) {
            let backend = tables.backends.read(slot.into());
            assert!(!serves(&backend) || backend.service == id, "a stranger in a previous table");
        }
        check_service(tables, id, &entry);
    }
}

pub(super) fn slots(tables: &Tables, table: TableRef) -> BTreeSet<u16> {
    tables.table(table).into_iter().collect()
}

fn check_service(tables: &Tables, id: u16, entry: &Service) {
    let vip = address(tables, entry.vip).expect("a VIP without an address");
    assert_eq!((vip.addr, vip.group), (entry.vip, entry.group));
    if entry.flags & flags::RANGE == 0 {
        let port = u16::from_be(entry.port);
        let found = look_up(tables, EndpointKind::Service, entry.vip, port, entry.proto);
        assert_eq!(found, Some(id.into()));
    } else {
        let ranges = &vip.ranges[..vip.range_count as usize];
        assert!(ranges.iter().any(|range| range.service == id && range.proto == entry.proto));
    }
}

fn check_replies(tables: &Tables, backend: &Backend, service: &Service) {
    if backend.flags & backend_flags::NAT == 0 {
        return;
    }
    let port = match (service.flags & flags::RANGE != 0, u16::from_be(backend.port)) {
        (true, _) => 0,
        (false, 0) => u16::from_be(service.port),
        (false, port) => port,
    };
    let id = look_up(tables, EndpointKind::Reply, backend.addr, port, service.proto);
    let found = tables.backends.read(id.expect("replies lead nowhere"));
    assert!(serves(&found) && found.addr == backend.addr);
    // Another backend answers for it: both must know.
    if found != *backend {
        assert_ne!(backend.shared_salt, 0);
        assert_eq!(found.shared_salt, backend.shared_salt);
    }
}

/// A service as an operator sees it: who is behind each slot, by identity.
pub(super) type View =
    BTreeMap<ServiceIdentity, (Service, Vec<(BackendIdentity, Deltas)>, [Option<Arc<Routes>>; 2])>;

pub(super) fn view(tables: &Tables) -> (View, u32, BTreeSet<IpNet>) {
    let snapshot = tables.snapshot().unwrap();
    let mut view = View::new();
    for (&id, entry) in &snapshot.services {
        let who = ServiceIdentity::read(entry);
        let slots = tables.table(entry.table);
        let backend = |slot: u16| {
            let entry = &snapshot.backends[&slot];
            (BackendIdentity::read(entry, who), Deltas::read(entry))
        };
        let places = Service {
            table: TableRef::new(0, entry.table.slots(), entry.table.blocks()),
            previous: TableRef::NONE,
            sources: 0,
            ..*entry
        };
        let sets = [entry.table.routes(), entry.sources];
        let routes = sets.map(|set| snapshot.routes.get(&set).cloned());
        view.insert(who, (places, slots.into_iter().map(backend).collect(), routes));
        assert!(id > 0);
    }
    (view, snapshot.generation().features, snapshot.denied)
}

fn any_service() -> impl Strategy<Value = model::Service> {
    let ports = prop::sample::select(vec![(80, 80), (443, 443), (1000, 2000), (1, 65535)]);
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let mode = prop::sample::select(vec![Mode::Nat, Mode::Dsr]);
    let backends = prop::collection::btree_map(1u8..8, (0u16..3, 0u16..4), 0..6);
    let split = prop::option::weighted(0.3, (0u16..100, 1u16..100));
    let routes = prop::collection::vec((0usize..4, any::<bool>()), 0..4);
    let sources = prop::collection::btree_set(0usize..4, 0..3);
    let any = (any::<bool>(), ports, protocol, mode, backends, split, routes, sources);
    any.prop_map(|(v6, ports, protocol, mode, all, split, routes, sources)| {
        let mut service =
            service(if v6 { "2001:db8::1" } else { "192.0.2.1" }, ports, protocol, mode);
        for (last, (port, weight)) in all {
            let address = if v6 {
                std::net::Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()]).into()
            } else {
                std::net::Ipv4Addr::from([10, 0, 0, last]).into()
            };
            let port = (port > 0 && mode == Mode::Nat && ports.0 == ports.1).then_some(79 + port);
            let group = Some(if last % 2 == 0 { "blue" } else { "green" }.to_owned());
            let backend = backend(address, port, weight);
            service.backends.push(model::Backend { group, ..backend });
        }
        if let Some((blue, green)) = split {
            service.split = [("blue".to_owned(), blue), ("green".to_owned(), green)].into();
        }
        service.routes = any_routes(v6, routes);
        service.allow_sources = any_sources(v6, sources);
        service
    })
}

pub(super) fn any_model() -> impl Strategy<Value = (Model, Network)> {
    let services = prop::collection::vec(any_service(), 0..6);
    let deny =
        prop::sample::subsequence(vec!["203.0.113.0/24", "198.51.100.7/32", "2001::/16"], 0..3);
    let resolved = prop::collection::btree_map(1u8..8, 1u8..4, 0..8);
    (services, any_ha(), deny, resolved, 0u8..3).prop_map(|(services, ha, deny, resolved, own)| {
        let distinct: BTreeMap<_, _> =
            services.into_iter().map(|service| (ServiceIdentity::of(&service), service)).collect();
        let mut model = Model { ha, ..model(distinct.into_values().collect()) };
        model.firewall.deny_sources = deny.iter().map(|net| net.parse().unwrap()).collect();
        let network = Network {
            next_hops: resolved
                .into_iter()
                .map(|(last, mac)| (IpAddr::from([10, 0, 0, last]), hop(mac)))
                .collect(),
            host_addresses: (0..own).map(|last| IpAddr::from([192, 0, 2, last])).collect(),
            vlans: BTreeMap::new(),
            bridges: Arc::default(),
            epoch: 0,
        };
        (model, network)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_step_of_every_plan_leaves_only_live_backends_in_reach(
        steps in prop::collection::vec(any_model(), 1..5)
    ) {
        let mut tables = fake::tables(64).unwrap();
        for (model, network) in &steps {
            carry_out(&mut tables, model, network, check_reach);
            let mut fresh = fake::tables(64).unwrap();
            carry_out(&mut fresh, model, network, |_| {});
            prop_assert_eq!(view(&tables), view(&fresh));
        }
    }

    #[test]
    fn an_agent_that_dies_anywhere_is_followed_by_one_that_mends(
        first in any_model(), second in any_model(), third in any_model(), stop in 0usize..60
    ) {
        let mut tables = fake::tables(64).unwrap();
        carry_out(&mut tables, &first.0, &first.1, |_| {});
        let snapshot = tables.snapshot().unwrap();
        let cut = plan::plan(&second.0, &Standings::default(), &second.1, &snapshot, &host()).unwrap();
        for operation in cut.operations.iter().take(stop) {
            tables.apply(operation).unwrap();
        }
        carry_out(&mut tables, &third.0, &third.1, check_reach);
        let mut fresh = fake::tables(64).unwrap();
        carry_out(&mut fresh, &third.0, &third.1, |_| {});
        prop_assert_eq!(view(&tables), view(&fresh));
        let wanted: usize = third.0.services.iter().map(|service| service.backends.len()).sum();
        prop_assert_eq!(tables.snapshot().unwrap().in_use().count(), wanted);
        // What nobody refers to any more, the next plan removes.
        tables.retire_previous(1..limits::SERVICES as u16);
        carry_out(&mut tables, &third.0, &third.1, check_reach);
        prop_assert_eq!(tables.kernel.routes().len(), fresh.kernel.routes().len());
    }
}

pub(super) fn web(backends: &[(u8, u16)]) -> Model {
    let mut web = service("192.0.2.1", (80, 80), Protocol::Tcp, Mode::Nat);
    for &(last, weight) in backends {
        web.backends.push(backend(IpAddr::from([10, 0, 0, last]), None, weight));
    }
    model(vec![web])
}

pub(super) fn ids(tables: &Tables) -> BTreeMap<IpAddr, u16> {
    let snapshot = tables.snapshot().unwrap();
    snapshot.in_use().map(|(id, entry)| (addr::from_bytes(entry.addr), id)).collect()
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let mut tables = fake::tables(64).unwrap();
    let network = Network::default();
    carry_out(&mut tables, &web(&[(1, 1), (2, 1)]), &network, check_reach);
    carry_out(&mut tables, &web(&[(1, 1), (2, 3)]), &network, check_reach);
    let before = tables.snapshot().unwrap().services;
    let plan = carry_out(&mut tables, &web(&[(1, 1), (2, 3)]), &network, check_reach);
    let kinds = plan.operations.iter().map(std::mem::discriminant);
    let bank = plan.operations.iter().find(|op| matches!(op, Operation::WriteBank(_))).unwrap();
    assert!(kinds.eq([bank, &Operation::Publish(0)].map(std::mem::discriminant)));
    assert_eq!(tables.snapshot().unwrap().services, before);
    assert_ne!(before[&1].table, before[&1].previous, "the table before is still known");
}

#[test]
fn a_drained_service_keeps_its_table_as_the_previous_one() {
    let mut tables = fake::tables(64).unwrap();
    let network = Network::default();
    carry_out(&mut tables, &web(&[(1, 1)]), &network, check_reach);
    let before = tables.snapshot().unwrap().services[&1];
    carry_out(&mut tables, &web(&[(1, 0)]), &network, check_reach);
    let drained = tables.snapshot().unwrap().services[&1];
    assert_eq!((drained.table, drained.previous), (TableRef::NONE, before.table));
    carry_out(&mut tables, &web(&[(1, 1)]), &network, check_reach);
    let back = tables.snapshot().unwrap().services[&1];
    assert_eq!(back.previous, before.table, "until it is retired");
}

#[test]
fn services_that_share_a_backend_and_port_say_so_until_they_do_not() {
    let mut tables = fake::tables(64).unwrap();
    let network = Network::default();
    let shared_by = |vips: &[&str]| {
        let mut all = web(&[(1, 1), (2, 1)]);
        for vip in vips {
            let mut other = service(vip, (443, 443), Protocol::Tcp, Mode::Nat);
            other.backends.push(backend(IpAddr::from([10, 0, 0, 2]), Some(80), 1));
            all.services.push(other);
        }
        all
    };
    let salts = |tables: &Tables| [1, 2, 3, 4].map(|id| tables.backends.read(id).shared_salt);
    carry_out(&mut tables, &shared_by(&[]), &network, check_reach);
    carry_out(&mut tables, &shared_by(&["192.0.2.8", "192.0.2.9"]), &network, check_reach);
    let backend = addr::to_bytes(IpAddr::from([10, 0, 0, 2]));
    let salt = hash::shared_salt(backend, 6);
    assert_eq!(salts(&tables), [0, salt, salt, salt]);
    assert_eq!(look_up(&tables, EndpointKind::Reply, backend, 80, 6), Some(2));

    // The lowest leaves: live flows of the others go on being found.
    let mut others = shared_by(&["192.0.2.8", "192.0.2.9"]);
    others.services.remove(0);
    carry_out(&mut tables, &others, &network, check_reach);
    assert_eq!(salts(&tables)[2..], [salt, salt]);
    assert_eq!(look_up(&tables, EndpointKind::Reply, backend, 80, 6), Some(3));

    others.services.remove(0);
    carry_out(&mut tables, &others, &network, check_reach);
    let last = tables.backends.read(4);
    assert_eq!((last.shared_salt, last.service), (0, 3));
}

#[test]
fn next_hops_are_followed_in_place() {
    let mut tables = fake::tables(64).unwrap();
    let address = IpAddr::from([10, 0, 0, 1]);
    let mut network = Network::default();
    carry_out(&mut tables, &web(&[(1, 1)]), &network, check_reach);
    let generation = tables.config.read(0);
    for hop in [
        Some(hop(1)),
        Some(hop(2)),
        None,
        Some(NextHop { ifindex: 99, ..hop(1) }),
        Some(NextHop { mtu: 1400, ..hop(1) }),
        Some(NextHop { vlan: 77, ..hop(1) }),
    ] {
        network.next_hops = hop.map(|hop| (address, hop)).into_iter().collect();
        let plan = plan::follow(&network, &tables.all_backends(), &host());
        plan.operations.iter().for_each(|operation| tables.apply(operation).unwrap());
        let usable = hop.filter(|hop| hop.ifindex == IFINDEX);
        assert_eq!(plan::backends::written_hop(&tables.backends.read(1)), usable);
        assert_eq!(plan.unattached.len(), usize::from(hop.is_some_and(|hop| hop.ifindex == 99)));
    }
    assert_eq!(tables.config.read(0), generation);
}

#[test]
fn features_say_what_is_in_use() {
    let mut tables = fake::tables(64).unwrap();
    let mut all = web(&[(1, 1)]);
    let mut any = service("192.0.2.1", (1, 65535), Protocol::Udp, Mode::Nat);
    any.backends.push(backend(IpAddr::from([10, 0, 0, 1]), None, 1));
    all.services.push(any);
    all.firewall.guard_host = true;
    all.firewall.deny_sources = vec!["2001:db8::/32".parse().unwrap()];
    all.firewall.allow = vec![(Protocol::Tcp, 22..=22), (Protocol::Udp, 63..=64)];
    carry_out(&mut tables, &all, &Network::default(), check_reach);
    let snapshot = tables.snapshot().unwrap();
    let expected =
        features::NAT | features::NAT_ANY_PORT | features::DENY_V6 | features::GUARD_HOST;
    assert_eq!(snapshot.generation().features, expected);
    let bank = snapshot.config.active * ALLOW_WORDS;
    assert_eq!(tables.allow.read(bank).bits, 1 << 22);
    assert_eq!(tables.allow.read(bank + 1024).bits, 1 << 63);
    assert_eq!(tables.allow.read(bank + 1025).bits, 1);
}

/// Connections that SYN cookies opened go on, whatever becomes of the setting.
#[test]
fn who_may_have_connections_that_cookies_opened_translates_them() {
    let (mut tables, network) = (fake::tables(64).unwrap(), Network::default());
    let rate = |tables: &Tables| {
        let services = tables.snapshot().unwrap().services;
        services.values().map(|entry| entry.syn_rate).collect::<Vec<_>>()
    };
    let with = |above: Option<u32>| {
        let mut model = web(&[(1, 1)]);
        model.services.iter_mut().for_each(|service| service.syn_cookies_above = above);
        model
    };
    carry_out(&mut tables, &with(Some(0)), &network, check_reach);
    assert_eq!(rate(&tables), [SynRate::new(0).0]);
    let open = synproxy::Bucket { keys: [1, 0, 0, 0], values: [9, 0, 0, 0] };
    tables.proxied.write(7, &open);
    carry_out(&mut tables, &with(None), &network, check_reach);
    assert_eq!(rate(&tables), [SynRate::ALL.0]);
    // Also where it was away.
    carry_out(&mut tables, &model(Vec::new()), &network, check_reach);
    carry_out(&mut tables, &with(None), &network, check_reach);
    assert_eq!(rate(&tables), [SynRate::ALL.0]);
    tables.proxied.write(7, &synproxy::Bucket::ZERO);
    let mut edited = with(None);
    edited.firewall.guard_host = true;
    carry_out(&mut tables, &edited, &network, check_reach);
    assert_eq!(rate(&tables), [0]);
}

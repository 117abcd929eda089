use proptest::prelude::*;

use super::*;
use crate::core::{
    health::{Outcome, Report},
    model::{
        Mode, Policy, Protocol, Service,
        health::{Health as Settings, Probe},
        sample,
    },
    weight::{Health, policy},
};

const SECOND: Duration = Duration::from_secs(1);

fn backends(service: &mut Service, numbers: std::ops::Range<u32>) {
    service.backends = numbers
        .map(|n| sample::backend(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), None, 100))
        .collect();
}

/// A service whose backends one outcome turns up or down.
fn service(n: u8, numbers: std::ops::Range<u32>) -> Service {
    let vip = format!("192.0.2.{n}");
    let mut service = sample::service(&vip, (80, 80), Protocol::Tcp, Mode::Nat);
    service.health = Settings { probe: Probe::Tcp, rise: 1, fall: 1, ..Settings::default() };
    backends(&mut service, numbers);
    service
}

fn key(service: &Service, n: usize) -> BackendIdentity {
    BackendIdentity::of(service, &service.backends[n])
}

fn ok(ms: u64) -> Observation {
    Observation { outcome: Outcome::Success(Duration::from_millis(ms)), report: None }
}

fn failed() -> Observation {
    Observation { outcome: Outcome::Failure("connection refused".into()), report: None }
}

fn nothing(_: &str, _: &str) -> Option<(AdminState, Option<u64>)> {
    None
}

fn weight(fleet: &Fleet, service: &Service, n: usize) -> u16 {
    fleet.standings().0[&key(service, n)].weight
}

/// A fleet of these services, changes taken.
fn fleet(services: &[&Service]) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.configure(&model(services), &nothing, Duration::ZERO);
    assert_eq!(fleet.take_changes(), services.iter().map(|s| ServiceIdentity::of(s)).collect());
    fleet
}

fn model(services: &[&Service]) -> Model {
    sample::model(services.iter().map(|&service| service.clone()).collect())
}

#[test]
fn what_changes_nothing_is_no_change() {
    let web = service(1, 0..3);
    let mut fleet = fleet(&[&web]);
    for n in 0..3 {
        assert!(!fleet.observe(&key(&web, n), ok(1), SECOND));
    }
    fleet.configure(&model(&[&web]), &nothing, SECOND);
    assert!(fleet.take_changes().is_empty());
    assert_eq!(fleet.next_wake(SECOND, 0), None);
    assert!(!fleet.tick(SECOND, 0));
}

#[test]
fn a_service_that_moves_keeps_what_is_known_of_its_backends() {
    let mut web = service(1, 0..3);
    let mut fleet = fleet(&[&web]);
    fleet.observe(&key(&web, 1), failed(), SECOND);
    fleet.take_changes();
    for change in [
        |web: &mut Service| web.vip = "192.0.2.9".parse().expect("an address"),
        |web: &mut Service| web.mode = Mode::Dsr,
        |web: &mut Service| web.protocol = Protocol::Udp,
    ] {
        let old = web.clone();
        change(&mut web);
        fleet.configure(&model(&[&web]), &nothing, 2 * SECOND);
        assert!(fleet.backend(&key(&old, 1)).is_none());
        assert!(!fleet.standings().0.contains_key(&key(&old, 1)));
        let health = |n| fleet.backend(&key(&web, n)).expect("known").tracker.health();
        assert_eq!([0, 1].map(health), [Health::Unknown, Health::Down]);
        assert_eq!([0, 1].map(|n| weight(&fleet, &web, n)), [100, 0]);
        assert!(fleet.take_changes().contains(&ServiceIdentity::of(&web)));
    }
}

#[test]
fn what_comes_back_is_as_it_was_where_that_is_remembered() {
    let web = service(1, 0..3);
    let (mut less, dns) = (web.clone(), service(2, 0..2));
    less.backends.truncate(1);
    less.slow_start = 10 * SECOND;
    let mut fleet = fleet(&[&web, &dns]);
    fleet.observe(&key(&web, 1), failed(), SECOND);
    fleet.observe(&key(&web, 2), ok(1), SECOND);
    fleet.observe(&key(&dns, 1), failed(), SECOND);
    let earlier = fleet.clone();
    fleet.configure(&model(&[&less]), &nothing, 2 * SECOND);
    fleet.remember(&earlier);
    fleet.take_changes();
    fleet.configure(&model(&[&web, &dns]), &nothing, 3 * SECOND);
    let health = |who| fleet.backend(&who).expect("known").tracker.health();
    assert_eq!([key(&web, 1), key(&web, 2)].map(health), [Health::Down, Health::Up]);
    assert_eq!(health(key(&dns, 1)), Health::Down);
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [100, 0, 100]);
    assert_eq!(weight(&fleet, &dns, 1), 0);
    assert_eq!(fleet.take_changes().len(), 2);
}

#[test]
fn a_deadline_in_the_far_future_is_waited_for_in_steps() {
    let web = service(1, 0..2);
    let mut fleet = fleet(&[&web]);
    let drain = |_: &str, _: &str| Some((AdminState::Drain, Some(u64::MAX)));
    fleet.configure(&model(&[&web]), &drain, SECOND);
    assert_eq!(fleet.next_wake(SECOND, 1), Some(SECOND + Duration::from_hours(24)));
}

#[test]
fn only_the_service_of_a_failed_backend_changes() {
    let (web, dns) = (service(1, 0..3), service(2, 0..3));
    let mut fleet = fleet(&[&web, &dns]);
    assert!(fleet.observe(&key(&web, 1), failed(), SECOND));
    assert_eq!(fleet.take_changes(), [ServiceIdentity::of(&web)].into());
    assert_eq!(weight(&fleet, &web, 1), 0);
    let account = fleet.backend(&key(&web, 1)).unwrap();
    assert_eq!((account.tracker.health(), account.tracker.since()), (Health::Down, SECOND));
    assert_eq!(account.tracker.reason(), "connection refused");
    assert!(!account.standing.serving);
    assert_eq!(fleet.service(&ServiceIdentity::of(&web)).unwrap().able, 2);
}

#[test]
fn what_is_undone_before_it_is_taken_is_no_change() {
    let web = service(1, 0..3);
    let mut fleet = fleet(&[&web]);
    assert!(fleet.observe(&key(&web, 1), failed(), SECOND));
    assert!(fleet.observe(&key(&web, 1), ok(1), SECOND));
    assert!(fleet.take_changes().is_empty());
}

#[test]
fn the_unknown_are_ignored() {
    let (web, gone) = (service(1, 0..3), service(2, 0..3));
    let mut fleet = fleet(&[&web]);
    assert!(!fleet.observe(&key(&gone, 0), failed(), SECOND));
    fleet.set_flows(&key(&gone, 0), 1);
    assert!(fleet.backend(&key(&gone, 0)).is_none());
}

#[test]
fn a_new_generation_keeps_what_stays_and_drops_what_left() {
    let (web, dns) = (service(1, 0..3), service(2, 0..3));
    let mut fleet = fleet(&[&web, &dns]);
    fleet.observe(&key(&web, 1), failed(), SECOND);
    fleet.take_changes();
    let next = service(1, 1..4);
    fleet.configure(&model(&[&next]), &nothing, 2 * SECOND);
    let changed = [&web, &dns].map(ServiceIdentity::of).into();
    assert_eq!(fleet.take_changes(), changed);
    assert_eq!(fleet.standings().0.len(), 3);
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &next, n)), [0, 100, 100]);
    assert_eq!(fleet.backend(&key(&next, 0)).unwrap().tracker.since(), SECOND);
}

#[test]
fn slow_start_is_for_those_who_come_while_others_serve() {
    let mut web = service(1, 0..3);
    web.slow_start = 18 * SECOND;
    let mut fleet = fleet(&[&web]);
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [100; 3]);
    backends(&mut web, 0..4);
    fleet.configure(&model(&[&web]), &nothing, SECOND);
    fleet.observe(&key(&web, 0), failed(), SECOND);
    fleet.observe(&key(&web, 0), ok(1), 2 * SECOND);
    assert_eq!([0, 1, 3].map(|n| weight(&fleet, &web, n)), [10, 100, 15]);
    let (mut now, mut changes) = (2 * SECOND, 0);
    while let Some(wake) = fleet.next_wake(now, 0) {
        assert!(wake > now);
        now = wake;
        changes += usize::from(fleet.tick(now, 0));
    }
    assert_eq!([0, 1, 2, 3].map(|n| weight(&fleet, &web, n)), [100; 4]);
    assert_eq!((now, changes), (20 * SECOND, 18));
    // What is over does not begin again with a longer slow start.
    web.slow_start = 3600 * SECOND;
    fleet.configure(&model(&[&web]), &nothing, now);
    assert_eq!(weight(&fleet, &web, 0), 100);
}

#[test]
fn who_comes_back_from_maintenance_starts_slowly_and_from_a_drain_does_not() {
    let mut web = service(1, 0..3);
    web.slow_start = 18 * SECOND;
    let mut fleet = fleet(&[&web]);
    let orders = |_: &str, backend: &str| match backend {
        "10.0.0.0" => Some((AdminState::Maint, None)),
        "10.0.0.1" => Some((AdminState::Drain, None)),
        _ => None,
    };
    fleet.configure(&model(&[&web]), &orders, SECOND);
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [0, 0, 100]);
    fleet.configure(&model(&[&web]), &nothing, SECOND);
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [10, 100, 100]);
}

#[test]
fn a_drain_ends_its_flows_at_its_deadline_and_not_again() {
    let web = service(1, 0..2);
    let mut fleet = fleet(&[&web]);
    let drained = key(&web, 0);
    let orders =
        |_: &str, backend: &str| (backend == "10.0.0.0").then_some((AdminState::Drain, Some(1060)));
    fleet.configure(&model(&[&web]), &orders, SECOND);
    assert_eq!(fleet.standings().0[&drained], Standing { weight: 0, serving: true });
    assert_eq!(fleet.next_wake(SECOND, 1000), Some(61 * SECOND));
    assert!(fleet.due_drains(1059).is_empty());
    assert!(!fleet.tick(60 * SECOND, 1059));
    assert_eq!(fleet.due_drains(1060), [drained]);
    assert!(fleet.tick(61 * SECOND, 1060));
    assert_eq!(fleet.standings().0[&drained], Standing { weight: 0, serving: false });
    assert_eq!(fleet.backend(&drained).unwrap().admin, AdminState::Drain);
    fleet.take_changes();
    fleet.configure(&model(&[&web]), &orders, 62 * SECOND);
    assert!(fleet.take_changes().is_empty());
    assert!(fleet.due_drains(2000).is_empty());
    assert_eq!(fleet.next_wake(62 * SECOND, 1061), None);
}

#[test]
fn what_an_agent_reports_counts_at_once() {
    let mut web = service(1, 0..2);
    web.health.probe = Probe::Agent;
    let mut fleet = fleet(&[&web]);
    let report = Some(Report { percent: Some(30), admin: None });
    assert!(fleet.observe(&key(&web, 0), Observation { report, ..ok(1) }, SECOND));
    assert_eq!(weight(&fleet, &web, 0), 30);
}

#[test]
fn policies_are_asked_once_a_second_and_forgotten_when_they_change() {
    let mut web = service(1, 0..3);
    web.policy = Policy::Latency;
    let mut fleet = fleet(&[&web]);
    for (n, ms) in [(0, 10), (1, 10), (2, 40)] {
        assert!(!fleet.observe(&key(&web, n), ok(ms), SECOND / 2));
    }
    assert_eq!(fleet.next_wake(SECOND / 2, 0), Some(policy::INTERVAL));
    let mut now = SECOND / 2;
    for expected in [90, 81] {
        now = fleet.next_wake(now, 0).unwrap();
        assert!(fleet.tick(now, 0));
        assert!(!fleet.tick(now, 0));
        assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [100, 100, expected]);
    }
    web.policy = Policy::LeastFlows;
    fleet.configure(&model(&[&web]), &nothing, now);
    assert_eq!(weight(&fleet, &web, 2), 100);
    fleet.set_flows(&key(&web, 0), 1000);
    assert!(fleet.tick(fleet.next_wake(now, 0).unwrap(), 0));
    assert_eq!([0, 1, 2].map(|n| weight(&fleet, &web, n)), [90, 110, 110]);
}

#[test]
fn weights_follow_handshakes_rather_than_probes() {
    let mut web = service(1, 0..3);
    web.policy = Policy::Latency;
    let mut fleet = fleet(&[&web]);
    (0..3).for_each(|n| assert!(!fleet.observe(&key(&web, n), ok(1), SECOND / 2)));
    let weights = |fleet: &Fleet| [0, 1, 2].map(|n| weight(fleet, &web, n));
    let mut counted = [Counted::default(); 3];
    // A second in which the third backend takes five times as long as others.
    let mut pass = |fleet: &mut Fleet, now: Duration| {
        for (n, counted) in counted.iter_mut().enumerate() {
            counted.handshakes += 20;
            counted.us += if n == 2 { 20 * 500 } else { 20 * 100 };
            fleet.count_handshakes(&key(&web, n), *counted, now);
        }
        fleet.tick(now, 0);
    };
    pass(&mut fleet, SECOND);
    assert_eq!(weights(&fleet), [100; 3], "the first look is where counting begins");
    pass(&mut fleet, 2 * SECOND);
    assert_eq!(weights(&fleet), [100, 100, 90]);
    let handshake = |fleet: &Fleet, n| fleet.backend(&key(&web, n)).unwrap().handshake;
    assert_eq!(handshake(&fleet, 2), Some(Duration::from_micros(500)));
    // Who was down is measured anew.
    fleet.observe(&key(&web, 2), failed(), 2 * SECOND);
    fleet.observe(&key(&web, 2), ok(1), 2 * SECOND);
    assert_eq!([0, 2].map(|n| handshake(&fleet, n).is_some()), [true, false]);
    let mut other = web.clone();
    other.policy = Policy::LeastFlows;
    fleet.configure(&model(&[&other]), &nothing, 3 * SECOND);
    assert_eq!(handshake(&fleet, 0), None);
}

#[derive(Clone, Debug)]
enum Event {
    Observe(u8, u8, bool),
    Order(u8, AdminState),
    Backends(u8, u8),
    SlowStart(u8),
    Pass(u16),
    Take,
}

fn any_event() -> impl Strategy<Value = Event> {
    let admin =
        prop_oneof![Just(AdminState::Ready), Just(AdminState::Drain), Just(AdminState::Maint)];
    prop_oneof![
        4 => (0u8..2, 0u8..6, any::<bool>()).prop_map(|(s, b, ok)| Event::Observe(s, b, ok)),
        1 => (0u8..6, admin).prop_map(|(b, admin)| Event::Order(b, admin)),
        1 => (0u8..6, 0u8..6).prop_map(|(from, to)| Event::Backends(from, to)),
        1 => (0u8..30).prop_map(Event::SlowStart),
        4 => (0u16..5000).prop_map(Event::Pass),
        2 => Just(Event::Take),
    ]
}

proptest! {
    /// Whatever happens: every backend has a standing and nobody else does,
    /// changes are told exactly, what is due is done, and once nothing
    /// happens any more everybody who serves has the whole weight.
    #[test]
    fn standings_are_complete_and_changes_exact(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut services = [service(1, 0..3), service(2, 0..6)];
        let mut orders: BTreeMap<String, AdminState> = BTreeMap::new();
        let (mut fleet, mut now) = (Fleet::new(), Duration::ZERO);
        let mut taken = Standings::default();
        for event in events.into_iter().chain([Event::SlowStart(0)]) {
            match event {
                Event::Observe(s, b, up) => {
                    let service = &services[usize::from(s)];
                    if let Some(backend) = service.backends.get(usize::from(b)) {
                        let found = if up { ok(1) } else { failed() };
                        let before = fleet.standings().clone();
                        let key = BackendIdentity::of(service, backend);
                        let changed = fleet.observe(&key, found, now);
                        prop_assert_eq!(changed, &before != fleet.standings());
                    }
                    continue;
                }
                Event::Pass(ms) => {
                    now += Duration::from_millis(ms.into());
                    fleet.tick(now, 0);
                    prop_assert!(fleet.next_wake(now, 0).is_none_or(|wake| wake > now));
                    continue;
                }
                Event::Take => {
                    let of = |standings: &Standings, service: &ServiceIdentity| -> Vec<_> {
                        let all = standings.0.iter().filter(|(key, _)| key.service == *service);
                        all.map(|(key, standing)| (*key, *standing)).collect()
                    };
                    let told = fleet.take_changes();
                    for service in services.iter().map(ServiceIdentity::of) {
                        let differs = of(&taken, &service) != of(fleet.standings(), &service);
                        prop_assert_eq!(told.contains(&service), differs);
                    }
                    taken = fleet.standings().clone();
                    continue;
                }
                Event::Order(b, admin) => {
                    orders.insert(format!("10.0.0.{b}"), admin);
                }
                Event::Backends(from, to) => backends(&mut services[0], from.into()..to.into()),
                Event::SlowStart(s) => services[1].slow_start = Duration::from_secs(s.into()),
            }
            let order = |_: &str, name: &str| orders.get(name).map(|&admin| (admin, None));
            fleet.configure(&model(&[&services[0], &services[1]]), &order, now);
            let all = services.iter().flat_map(|s| (0..s.backends.len()).map(|n| key(s, n)));
            prop_assert!(all.eq(fleet.standings().0.keys().copied()));
        }
        for (key, standing) in &fleet.standings().0 {
            prop_assert!([0, 100].contains(&standing.weight), "{:?}", key);
        }
        prop_assert_eq!(fleet.next_wake(now, 0), None);
    }
}

/// Not how long: how much is done. Ten thousand backends of a thousand
/// services, and one of them fails.
#[test]
fn a_failure_in_a_large_fleet_touches_one_service() {
    let mut services = Vec::new();
    for n in 0..1000 {
        let mut made = service(1, n * 10..n * 10 + 10);
        made.ports = (n as u16 + 1)..=(n as u16 + 1);
        services.push(made);
    }
    let all: Vec<_> = services.iter().collect();
    let mut fleet = fleet(&all);
    assert!(fleet.observe(&key(&services[500], 3), failed(), SECOND));
    assert_eq!(fleet.take_changes(), [ServiceIdentity::of(&services[500])].into());
    assert_eq!(fleet.standings().0.len(), 10_000);
}

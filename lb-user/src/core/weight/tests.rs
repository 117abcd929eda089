mod policies;

use proptest::prelude::*;

use super::*;
use crate::core::model::{
    Mode, Protocol,
    sample::{backend, service},
};

const NOW: Duration = Duration::from_secs(1000);

/// A service with a backend of each weight.
fn with(weights: &[u16]) -> Service {
    let mut made = service("192.0.2.1", (80, 80), Protocol::Tcp, Mode::Nat);
    let address = |n: usize| std::net::Ipv4Addr::from(0x0a00_0001 + n as u32).into();
    made.backends =
        weights.iter().enumerate().map(|(n, &weight)| backend(address(n), None, weight)).collect();
    made
}

fn weights(service: &Service, zone: Option<&str>, members: &[Member]) -> Vec<u16> {
    let weighed = weigh(service, zone, members, NOW);
    weighed.standings.iter().map(|standing| standing.weight).collect()
}

fn down() -> Member {
    Member { health: Health::Down, ..Member::default() }
}

fn ordered(admin: AdminState) -> Member {
    Member { admin, ..Member::default() }
}

fn reported(percent: Option<u16>, admin: Option<AdminState>) -> Member {
    Member { report: Report { percent, admin }, ..Member::default() }
}

const UP: Member = Member {
    admin: AdminState::Ready,
    health: Health::Up,
    report: Report { percent: None, admin: None },
    up_since: None,
    factor: Factor::ONE,
};

fn any_admin() -> impl Strategy<Value = AdminState> {
    prop_oneof![
        3 => Just(AdminState::Ready), 1 => Just(AdminState::Drain), 1 => Just(AdminState::Maint)
    ]
}

fn any_member() -> impl Strategy<Value = Member> {
    let health = prop_oneof![Just(Health::Unknown), Just(Health::Up), Just(Health::Down)];
    let percent = proptest::option::of(0u16..300);
    let report = (percent, proptest::option::of(any_admin()));
    let up_since = proptest::option::of((0u64..1100).prop_map(Duration::from_secs));
    let ratios = proptest::collection::vec(any::<u64>(), 0..20);
    (any_admin(), health, report, up_since, ratios).prop_map(
        |(admin, health, (percent, admin_report), up_since, ratios)| Member {
            admin,
            health,
            report: Report { percent, admin: admin_report },
            up_since,
            factor: ratios.into_iter().fold(Factor::ONE, Factor::towards),
        },
    )
}

prop_compose! {
    fn any_seat()(
        weight in prop_oneof![0u16..4, any::<u16>()],
        zone in proptest::option::of(0..2), group in proptest::option::of(0..2),
        backup: bool, member in any_member(),
    ) -> (Backend, Member) {
        let mut backend = backend("10.0.0.1".parse().unwrap(), None, weight);
        backend.zone = zone.map(|n: i32| format!("zone-{n}"));
        backend.group = group.map(|n: i32| format!("group-{n}"));
        backend.backup = backup;
        (backend, member)
    }
}

prop_compose! {
    fn any_service()(
        slow_start in 0u64..200, min_up in 0u32..4, grouped: bool,
        seats in proptest::collection::vec(any_seat(), 0..12),
    ) -> (Service, Vec<Member>) {
        let mut service = with(&[]);
        service.slow_start = Duration::from_secs(slow_start);
        service.min_up = min_up;
        service.split = if grouped { [("group-0".into(), 1)].into() } else { [].into() };
        let (backends, members) = seats.into_iter().unzip();
        service.backends = backends;
        (service, members)
    }
}

proptest! {
    #[test]
    fn who_can_serve_does((service, members) in any_service(), zone in proptest::option::of(0..2)) {
        let zone = zone.map(|n: i32| format!("zone-{n}"));
        let found = weigh(&service, zone.as_deref(), &members, NOW);
        let able = |(backend, member): (&Backend, &Member)| {
            backend.weight > 0 && member.health != Health::Down
                && member.admin() == AdminState::Ready && member.report.percent != Some(0)
        };
        let able: Vec<_> = service.backends.iter().zip(&members).map(able).collect();
        let count = able.iter().filter(|&&able| able).count() as u32;
        let up = count > 0 && count >= service.min_up;
        prop_assert_eq!(found.state, ServiceState { able: count, up });
        prop_assert_eq!(up, found.standings.iter().any(|standing| standing.weight > 0));
        for (n, standing) in found.standings.iter().enumerate() {
            prop_assert!(able[n] || standing.weight == 0);
            prop_assert!(standing.serving || standing.weight == 0);
            prop_assert_eq!(found.base[n] > 0, standing.weight > 0);
            let out = members[n].health == Health::Down || members[n].admin() == AdminState::Maint;
            prop_assert_eq!(standing.serving, !out);
        }
        prop_assert!(found.next_change.is_none_or(|next| next > NOW));
        prop_assert_eq!(weigh(&service, zone.as_deref(), &members, NOW), found);
    }

    #[test]
    fn order_does_not_matter((service, members) in any_service(), turn in 0usize..12) {
        let found = weigh(&service, Some("zone-0"), &members, NOW);
        let (mut service, mut members, mut expected) = (service, members, found.standings);
        let turn = turn.min(members.len());
        service.backends.rotate_left(turn);
        service.backends.reverse();
        members.rotate_left(turn);
        members.reverse();
        expected.rotate_left(turn);
        expected.reverse();
        prop_assert_eq!(weigh(&service, Some("zone-0"), &members, NOW).standings, expected);
    }

    #[test]
    fn a_report_never_raises(weight: u16, member in any_member()) {
        let service = with(&[weight]);
        let silent = Member { report: Report::default(), ..member };
        let [with, without] = [member, silent].map(|m| weigh(&service, None, &[m], NOW).standings[0]);
        prop_assert!(with.weight <= without.weight);
        prop_assert!(with.serving <= without.serving);
    }

    #[test]
    fn slow_start_climbs_in_few_steps_to_the_whole(
        begin in 0u64..1_000_000, length in 1u64..10_000_000_000, weight in 1u16..
    ) {
        let (begin, length) = (Duration::from_nanos(begin), Duration::from_nanos(length));
        let mut service = with(&[weight]);
        service.slow_start = length;
        let member = Member { up_since: Some(begin), ..UP };
        let (mut now, mut before, mut steps) = (begin, 0, 0);
        loop {
            let found = weigh(&service, None, &[member], now);
            let share = ramp::ramp(length, Some(begin), now).share;
            let linear = 0.1 + 0.9 * (now - begin).as_secs_f64() / length.as_secs_f64();
            prop_assert!((share as f64 / 1000.0 - linear).abs() <= 0.052);
            prop_assert!(found.standings[0].weight >= before.max(1));
            before = found.standings[0].weight;
            let Some(next) = found.next_change else { break };
            prop_assert!(next > now && next <= begin + length);
            prop_assert_eq!(&weigh(&service, None, &[member], next - Duration::from_nanos(1)).standings, &found.standings);
            (now, steps) = (next, steps + 1);
        }
        prop_assert_eq!(before, weight);
        prop_assert!(steps <= ramp::STEPS);
    }
}

#[test]
fn drain_keeps_flows_and_maint_does_not() {
    let service = with(&[100, 100, 100]);
    let members = [UP, ordered(AdminState::Drain), ordered(AdminState::Maint)];
    let standing = |weight, serving| Standing { weight, serving };
    let expected = [standing(100, true), standing(0, true), standing(0, false)];
    assert_eq!(weigh(&service, None, &members, NOW).standings, expected);
}

#[test]
fn the_stricter_of_order_and_report_holds() {
    let service = with(&[100; 4]);
    let mut undrained = reported(None, Some(AdminState::Ready));
    undrained.admin = AdminState::Drain;
    let members =
        [reported(Some(75), None), reported(None, Some(AdminState::Drain)), undrained, down()];
    assert_eq!(weights(&service, None, &members), [75, 0, 0, 0]);
}

#[test]
fn a_small_weight_is_never_rounded_to_nothing() {
    assert_eq!(weights(&with(&[1, 3]), None, &[reported(Some(1), None), UP]), [1, 3]);
}

#[test]
fn a_backup_serves_only_when_no_other_can() {
    let mut service = with(&[10, 20, 30]);
    service.backends[2].backup = true;
    assert_eq!(weights(&service, None, &[UP, down(), UP]), [10, 0, 0]);
    assert_eq!(weights(&service, None, &[ordered(AdminState::Drain), down(), UP]), [0, 0, 30]);
    assert!(weigh(&service, None, &[UP, UP, UP], NOW).standings[2].serving);
}

#[test]
fn each_group_has_its_own_backups() {
    let mut service = with(&[10, 20, 30, 40]);
    service.split = [("blue".into(), 1), ("green".into(), 1)].into();
    for (n, group) in [(0, "blue"), (1, "blue"), (2, "green")] {
        service.backends[n].group = Some(group.into());
    }
    service.backends[1].backup = true;
    service.backends[3].backup = true;
    assert_eq!(weights(&service, None, &[UP; 4]), [10, 0, 30, 0]);
    assert_eq!(weights(&service, None, &[down(), UP, UP, UP]), [0, 20, 30, 0]);
    assert_eq!(weights(&service, None, &[down(), UP, down(), UP]), [0, 20, 0, 40]);
}

#[test]
fn the_own_zone_serves_alone_until_half_of_it_is_gone() {
    let mut service = with(&[100; 6]);
    for n in 0..4 {
        service.backends[n].zone = Some("here".into());
    }
    service.backends[4].zone = Some("there".into());
    let here = Some("here");
    assert_eq!(weights(&service, here, &[UP; 6]), [100, 100, 100, 100, 0, 0]);
    assert_eq!(weights(&service, here, &[down(), down(), UP, UP, UP, UP]), [0, 0, 100, 100, 0, 0]);
    let few = [down(), down(), reported(Some(99), None), UP, UP, UP];
    assert_eq!(weights(&service, here, &few), [0, 0, 99, 100, 100, 100]);
    assert_eq!(weights(&service, Some("elsewhere"), &[UP; 6]), [100; 6]);
    assert_eq!(weights(&service, None, &[UP; 6]), [100; 6]);
}

#[test]
fn a_zone_that_comes_back_takes_over_when_it_is_warm() {
    let mut service = with(&[100, 100]);
    service.backends[0].zone = Some("here".into());
    service.slow_start = Duration::from_secs(18);
    let at = |seconds| {
        let member = Member { up_since: Some(NOW - Duration::from_secs(seconds)), ..UP };
        weights(&service, Some("here"), &[member, UP])
    };
    assert_eq!(at(0), [10, 100]);
    assert_eq!(at(7), [45, 100]);
    assert_eq!(at(8), [50, 0]);
}

#[test]
fn with_too_few_backends_new_flows_end_and_old_ones_do_not() {
    let mut service = with(&[100; 3]);
    service.min_up = 2;
    let found = weigh(&service, None, &[UP, down(), down()], NOW);
    assert_eq!(found.state, ServiceState { able: 1, up: false });
    assert_eq!(found.standings[0], Standing { weight: 0, serving: true });
    assert!(weigh(&service, None, &[UP, UP, down()], NOW).state.up);
}

#[test]
fn the_floor_holds_for_slow_start_and_policy_together() {
    let mut service = with(&[1000]);
    service.slow_start = Duration::from_secs(10);
    let factor = (0..50).fold(Factor::ONE, |factor, _| factor.towards(0));
    let member = Member { up_since: Some(NOW), factor, ..UP };
    assert_eq!(weights(&service, None, &[member]), [100]);
}

#[test]
fn too_large_weights_keep_their_proportion() {
    let factor = (0..50).fold(Factor::ONE, |factor, _| factor.towards(u64::from(u32::MAX)));
    let fast = Member { factor, ..UP };
    let found = weights(&with(&[u16::MAX, u16::MAX, 1]), None, &[fast, UP, UP]);
    assert_eq!(found[0], u16::MAX);
    let expected = 65_535_000 / factor.thousandths();
    assert!(u64::from(found[1]).abs_diff(expected) <= 1);
    assert_eq!(found[2], 1);
}

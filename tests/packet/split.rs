//! `service.split`: a client's group, not his flow, picks the backends.

use std::{collections::BTreeSet, net::IpAddr};

use lb_tests::harness::Result;

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number},
    frame::SYN,
    network::backend,
    setup::{Service, Setup},
    subject::{Action, Subject},
};

/// Backends 1 and 2 are blue, 3 and 4 green.
pub(super) fn split(blue: u16, green: u16) -> Setup {
    let mut setup = spread(&[1, 2, 3, 4]);
    for service in &mut setup.services {
        group(service);
        *service = service.clone().line(&format!("split = {{ blue = {blue}, green = {green} }}"));
    }
    setup
}

pub(super) fn group(service: &mut Service) {
    for (number, backend) in service.backends.iter_mut().enumerate() {
        backend.group = Some(if number < 2 { "blue" } else { "green" });
    }
}

pub(super) fn is_green(case: Case, to: IpAddr) -> bool {
    assert!((1..=4).any(|number| to == backend(case.v4, number)));
    to == backend(case.v4, 3) || to == backend(case.v4, 4)
}

/// Where some flows of a client go.
pub(super) fn goals(
    subject: &Subject<'_>,
    case: Case,
    client: u32,
    ports: u16,
) -> BTreeSet<IpAddr> {
    let request = |port| case.request_from(client_number(case.v4, client), port);
    let flags = |port| if port % 2 == 0 { SYN } else { 16 };
    (ports..ports + 12)
        .map(|port| goes_to(subject, &flagged(&request(port), flags(port))))
        .collect()
}

/// Whether each of these clients is green, for all his flows.
fn groups(subject: &Subject<'_>, case: Case, clients: u32, ports: u16) -> Vec<bool> {
    let group = |client| {
        let goals = goals(subject, case, client, ports);
        let green: BTreeSet<_> = goals.iter().map(|&to| is_green(case, to)).collect();
        assert_eq!(green.len(), 1, "{}: client {client}: {goals:?}", case.name());
        green.contains(&true)
    };
    (0..clients).map(group).collect()
}

#[test]
fn a_client_is_in_one_group_and_uses_all_its_backends() -> Result<()> {
    Subject::with(&split(50, 50), |subject| {
        for case in Case::all() {
            let green = groups(subject, case, 40, 100).into_iter().filter(|green| *green).count();
            assert!((8..=32).contains(&green), "{}: {green} of 40 are green", case.name());
            let all: BTreeSet<_> =
                (0..40).flat_map(|client| goals(subject, case, client, 300)).collect();
            assert_eq!(all.len(), 4, "{}", case.name());
        }
    })
}

#[test]
fn a_client_is_in_the_same_group_at_every_service() -> Result<()> {
    Subject::with(&split(50, 50), |subject| {
        for v4 in [true, false] {
            let cases = Case::all().into_iter().filter(|case| case.v4 == v4);
            let seen: BTreeSet<_> = cases.map(|case| groups(subject, case, 30, 500)).collect();
            assert_eq!(seen.len(), 1);
        }
    })
}

#[test]
fn shares_of_clients_are_those_configured() -> Result<()> {
    Subject::with(&split(80, 20), |subject| {
        for case in Case::all() {
            let green = (0..3000u32)
                .filter(|&number| {
                    let request = case.request_from(client_number(case.v4, number), 77);
                    is_green(case, subject.choice(&request).current)
                })
                .count();
            // Six deviations of 3000 clients, and half a block.
            assert!((455..=745).contains(&green), "{}: {green} of 3000", case.name());
        }
    })
}

#[test]
fn ramping_moves_no_client_back_and_no_flow_at_all() -> Result<()> {
    Subject::with(&split(100, 0), |subject| {
        let mut before = Vec::new();
        for (step, green) in [1, 5, 25, 60, 100].into_iter().enumerate() {
            let established: Vec<_> = Case::all()
                .into_iter()
                .flat_map(|case| {
                    (0..20).map(move |n| case.request_from(client_number(case.v4, n), 9))
                })
                .map(|request| (goes_to(subject, &request), goes_to(subject, &request), request))
                .collect();
            subject.reload(&split(100 - green, green));
            for (first, second, request) in established {
                assert_eq!((first, second), (second, goes_to(subject, &request)));
            }
            let ports = 1000 + 100 * step as u16;
            let now: Vec<bool> = Case::all()
                .into_iter()
                .flat_map(|case| {
                    (0..60).map(move |number| {
                        (case, case.request_from(client_number(case.v4, number), ports))
                    })
                })
                .map(|(case, request)| is_green(case, subject.choice(&request).current))
                .collect();
            assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "{green} %");
            before = now;
        }
        assert!(before.into_iter().all(|green| green));
    })
}

#[test]
fn a_group_without_backends_is_served_by_the_others() -> Result<()> {
    let mut setup = split(50, 50);
    for service in &mut setup.services {
        service.backends[2].weight = 0;
        service.backends[3].weight = 0;
    }
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            assert!(groups(subject, case, 40, 100).into_iter().all(|green| !green));
        }
    })
}

#[test]
fn a_split_that_comes_or_goes_keeps_flows() -> Result<()> {
    let mut plain = spread(&[1, 2, 3, 4]);
    plain.services.iter_mut().for_each(group);
    Subject::with(&plain, |subject| {
        for (port, setup) in [(1, split(10, 90)), (2, plain.clone()), (3, split(90, 10))] {
            let requests: Vec<_> = Case::all()
                .into_iter()
                .flat_map(|case| {
                    (0..20).map(move |n| case.request_from(client_number(case.v4, n), port))
                })
                .collect();
            // A SYN is not recorded where the tables agree: the one before all
            // these changes keeps its connection.
            let before: Vec<_> = requests.iter().map(|r| subject.choice(r).previous).collect();
            subject.reload(&setup);
            for (request, before) in requests.iter().zip(before) {
                assert_eq!(subject.choice(request).previous, before);
                let (action, _) = subject.run_uncounted(request);
                assert_eq!(action, Action::Redirect);
            }
        }
    })
}

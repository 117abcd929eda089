//! What a new configuration does to flows: while the current and the previous
//! table differ, old flows stay, and new ones are remembered from their SYN.

use std::net::IpAddr;

use lb_common::flow::FlowState;
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number},
    frame::{Frame, SYN},
    network::backend,
    setup::Setup,
    subject::{Action, Subject},
};

const ESTABLISHED: u8 = FlowState::Established as u8;

/// Requests of flows that nobody has seen, for which the tables differ.
pub(super) fn disputed(subject: &Subject<'_>, case: Case, port: u16, count: usize) -> Vec<Frame> {
    let requests = (0..).map(|number| case.request_from(client_number(case.v4, number), port));
    let differs = |request: &Frame| {
        let choice = subject.choice(request);
        choice.current != choice.previous
    };
    requests.take(2000).filter(differs).take(count).collect()
}

/// The services' backends, one of them with another weight.
fn reweighed(backends: &[u8], weight: u16) -> Setup {
    let mut setup = spread(backends);
    setup.services.iter_mut().for_each(|service| service.backends[0].weight = weight);
    setup
}

fn both_changes() -> [(&'static str, Setup, Setup); 2] {
    [
        ("backends added", spread(&[1, 2]), spread(&[1, 2, 3, 4])),
        ("a weight changed", spread(&[1, 2]), reweighed(&[1, 2], 10)),
    ]
}

#[test]
fn a_new_connection_takes_the_new_choice_and_keeps_it() -> Result<()> {
    for (what, before, after) in both_changes() {
        Subject::with(&before, |subject| {
            subject.reload(&after);
            for case in Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp) {
                let requests = disputed(subject, case, 11, 20);
                assert!(requests.len() >= 10, "{what}: {} disputed", requests.len());
                for request in requests {
                    let current = subject.choice(&request).current;
                    assert_eq!(goes_to(subject, &flagged(&request, SYN)), current, "{what}");
                    let entry = subject.entry(&request).map(|entry| entry.backend);
                    assert_eq!(entry, Some(current), "{what}: {}", case.name());
                    for _ in 0..3 {
                        assert_eq!(goes_to(subject, &request), current, "{what}: {}", case.name());
                    }
                    assert_eq!(subject.entry(&request).map(|entry| entry.state), Some(ESTABLISHED));
                }
            }
        })?;
    }
    Ok(())
}

#[test]
fn an_old_connection_that_nobody_recorded_stays_where_it_was() -> Result<()> {
    for (what, before, after) in both_changes() {
        Subject::with(&before, |subject| {
            subject.reload(&after);
            for case in Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp) {
                let requests = disputed(subject, case, 12, 20);
                assert!(requests.len() >= 10, "{what}: {} disputed", requests.len());
                for request in requests {
                    let previous = subject.choice(&request).previous;
                    for _ in 0..3 {
                        assert_eq!(goes_to(subject, &request), previous, "{what}: {}", case.name());
                    }
                    let entry = subject.entry(&request).map(|entry| (entry.backend, entry.state));
                    assert_eq!(entry, Some((previous, ESTABLISHED)), "{what}: {}", case.name());
                }
            }
        })?;
    }
    Ok(())
}

#[test]
fn a_handshake_outlasts_any_number_of_changes() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        let changes = [
            spread(&[1, 2, 3, 4]),
            reweighed(&[1, 2, 3, 4], 3),
            reweighed(&[1, 2, 3, 4], 50),
            spread(&[1, 2, 3, 4]),
        ];
        let tcp = Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp);
        let mut begun = Vec::new();
        for (setup, port) in changes.iter().zip(20..) {
            // Some connections begin under every configuration.
            for case in tcp.clone() {
                begun.extend((0..100).map(|number| {
                    let request = case.request_from(client_number(case.v4, number), port);
                    let to = goes_to(subject, &flagged(&request, SYN));
                    (case.name(), request, to)
                }));
            }
            subject.reload(setup);
        }
        for (name, request, to) in begun {
            assert_eq!(goes_to(subject, &request), to, "{name}");
        }
    })
}

#[test]
fn a_datagram_of_a_new_flow_takes_the_new_choice() -> Result<()> {
    for (what, before, after) in both_changes() {
        Subject::with(&before, |subject| {
            subject.reload(&after);
            for case in Case::all().into_iter().filter(|case| case.protocol == Protocol::Udp) {
                for request in disputed(subject, case, 13, 20) {
                    let current = subject.choice(&request).current;
                    for _ in 0..3 {
                        assert_eq!(goes_to(subject, &request), current, "{what}: {}", case.name());
                    }
                }
            }
        })?;
    }
    Ok(())
}

/// Where flows were before a reload.
fn establish(subject: &Subject<'_>, port: u16) -> Vec<(Case, Frame, IpAddr)> {
    let mut flows = Vec::new();
    for case in Case::all() {
        for number in 0..60 {
            let request = case.request_from(client_number(case.v4, number), port);
            let to = goes_to(subject, &request);
            assert_eq!(goes_to(subject, &request), to);
            flows.push((case, request, to));
        }
    }
    flows
}

#[test]
fn established_flows_stay_where_they_are() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        let flows = establish(subject, 14);
        for setup in [spread(&[1, 2, 3, 4]), reweighed(&[1, 2, 3], 1), reweighed(&[2, 1], 0)] {
            subject.reload(&setup);
            for (case, request, to) in &flows {
                assert_eq!(goes_to(subject, request), *to, "{}", case.name());
            }
        }
    })
}

#[test]
fn flows_of_a_removed_backend_go_elsewhere_and_others_stay() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        let flows = establish(subject, 15);
        subject.reload(&spread(&[1, 3]));
        for (case, request, to) in &flows {
            let gone = *to == backend(case.v4, 2);
            let now = goes_to(subject, request);
            if gone {
                assert_eq!(now, subject.choice(request).current, "{}", case.name());
            } else {
                assert_eq!(now, *to, "{}", case.name());
            }
            assert_eq!(goes_to(subject, request), now, "{}", case.name());
            let entry = subject.entry(request).map(|entry| (entry.backend, entry.state));
            assert_eq!(entry, Some((now, ESTABLISHED)), "{}", case.name());
        }
        assert!(flows.iter().any(|(case, _, to)| *to == backend(case.v4, 2)));
    })
}

#[test]
fn a_backend_of_weight_0_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        let flows = establish(subject, 16);
        subject.reload(&reweighed(&[1, 2], 0));
        for (case, request, to) in &flows {
            assert_eq!(goes_to(subject, request), *to, "{}", case.name());
        }
        for case in Case::all() {
            for number in 0..60 {
                let request = case.request_from(client_number(case.v4, number), 17);
                let to = goes_to(subject, &flagged(&request, SYN));
                assert_eq!(to, backend(case.v4, 2), "{}", case.name());
            }
        }
    })
}

#[test]
fn a_service_without_backends_drops_and_says_so() -> Result<()> {
    Subject::with(&spread(&[1]), |subject| {
        let flows = establish(subject, 18);
        subject.reload(&spread(&[]));
        for (case, request, _) in flows {
            let reason = lb_common::stats::Counter::NoBackend;
            // The first packet after that is counted as the end of a connection.
            assert_eq!(subject.run(&request).action, Action::Drop);
            subject.drops(&case.name(), &request, reason);
            subject.drops(&case.name(), &flagged(&request, SYN), reason);
        }
    })
}

#[test]
fn a_removed_service_closes_its_port() -> Result<()> {
    Subject::with(&spread(&[1]), |subject| {
        let flows = establish(subject, 19);
        let mut setup = spread(&[1]);
        setup.services.iter_mut().for_each(|service| service.port = "4711".into());
        subject.reload(&setup);
        for (case, request, _) in flows {
            let reason = lb_common::stats::Counter::PortNotAllowed;
            subject.drops(&case.name(), &request, reason);
        }
    })
}

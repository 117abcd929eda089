//! Flows that are silent for too long.

use lb_common::flow::FlowState;
use lb_tests::harness::Result;

use super::{
    affinity::{goes_to, spread},
    case::{Case, client_number},
    subject::{Subject, eventually},
};

#[test]
fn a_flow_that_is_silent_too_long_is_a_new_one() -> Result<()> {
    let mut setup = spread(&[1, 2, 3]);
    setup.services.iter_mut().for_each(|service| service.timeout = Some("1s".into()));
    Subject::with(&setup, |subject| {
        let mut requests = Vec::new();
        for case in Case::all() {
            let request = case.request_from(client_number(case.v4, 1), 21);
            goes_to(subject, &request);
            goes_to(subject, &request);
            let entry = subject.entry(&request).expect("an entry");
            assert_eq!(entry.state, FlowState::Established as u8, "{}", case.name());
            requests.push((case, request, entry.expires));
        }
        for (case, request, expires) in requests {
            assert!(eventually(|| subject.second().wrapping_sub(expires).cast_signed() > 0));
            goes_to(subject, &request);
            let entry = subject.entry(&request).expect("an entry");
            assert_eq!(entry.state, FlowState::Embryonic as u8, "{}", case.name());
        }
    })
}

#[test]
fn a_flow_that_speaks_lives_on() -> Result<()> {
    let mut setup = spread(&[1, 2, 3]);
    setup.services.iter_mut().for_each(|service| service.timeout = Some("3s".into()));
    Subject::with(&setup, |subject| {
        let requests: Vec<_> = Case::all().iter().map(|case| case.request()).collect();
        for request in requests.iter().chain(&requests) {
            goes_to(subject, request);
        }
        let start = subject.second();
        // Longer than the timeout, with a word now and then.
        let done = eventually(|| {
            for request in &requests {
                goes_to(subject, request);
                let entry = subject.entry(request).expect("an entry");
                assert_eq!(entry.state, FlowState::Established as u8);
            }
            subject.second().wrapping_sub(start) > 4
        });
        assert!(done, "the clock stands still");
    })
}

#[test]
fn the_clock_counts_seconds() -> Result<()> {
    Subject::with(&spread(&[1]), |subject| {
        let (start, first) = (std::time::Instant::now(), subject.second());
        assert!(eventually(|| subject.second().wrapping_sub(first) >= 3));
        let took = start.elapsed().as_secs_f64();
        assert!((1.9..5.0).contains(&took), "3 seconds took {took}");
    })
}

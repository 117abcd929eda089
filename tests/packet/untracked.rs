//! `affinity = "none"`: every datagram goes by the table as it is, and none leaves a
//! trace.

use lb_common::{
    flow::{FlowState, FlowValue},
    stats::Counter,
};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{goes_to, spread},
    case::{Case, PORT, client_number},
    fragment::pieces,
    frame::{Frame, Icmp},
    network::backend,
    setup::Setup,
    subject::{Action, Subject},
};

/// UDP services without affinity beside TCP services with it.
pub(super) fn untracked(backends: &[u8]) -> Setup {
    let mut setup = spread(backends);
    for service in setup.services.iter_mut().filter(|one| one.protocol == Protocol::Udp) {
        *service = service.clone().line("affinity = \"none\"");
    }
    setup
}

fn cases() -> Vec<Case> {
    Case::all().into_iter().filter(|case| case.protocol == Protocol::Udp).collect()
}

fn requests(case: Case) -> impl Iterator<Item = Frame> {
    (0..60).map(move |number| case.request_from(client_number(case.v4, number), PORT))
}

#[test]
fn a_flood_leaves_no_entry_and_all_of_it_is_counted() -> Result<()> {
    Subject::with(&untracked(&[1, 2, 3]).flows(64), |subject| {
        let sent = 1000;
        for case in cases() {
            for number in 0..sent {
                let request = case.request_from(client_number(case.v4, number), number as u16);
                for _ in 0..2 {
                    assert_eq!(subject.run_uncounted(&request).0, Action::Redirect);
                }
            }
        }
        assert_eq!(subject.all_flows(), []);
        assert_eq!(subject.entered(), 0);
        assert_eq!(subject.counter(Counter::Unrecorded), 0);
        let packets: u64 = subject.stats().iter().map(|stats| stats.packets).sum();
        assert_eq!(packets, u64::from(2 * sent) * cases().len() as u64);
        // TCP services are as ever.
        let tcp = Case { mode: Mode::Nat, v4: true, protocol: Protocol::Tcp };
        goes_to(subject, &tcp.request());
        assert!(subject.entry(&tcp.request()).is_some());
    })
}

#[test]
fn datagrams_follow_weights_at_once() -> Result<()> {
    let before = untracked(&[1, 2, 3]);
    let mut after = before.clone();
    for service in &mut after.services {
        service.backends[1].weight = 0;
    }
    Subject::with(&before, |subject| {
        let served = |subject: &Subject<'_>| {
            let all = cases().into_iter().flat_map(requests);
            all.map(|request| {
                let to = goes_to(subject, &request);
                assert_eq!(to, subject.choice(&request).current, "{request:?}");
                to
            })
            .collect::<Vec<_>>()
        };
        let drained = [true, false].map(|v4| backend(v4, 2));
        assert!(served(subject).iter().any(|to| drained.contains(to)));
        subject.reload(&after);
        assert!(!served(subject).iter().any(|to| drained.contains(to)));
    })
}

#[test]
fn answers_are_rewritten_without_a_flow() -> Result<()> {
    Subject::with(&untracked(&[1, 2, 3]), |subject| {
        for case in cases().into_iter().filter(|case| case.mode == Mode::Nat) {
            for number in 1..=3 {
                let answer = case.answer(number);
                let from = backend(case.v4, number);
                subject.replies(&case.name(), &answer, &case.answered(&answer), from);
            }
        }
        assert_eq!(subject.all_flows(), []);
    })
}

#[test]
fn fragments_follow_the_first_one_of_their_datagram() -> Result<()> {
    Subject::with(&untracked(&[1, 2, 3]), |subject| {
        for case in cases() {
            for (number, whole) in (1..).zip(requests(case)) {
                let whole = whole.with(|frame| *frame.packet.body.payload() = vec![7; 100]);
                let expected = subject.choice(&whole).current;
                for piece in pieces(&whole, number) {
                    assert_eq!(goes_to(subject, &piece), expected, "{}", case.name());
                }
            }
        }
        assert_eq!(subject.all_flows(), []);
    })
}

/// What was recorded before the service did without is neither obeyed nor changed.
#[test]
fn entries_of_before_are_left_alone() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        let flows: Vec<_> = cases().into_iter().map(|case| (case, case.request())).collect();
        for (case, request) in &flows {
            let to = goes_to(subject, request);
            let mut others = [1, 2, 3].map(|number| backend(case.v4, number)).into_iter();
            let other = others.find(|other| *other != to).expect("three backends");
            let other = subject.backend_id(request, true, other);
            subject.rewrite(request, |value| {
                FlowValue::new(other, value.tag(), FlowState::Established, value.expires())
            });
        }
        subject.reload(&untracked(&[1, 2, 3]));
        let before = subject.all_flows();
        assert_eq!(before.len(), flows.len());
        for (case, request) in &flows {
            let current = subject.choice(request).current;
            assert_eq!(goes_to(subject, request), current, "{}", case.name());
            // An error about what the backend sent goes to whom the table names, too.
            let number = (1..=3).find(|&n| backend(case.v4, n) == current).expect("a backend");
            let seen = case.answered(&case.answer(number)).packet;
            let quoted = if case.mode == Mode::Nat { seen } else { case.answer(number).packet };
            let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
            let error = request.with(|frame| {
                frame.packet.body = Icmp::error(kind, code, [0; 4], quoted.quote(8));
            });
            assert_eq!(goes_to(subject, &error), current, "{}", case.name());
        }
        assert_eq!(subject.all_flows(), before);
    })
}

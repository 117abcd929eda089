//! The program that explains: it says what the other would do, and leaves
//! nothing behind.

use lb_common::{
    flow::{FlowState, FlowValue},
    stats::{BackendStats, Counter},
    trace::steps,
};
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number},
    frame::{ACK, FIN, Frame, Icmp, RST, SYN},
    network::backend,
    route::routed,
    setup::Setup,
    subject::{Action, Subject},
    untracked::untracked,
};

/// Frames of every kind that the packet path has a way for.
fn frames(case: Case) -> Vec<Frame> {
    let mut frames: Vec<_> = (0..12)
        .flat_map(|number| {
            let request = case.request_from(client_number(case.v4, number), 8);
            [SYN, ACK, FIN | ACK, RST].map(|flags| flagged(&request, flags))
        })
        .collect();
    frames.extend([1, 2, 3].map(|number| case.answer(number)));
    frames.extend([1, 2, 3].map(|number| flagged(&case.answer(number), SYN | ACK)));
    let request = case.request();
    let with = |change: fn(&mut Frame)| request.with(change);
    frames.push(with(|frame| frame.packet.hops = 1));
    frames.push(with(|frame| *frame.packet.body.destination_port() = 4711));
    frames.push(with(|frame| frame.packet.source = frame.packet.destination));
    frames.push(with(|frame| frame.to = [0xff; 6]));
    // Port unreachable, about what a backend and what the balancer sent.
    let error = if case.v4 { (3, 3) } else { (1, 4) };
    for (frame, quoted) in [(&request, case.answer(1)), (&case.answer(1), request.clone())] {
        frames.push(frame.with(|frame| {
            let quote = quoted.packet.quote(8);
            frame.packet.body = Icmp::error(error.0, error.1, [0; 4], quote);
        }));
    }
    frames
}

/// Everything that packets write.
#[derive(PartialEq)]
struct Written {
    flows: Vec<(u64, FlowValue)>,
    counters: Vec<u64>,
    stats: Vec<BackendStats>,
    refusals_due: Vec<u64>,
}

impl Written {
    fn by(subject: &Subject<'_>) -> Self {
        let due = subject.refusals().get(&0, 0).expect("the entry of REFUSALS");
        Self {
            flows: subject.all_flows(),
            counters: Counter::ALL.iter().map(|&counter| subject.counter(counter)).collect(),
            stats: subject.stats(),
            refusals_due: due.iter().copied().collect(),
        }
    }
}

/// Explains each frame, then runs it: both say the same, and the first leaves
/// nothing behind.
fn agree(setup: &Setup, then: Option<&Setup>) -> Result<()> {
    // A small table, since it is read as a whole for every frame.
    let [setup, then] = [Some(setup), then].map(|setup| setup.cloned().map(|s| s.flows(1024)));
    Subject::with(&setup.expect("a setup"), |subject| {
        let all = || Case::all().into_iter().flat_map(frames);
        if let Some(then) = &then {
            all().for_each(|frame| _ = subject.run_uncounted(&frame));
            subject.reload(then);
        }
        for frame in all() {
            let before = Written::by(subject);
            let (action, out, record) = subject.explain(&frame);
            assert!(Written::by(subject) == before, "{frame:?} left something behind");
            let real = subject.run(&frame);
            assert_eq!(action, real.action, "{frame:?}: {real:?}");
            assert!(out == real.frame, "{frame:?}: another frame");
            let number = record.verdict as u32;
            if action != Action::Redirect && number + (record.verdict >> 32) as u32 != 2 {
                let counter = Counter::from_number(number).expect("a counter").name();
                assert_eq!(real.counted.get(counter), Some(&1), "{frame:?}: {real:?}");
            }
            if let [traffic] = real.traffic[..] {
                let explained = subject.backend_address(u32::from(record.backend));
                assert_eq!(explained, traffic.backend, "{frame:?}");
                assert_eq!(
                    record.steps & steps::REPLY != 0,
                    traffic.replies > 0 && is_flow(&frame)
                );
            }
        }
    })
}

fn is_flow(frame: &Frame) -> bool {
    !matches!(frame.packet.body, super::frame::Body::Icmp(_))
}

fn with_line(backends: &[u8], line: &str) -> Setup {
    let mut setup = spread(backends);
    setup.services.iter_mut().for_each(|service| *service = service.clone().line(line));
    setup
}

#[test]
fn what_is_explained_is_what_happens() -> Result<()> {
    agree(&spread(&[1, 2, 3]), None)
}

#[test]
fn what_is_explained_is_what_happens_after_a_change() -> Result<()> {
    agree(&spread(&[1, 2]), Some(&spread(&[1, 3, 4])))
}

#[test]
fn what_is_explained_is_what_happens_to_clients() -> Result<()> {
    agree(&with_line(&[1, 2, 3], "affinity = \"client\""), None)
}

#[test]
fn what_is_explained_is_what_happens_without_affinity() -> Result<()> {
    agree(&untracked(&[1, 2, 3]), Some(&untracked(&[1, 3, 4])))
}

#[test]
fn what_is_explained_is_what_happens_to_who_is_timed() -> Result<()> {
    agree(&with_line(&[1, 2, 3], "policy = \"latency\""), None)
}

#[test]
fn what_is_explained_is_what_happens_to_routed_clients() -> Result<()> {
    agree(&routed("blue", "green"), Some(&routed("green", "blue")))
}

#[test]
fn what_is_explained_is_what_happens_to_who_is_refused() -> Result<()> {
    agree(&with_line(&[], "on_empty = \"reject\""), None)?;
    let line = "on_down = \"reset\"";
    agree(&with_line(&[1, 2, 3], line), Some(&with_line(&[1, 3], line)))
}

#[test]
fn what_is_explained_is_what_happens_to_shared_backends() -> Result<()> {
    let mut setup = spread(&[1, 2]);
    let others = setup.services.clone().into_iter().map(|mut service| {
        service.port = "4712".into();
        service.backends.iter_mut().for_each(|b| b.port = b.port.map(|_| 8080));
        service
    });
    let others: Vec<_> = others.collect();
    setup.services.extend(others);
    agree(&setup, None)
}

#[test]
fn every_step_is_told() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        subject.reload(&spread(&[1, 2, 3, 4]));
        for case in Case::all() {
            let requests = (0..200).map(|n| case.request_from(client_number(case.v4, n), 44));
            let differs = |request: &Frame| {
                let choice = subject.choice(request);
                choice.current != choice.previous
            };
            let request = requests.into_iter().find(differs).expect("tables that differ");
            let choice = subject.choice(&request);
            let (_, _, record) = subject.explain(&request);
            let address = |id: u16| subject.backend_address(u32::from(id));
            let from_previous = case.protocol == Protocol::Tcp;
            let mut expected = steps::LOOKED_UP | steps::RECORDS;
            if from_previous {
                expected |= steps::FROM_PREVIOUS;
            }
            assert_eq!(record.steps, expected, "{}", case.name());
            assert_eq!(address(record.current_backend), choice.current);
            assert_eq!(address(record.previous_backend), choice.previous);
            let to = if from_previous { choice.previous } else { choice.current };
            assert_eq!(address(record.backend), to, "{}", case.name());
            assert!(record.slot < record.table.slots() && record.table != record.previous);

            assert_eq!(goes_to(subject, &request), to);
            let (_, _, record) = subject.explain(&request);
            assert_eq!(record.steps, steps::KNOWN, "{}", case.name());
            let entry = FlowValue(record.entry);
            assert_eq!(address(entry.backend()), to);
            assert_eq!(entry.state(), FlowState::Embryonic as u8);
            assert!(entry.left(record.now) > 0);

            subject.rewrite(&request, |value| value.touched(subject.second().wrapping_sub(9), 1));
            let (_, _, record) = subject.explain(&request);
            assert!(record.steps & steps::STALE != 0 && record.steps & steps::KNOWN == 0);
            assert!((1..=4).any(|number| address(record.backend) == backend(case.v4, number)));
        }
    })
}

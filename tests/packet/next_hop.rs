//! Where frames go when the network around the balancer changes, or does not
//! say where to.

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Result};

use super::{
    affinity::spread,
    case::Case,
    forward::{assert_answered, assert_forwarded},
    frame::{Frame, Mac},
    network::backend,
    setup::Setup,
    subject::{Subject, eventually},
};

/// Nobody is there.
const ABSENT: u8 = 200;
/// Whom the neighbours become.
const OTHER: Mac = [2, 0, 0, 0, 0x77, 0x77];

#[test]
fn a_client_without_a_neighbour_entry_is_left_to_the_kernel() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            let absent = if case.v4 { "10.1.0.200" } else { "fd00:1::200" };
            let answer =
                case.answer(1).with(|frame| frame.packet.destination = absent.parse().unwrap());
            let expected = case.answered(&answer).with(|frame| {
                (frame.to, frame.from) = (answer.to, answer.from);
            });
            subject.replies(&case.name(), &answer, &expected, backend(case.v4, 1));
        }
    })
}

#[test]
fn an_answer_that_is_too_big_for_the_way_is_left_to_the_kernel() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        subject.lab.balancer.ip("link set l0 mtu 1400").unwrap();
        for case in Case::nat() {
            let sized = |size| {
                let answer = case.answer(1);
                let rest = answer.bytes().len() - answer.l3() - 11;
                answer.with(|frame| *frame.packet.body.payload() = vec![3; size - rest])
            };
            assert_answered(subject, case, "1400 bytes", &sized(1400));
            // The kernel tells the backend, who knows the packet as it is.
            subject.passes(&case.name(), &sized(1401));
            if case.v4 {
                // This one the kernel may cut to pieces.
                let answer = sized(1401).with(|frame| frame.packet.fragment = 0);
                let expected = case.answered(&answer).with(|frame| {
                    (frame.to, frame.from) = (answer.to, answer.from);
                });
                subject.replies(&case.name(), &answer, &expected, backend(case.v4, 1));
            }
        }
    })
}

#[test]
fn a_backend_without_a_neighbour_entry_is_left_to_the_kernel_where_that_can_work() -> Result<()> {
    Subject::with(&spread(&[ABSENT]), |subject| {
        for case in Case::all() {
            let request = case.request();
            let what = case.name();
            if case.mode == Mode::Nat {
                let expected = case.forwarded(&request, ABSENT).with(|frame| {
                    (frame.to, frame.from) = (request.to, request.from);
                });
                subject.forwards(&what, &request, &expected, backend(case.v4, ABSENT));
            } else {
                let outcome = subject.run(&request);
                let counted: Vec<_> = outcome.counted.into_keys().collect();
                assert_eq!(counted, [Counter::NoNextHop.name()], "{what}");
            }
        }
    })
}

/// Gives every address in `addresses` another neighbour behind `interface`.
fn replace(subject: &Subject<'_>, addresses: [&str; 2], interface: &str, mac: &str) {
    let lines: String = addresses
        .map(|address| {
            format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent\n")
        })
        .concat();
    subject.lab.balancer.ip(&lines).unwrap();
}

fn reaches(subject: &Subject<'_>, frame: &Frame, to: Mac) -> bool {
    eventually(|| subject.run_uncounted(frame).1.starts_with(&to))
}

#[test]
fn a_backend_that_changes_its_ethernet_address_is_followed() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let cases = Case::all();
        cases.iter().for_each(|case| assert_forwarded(subject, *case, "before", &case.request()));
        replace(subject, ["10.2.0.11", "fd00:2::11"], "l1", "02:00:00:00:77:77");
        for case in cases {
            let request = case.request();
            assert!(reaches(subject, &request, OTHER), "{}", case.name());
            let expected = case.forwarded(&request, 1).with(|frame| frame.to = OTHER);
            subject.forwards(&case.name(), &request, &expected, backend(case.v4, 1));
        }
    })
}

#[test]
fn a_client_that_changes_its_ethernet_address_is_followed() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let cases = Case::nat();
        cases.iter().for_each(|case| assert_answered(subject, *case, "before", &case.answer(1)));
        replace(subject, ["10.1.0.2", "fd00:1::2"], "l0", "02:00:00:00:77:77");
        for case in cases {
            let answer = case.answer(1);
            assert!(reaches(subject, &answer, OTHER), "{}", case.name());
            let expected = case.answered(&answer).with(|frame| frame.to = OTHER);
            subject.replies(&case.name(), &answer, &expected, backend(case.v4, 1));
        }
    })
}

#[test]
fn a_backend_that_moves_to_another_interface_is_followed() -> Result<()> {
    let setup: Setup = spread(&[1]);
    Subject::with(&setup, |subject| {
        subject
            .lab
            .balancer
            .ip("route add 10.2.0.11/32 via 10.1.0.2
                 -6 route add fd00:2::11/128 via fd00:1::2")
            .unwrap();
        for case in Case::all() {
            let request = case.request();
            assert!(reaches(subject, &request, super::network::CLIENT), "{}", case.name());
            let expected = case.forwarded(&request, 1).with(|frame| {
                (frame.to, frame.from) = (super::network::CLIENT, super::network::L0);
            });
            subject.forwards(&case.name(), &request, &expected, backend(case.v4, 1));
        }
    })
}

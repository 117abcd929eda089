//! Which flows are remembered, in which state, and who may displace whom.

use std::net::IpAddr;

use lb_common::{
    flow::{FlowState, FlowValue},
    stats::Counter,
};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    case::{Case, client_number},
    frame::{ACK, Body, FIN, Frame, RST, SYN},
    network::backend,
    setup::Setup,
    subject::{Action, Subject},
    table::Choice,
};

const EMBRYONIC: Option<u8> = Some(FlowState::Embryonic as u8);
const ESTABLISHED: Option<u8> = Some(FlowState::Established as u8);
const CLOSING: Option<u8> = Some(FlowState::Closing as u8);

/// Slots of the smallest table, rated for 64 flows.
const SLOTS: usize = 256;

/// The frame with these TCP flags.
pub(super) fn flagged(frame: &Frame, flags: u8) -> Frame {
    frame.with(|frame| {
        if let Body::Tcp(tcp) = &mut frame.packet.body {
            tcp.flags = flags;
        }
    })
}

/// Where the frame goes. Nothing else than forwarding is right.
#[track_caller]
pub(super) fn goes_to(subject: &Subject<'_>, frame: &Frame) -> IpAddr {
    let outcome = subject.run(frame);
    assert_eq!(outcome.action, Action::Redirect, "{outcome:?}");
    assert_eq!(outcome.traffic.len(), 1, "{outcome:?}");
    outcome.traffic[0].backend
}

fn state(subject: &Subject<'_>, frame: &Frame) -> Option<u8> {
    subject.entry(frame).map(|entry| entry.state)
}

/// Services with several backends, for every case.
pub(super) fn spread(backends: &[u8]) -> Setup {
    Setup::new(Case::all().into_iter().map(|case| case.service(backends)))
}

fn cases(protocol: Protocol) -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(move |case| case.protocol == protocol)
}

#[test]
fn new_flows_go_where_the_table_sends_them_and_every_backend_has_some() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let mut seen = Vec::new();
            for number in 0..60 {
                let request = case.request_from(client_number(case.v4, number), 1000);
                let Choice { current, previous } = subject.choice(&request);
                assert_eq!(current, previous, "nothing has changed yet");
                for packet in 0..3 {
                    let to = goes_to(subject, &request);
                    assert_eq!(to, current, "{}: flow {number}, {packet}", case.name());
                }
                seen.push(current);
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 3, "{}: {seen:?}", case.name());
        }
    })
}

#[test]
fn a_bare_syn_leaves_no_entry() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for case in cases(Protocol::Tcp) {
            let syn = flagged(&case.request(), SYN);
            for _ in 0..3 {
                goes_to(subject, &syn);
            }
            assert_eq!(subject.entry(&syn), None, "{}", case.name());
        }
        assert_eq!(subject.all_flows(), []);
    })
}

#[test]
fn the_second_packet_establishes_a_flow() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let (request, before) = (case.request(), subject.entered());
            assert_eq!(state(subject, &request), None);
            goes_to(
                subject,
                &flagged(&request, if case.protocol == Protocol::Tcp { SYN } else { 0 }),
            );
            if case.protocol == Protocol::Tcp {
                assert_eq!(state(subject, &request), None, "{}", case.name());
                goes_to(subject, &request);
            }
            assert_eq!(state(subject, &request), EMBRYONIC, "{}", case.name());
            assert_eq!(subject.entered(), before + 1, "{}", case.name());
            let to = goes_to(subject, &request);
            let entry = subject.entry(&request).expect("an entry");
            assert_eq!((Some(entry.state), entry.backend), (ESTABLISHED, to), "{}", case.name());
            goes_to(subject, &request);
            assert_eq!(state(subject, &request), ESTABLISHED, "{}", case.name());
            assert_eq!(subject.entered(), before + 1, "{}", case.name());
        }
    })
}

#[test]
fn the_end_of_a_connection_marks_its_flow() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for case in cases(Protocol::Tcp) {
            for (port, end) in [(1, FIN | ACK), (2, RST), (3, RST | ACK)] {
                let request = case.request_from(case.client(), port);
                let to = goes_to(subject, &request);
                goes_to(subject, &request);
                assert_eq!(state(subject, &request), ESTABLISHED);
                goes_to(subject, &flagged(&request, end));
                assert_eq!(state(subject, &request), CLOSING, "{}", case.name());
                // What is still under way goes the same way and revives nobody.
                assert_eq!(goes_to(subject, &request), to);
                assert_eq!(state(subject, &request), CLOSING, "{}", case.name());
                // A new connection from the same port is a new flow.
                goes_to(subject, &flagged(&request, SYN));
                goes_to(subject, &request);
                goes_to(subject, &request);
                assert_eq!(state(subject, &request), ESTABLISHED, "{}", case.name());
            }
        }
    })
}

#[test]
fn a_flood_of_syns_leaves_no_trace() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]).flows(64), |subject| {
        let case = Case { mode: Mode::Nat, v4: true, protocol: Protocol::Tcp };
        let request = case.request();
        goes_to(subject, &request);
        let to = goes_to(subject, &request);
        let before = subject.all_flows();
        assert_eq!(before.len(), 1);
        let mut syn = flagged(&case.request_from(client_number(true, 0), 1), SYN).bytes();
        for number in 0..100_000_u32 {
            // Random addresses and ports; checksums do not matter here.
            syn[27..30].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes()[..3]);
            syn[34..36].copy_from_slice(&(number as u16).to_be_bytes());
            let (action, _) = subject.run_uncounted(syn.clone());
            assert_eq!(action, Action::Redirect);
        }
        assert_eq!(subject.all_flows(), before);
        assert_eq!(subject.counter(Counter::Unrecorded), 0);
        assert_eq!(goes_to(subject, &request), to);
    })
}

#[test]
fn no_flood_displaces_an_established_flow() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]).flows(64), |subject| {
        let mut established = Vec::new();
        for case in Case::all() {
            for number in 0..8 {
                let request = case.request_from(client_number(case.v4, number), 1);
                let to = goes_to(subject, &request);
                goes_to(subject, &request);
                established.push((case, request, to));
            }
        }
        established.retain(|(_, request, _)| state(subject, request) == ESTABLISHED);
        assert!(established.len() >= 60, "{} of 64 rated flows", established.len());
        // Each flow of the flood sends once: embryonic ones displace each other.
        for number in 1000..4000 {
            for case in Case::all() {
                let request = case.request_from(client_number(case.v4, number), 2);
                assert_eq!(subject.run_uncounted(&request).0, Action::Redirect);
            }
        }
        assert_eq!(subject.all_flows().len(), SLOTS, "the flood did not fill the table");
        for (case, request, to) in &established {
            assert_eq!(state(subject, request), ESTABLISHED, "{}", case.name());
            assert_eq!(goes_to(subject, request), *to, "{}", case.name());
        }
    })
}

#[test]
fn flows_that_find_no_slot_are_counted_and_served_by_the_table() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]).flows(64), |subject| {
        let flows: Vec<_> = (0..250)
            .flat_map(|number| {
                Case::all()
                    .into_iter()
                    .map(move |case| case.request_from(client_number(case.v4, number), 9))
            })
            .collect();
        for request in flows.iter().chain(&flows) {
            // Two packets in a row establish whoever has a slot.
            subject.run_uncounted(request);
            subject.run_uncounted(request);
        }
        let table = subject.all_flows();
        assert_eq!(table.len(), SLOTS);
        assert!(table.iter().all(|(_, value)| Some(value.state()) == ESTABLISHED));
        for request in &flows {
            let unrecorded = match state(subject, request) {
                Some(_) => vec![],
                None => vec![("unrecorded", 1)],
            };
            let outcome = subject.run(request);
            let backends: Vec<_> = outcome.traffic.iter().map(|t| t.backend).collect();
            assert_eq!(backends, [subject.choice(request).current]);
            assert_eq!(outcome.counted.into_iter().collect::<Vec<_>>(), unrecorded);
        }
    })
}

#[test]
fn flows_of_a_range_are_told_apart_by_the_destination_port() -> Result<()> {
    let mut setup = spread(&[1, 2, 3]);
    for service in &mut setup.services {
        service.port = "\"8000-8100\"".into();
        service.backends.iter_mut().for_each(|backend| backend.port = None);
    }
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let request = |port| {
                let change = |frame: &mut Frame| *frame.packet.body.destination_port() = port;
                case.request().with(change)
            };
            let (one, two) = (request(8000), request(8001));
            goes_to(subject, &one);
            goes_to(subject, &one);
            assert_eq!(state(subject, &one), ESTABLISHED, "{}", case.name());
            assert_eq!(state(subject, &two), None, "{}", case.name());
            goes_to(subject, &two);
            assert_eq!(state(subject, &two), EMBRYONIC, "{}", case.name());
        }
    })
}

/// A flow that is established, of every case, and a backend that it does not have.
fn established(subject: &Subject<'_>) -> Vec<(Case, Frame, IpAddr, IpAddr)> {
    let flow = |case: Case| {
        let request = case.request();
        let to = goes_to(subject, &request);
        assert_eq!(goes_to(subject, &request), to);
        let mut others = [1, 2, 3].map(|number| backend(case.v4, number)).into_iter();
        let other = others.find(|other| *other != to).expect("three backends");
        (case, request, to, other)
    };
    Case::all().into_iter().map(flow).collect()
}

#[test]
fn a_slot_between_two_owners_is_nobodys() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for (case, request, to, other) in established(subject) {
            // The key is the flow's already, or still; the value is another's.
            let other = subject.backend_id(&request, true, other);
            subject.rewrite(&request, |value| {
                let tag = value.tag() ^ 1;
                FlowValue::new(other, tag, FlowState::Established, value.expires())
            });
            assert_eq!(goes_to(subject, &request), to, "{}", case.name());
            assert_eq!(state(subject, &request), EMBRYONIC, "{}", case.name());
        }
    })
}

#[test]
fn the_entry_decides_and_not_the_table() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for (case, request, _, other) in established(subject) {
            let id = subject.backend_id(&request, true, other);
            subject.rewrite(&request, |value| {
                FlowValue::new(id, value.tag(), FlowState::Established, value.expires())
            });
            assert_eq!(goes_to(subject, &request), other, "{}", case.name());
        }
    })
}

#[test]
fn an_entry_that_names_another_services_backend_is_not_obeyed() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for (case, request, to, other) in established(subject) {
            let id = subject.backend_id(&request, false, other);
            for id in [id, 0, u16::MAX] {
                subject.rewrite(&request, |value| {
                    FlowValue::new(id, value.tag(), FlowState::Established, value.expires())
                });
                assert_eq!(goes_to(subject, &request), to, "{}", case.name());
            }
        }
    })
}

#[test]
fn every_state_has_its_own_timeout() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        for (case, request, to, other) in established(subject) {
            let id = subject.backend_id(&request, true, other);
            let timeouts = subject.timeouts(&request);
            for (state, next) in [
                (FlowState::Embryonic, timeouts.established),
                (FlowState::Established, timeouts.established),
                (FlowState::Closing, timeouts.closing),
            ] {
                // The clock may go on amidst.
                for (left, goes, life) in [(2, other, next), (-1, to, timeouts.embryonic)] {
                    let expires = subject.second().wrapping_add_signed(left);
                    let value = |value: FlowValue| FlowValue::new(id, value.tag(), state, expires);
                    subject.rewrite(&request, value);
                    let what = format!("{}: {state:?}, {left} seconds left", case.name());
                    assert_eq!(goes_to(subject, &request), goes, "{what}");
                    let entry = subject.entry(&request).expect("an entry");
                    let given = entry.expires.wrapping_sub(subject.second());
                    assert!((life - 2..=life).contains(&given), "{what}: {given} given");
                }
            }
        }
    })
}

//! What no honest client sends, and what it does to those who are honest.

use lb_common::{flow::FlowState, stats::Counter};
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    attack::first_fragment,
    case::{Case, client, client_number, from_client},
    client::sticky,
    frame::{ACK, FIN, Frame, Packet, RST, SYN, Tcp},
    setup::Setup,
    subject::Subject,
};

const PSH: u8 = 8;
const URG: u8 = 32;

/// Flags that no stack sends together.
const IMPOSSIBLE: [u8; 12] = [
    0,
    PSH,
    URG,
    FIN,
    FIN | PSH | URG,
    0xff,
    SYN | FIN,
    SYN | FIN | ACK,
    SYN | RST,
    SYN | RST | ACK,
    FIN | RST,
    FIN | RST | ACK,
];

fn of_tcp() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp)
}

#[test]
fn flags_that_no_stack_sends_begin_no_flow() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        for case in of_tcp() {
            for flags in IMPOSSIBLE {
                let what = format!("{}: flags {flags:#x}", case.name());
                let request = flagged(&case.request(), flags);
                subject.drops(&what, &request, Counter::BadFlags);
                let first = first_fragment(&request);
                subject.drops(&format!("{what}, in a fragment"), &first, Counter::BadFlags);
                assert_eq!(subject.entry(&request).map(|entry| entry.state), None, "{what}");
            }
        }
    })
}

#[test]
fn flags_that_no_stack_sends_change_nothing_of_a_flow() -> Result<()> {
    for setup in [spread(&[1, 2]), sticky(&[1, 2])] {
        Subject::with(&setup, |subject| {
            for case in of_tcp() {
                let request = case.request_from(client_number(case.v4, 7), 9);
                let to = goes_to(subject, &request);
                goes_to(subject, &request);
                let before = subject.entry(&request).map(|entry| (entry.state, entry.backend));
                assert_eq!(before, Some((FlowState::Established as u8, to)), "{}", case.name());
                for flags in IMPOSSIBLE {
                    let what = format!("{}: flags {flags:#x}", case.name());
                    subject.drops(&what, &flagged(&request, flags), Counter::BadFlags);
                }
                let after = subject.entry(&request).map(|entry| (entry.state, entry.backend));
                assert_eq!(after, before, "{}", case.name());
                assert_eq!(goes_to(subject, &request), to, "{}", case.name());
            }
        })?;
    }
    Ok(())
}

#[test]
fn flags_are_nobodys_business_where_nothing_is_ours() -> Result<()> {
    Case::each(|subject, case| {
        let elsewhere = if case.v4 { "192.0.2.77" } else { "2001:db8:77::1" }.parse().unwrap();
        for flags in IMPOSSIBLE {
            let body = Tcp::body(4711, 80, flags);
            let frame: Frame = from_client(Packet::new(client(case.v4), elsewhere, body));
            subject.passes(&format!("flags {flags:#x}"), &frame);
        }
    })
}

/// Services for clients 0 to 255 and the one client, and for everybody where `all`.
fn allowing(all: bool) -> Setup {
    let mut setup = spread(&[1, 2, 3]);
    for service in setup.services.iter_mut().filter(|_| !all) {
        let allowed = if service.vip.is_ipv4() {
            ["10.64.0.0/24", "10.1.0.2"]
        } else {
            ["fd00:64:0:0:1::/120", "fd00:1::2/128"]
        };
        *service = service.clone().line(&format!("allow_sources = {allowed:?}"));
    }
    setup
}

/// What a client may begin with.
fn beginnings(request: &Frame) -> Vec<Frame> {
    vec![flagged(request, SYN), request.clone(), first_fragment(request)]
}

#[test]
fn sources_that_are_not_allowed_reach_no_backend() -> Result<()> {
    Subject::with(&allowing(false), |subject| {
        for case in Case::all() {
            for number in [0, 77, 255, 256, 65_536] {
                let request = case.request_from(client_number(case.v4, number), 9);
                for frame in beginnings(&request) {
                    if number < 256 {
                        goes_to(subject, &frame);
                    } else {
                        let what = format!("{}: client {number}", case.name());
                        subject.drops(&what, &frame, Counter::SourceNotAllowed);
                    }
                }
            }
            goes_to(subject, &case.request());
        }
    })
}

#[test]
fn who_is_not_allowed_any_more_is_dropped_and_goes_on_when_he_is_again() -> Result<()> {
    Subject::with(&allowing(true), |subject| {
        let flows: Vec<_> = Case::all()
            .into_iter()
            .flat_map(|case| [7, 300].map(|number| (case, number)))
            .map(|(case, number)| {
                let request = case.request_from(client_number(case.v4, number), 9);
                goes_to(subject, &request);
                (number, goes_to(subject, &request), request)
            })
            .collect();
        subject.reload(&allowing(false));
        for (number, to, request) in &flows {
            if *number == 7 {
                assert_eq!(goes_to(subject, request), *to);
            } else {
                subject.drops("an established flow", request, Counter::SourceNotAllowed);
            }
        }
        subject.reload(&allowing(true));
        for (_, to, request) in &flows {
            assert_eq!(goes_to(subject, request), *to);
        }
    })
}

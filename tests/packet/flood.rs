//! What no honest client sends, and what it does to those who are honest.

use lb_common::{flow::FlowState, stats::Counter};
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client, client_number, from_client},
    client::sticky,
    frame::{ACK, Extension, FIN, Frame, MORE_FRAGMENTS, Packet, RST, SYN, Tcp},
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
                let first = request.with(|frame| {
                    if case.v4 {
                        frame.packet.fragment = MORE_FRAGMENTS;
                    } else {
                        frame.packet.extensions = vec![Extension::fragment(0, true)];
                    }
                });
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

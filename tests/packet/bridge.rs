//! Ports of bridges (IEEE 802.1D): what is for others passes, and frames leave by the port
//! that their receiver is behind. What bridges know is told by the tests of `core::nexthop`,
//! and real ones are in `traffic::bridge`; here the map says what follows from it.

use lb_common::bridge::Station;
use lb_tests::harness::{Mode, Result};

use super::{
    case::{Case, from_client},
    frame::{Body, Frame, Icmp, Packet},
    network::{CLIENT, L0, L1, backend},
    subject::{Action, Subject},
};

/// One of each case, both ways, and what is not of a flow.
fn frames() -> Vec<(Frame, String)> {
    let requests = Case::all().into_iter().map(|case| (case.request(), case.name()));
    let answers = Case::nat().into_iter().map(|case| (case.answer(1), case.name()));
    let pings = Case::all().into_iter().map(|case| (ping(case), format!("ping {}", case.name())));
    requests.chain(answers).chain(pings).collect()
}

/// An echo request of the client's (RFC 792, RFC 4443).
fn ping(case: Case) -> Frame {
    let kind = if case.v4 { 8 } else { 128 };
    let body = Body::Icmp(Icmp { kind, code: 0, rest: [0; 4], payload: b"abc".to_vec() });
    from_client(Packet::new(case.client(), case.vip(), body))
}

#[test]
fn what_a_port_hears_is_ours_if_it_is_for_the_host() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let [l0, l1] = subject.ports();
        // Their bridge is one whose routes the kernel knows.
        let ports = [(Station::port(l0), l1), (Station::port(l1), l1)];
        let hosts = [(Station::new(l0, L0), l1), (Station::new(l1, L1), l1)];
        let forwards = |what: &str| {
            for case in Case::all() {
                let what = format!("{what}: {}", case.name());
                let (request, to) = (case.request(), backend(case.v4, 1));
                subject.forwards(&what, &request, &case.forwarded(&request, 1), to);
                if case.mode == Mode::Nat {
                    let answer = case.answer(1);
                    subject.replies(&what, &answer, &case.answered(&answer), to);
                }
            }
        };
        forwards("no bridge");
        subject.set_stations(ports);
        for (frame, what) in frames() {
            subject.passes(&what, &frame);
            // Even what is no packet of any protocol: it is not ours to judge.
            let mut bytes = frame.bytes();
            bytes[14] = 0x11;
            subject.passes(&format!("{what}, malformed"), bytes);
        }
        subject.set_stations(ports.into_iter().chain(hosts));
        forwards("for the host");
        // One port's addresses are not another interface's.
        subject.set_stations([(Station::port(l1 + 100), l1), (Station::new(l1 + 100, L0), l1)]);
        forwards("beside a bridge");
    })
}

#[test]
fn answers_leave_by_the_port_that_the_client_is_behind() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let [l0, l1] = subject.ports();
        for (port, action) in [(l1, Action::Transmit), (l0, Action::Redirect)] {
            subject.set_stations([(Station::new(l0, CLIENT), port)]);
            for case in Case::nat() {
                let (answer, what) = (case.answer(1), case.name());
                let out = subject.run_uncounted(&answer);
                assert_eq!(out, (action, case.answered(&answer).bytes()), "{what}: {port}");
            }
        }
        // By a port that is not ours the kernel sends.
        subject.set_stations([(Station::new(l0, CLIENT), l1 + 100)]);
        for case in Case::nat() {
            assert_eq!(subject.run_uncounted(&case.answer(1)).0, Action::Pass, "{}", case.name());
        }
    })
}

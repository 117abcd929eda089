//! Two services that send to the same port of the same backend: an answer
//! alone does not tell whose it is.

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, OTHER_NAT_V4, OTHER_NAT_V6, Protocol, Result};

use super::{
    affinity::flagged,
    case::{Case, PORT, from_backend, from_client},
    frame::{Body, FIN, Frame, Icmp, Packet, SYN},
    network::{CLIENT, L0, L1, backend, backend_mac},
    setup::{Service, Setup},
    subject::Subject,
};

/// The second service's port.
const OTHER_PORT: u16 = 8888;

fn other_vip(case: Case) -> IpAddr {
    if case.v4 { OTHER_NAT_V4 } else { OTHER_NAT_V6 }
}

/// For every case of mode `nat` its service and another one.
pub(super) fn setup() -> Setup {
    Setup::new(Case::nat().into_iter().flat_map(|case| {
        let other = Service::new(Mode::Nat, other_vip(case), case.protocol, OTHER_PORT);
        let other = other.to(backend(case.v4, 1), Some(case.backend_port()));
        [case.service(&[1]), other]
    }))
}

/// One of the two services as the client sees it.
type Side = (IpAddr, u16);

fn sides(case: Case) -> [Side; 2] {
    [(case.vip(), case.service_port()), (other_vip(case), OTHER_PORT)]
}

fn request(case: Case, (vip, service_port): Side, port: u16) -> Frame {
    case.request_from(case.client(), port).with(|frame| {
        frame.packet.destination = vip;
        *frame.packet.body.destination_port() = service_port;
    })
}

#[track_caller]
fn assert_there(subject: &Subject<'_>, case: Case, side: Side, request: &Frame) {
    let expected = request.with(|frame| {
        (frame.to, frame.from) = (backend_mac(1), L1);
        frame.packet.destination = backend(case.v4, 1);
        *frame.packet.body.destination_port() = case.backend_port();
        frame.packet.hops -= 1;
    });
    let what = format!("{}: to {side:?}", case.name());
    subject.forwards(&what, request, &expected, backend(case.v4, 1));
}

#[track_caller]
fn assert_back(subject: &Subject<'_>, case: Case, (vip, service_port): Side, port: u16) {
    let answer = case.answer(1).with(|frame| *frame.packet.body.destination_port() = port);
    let expected = answer.with(|frame| {
        (frame.to, frame.from) = (CLIENT, L0);
        frame.packet.source = vip;
        *frame.packet.body.source_port() = service_port;
        frame.packet.hops -= 1;
    });
    let what = format!("{}: from {vip} port {service_port}", case.name());
    subject.replies(&what, &answer, &expected, backend(case.v4, 1));
}

#[test]
fn answers_come_from_the_service_that_was_asked() -> Result<()> {
    Subject::with(&setup(), |subject| {
        for case in Case::nat() {
            for (side, port) in sides(case).into_iter().zip([PORT, PORT + 1]) {
                let request = request(case, side, port);
                if case.protocol == Protocol::Tcp {
                    assert_there(subject, case, side, &flagged(&request, SYN));
                    assert_back(subject, case, side, port);
                }
                assert_there(subject, case, side, &request);
                assert_there(subject, case, side, &request);
            }
            // Once both flows are known.
            for (side, port) in sides(case).into_iter().zip([PORT, PORT + 1]) {
                assert_back(subject, case, side, port);
            }
        }
    })
}

#[test]
fn a_client_port_belongs_to_one_service_at_a_time() -> Result<()> {
    Subject::with(&setup(), |subject| {
        for case in Case::nat() {
            let [first, second] = sides(case);
            let one = request(case, first, PORT);
            let two = request(case, second, PORT);
            assert_there(subject, case, first, &one);
            assert_there(subject, case, first, &one);
            subject.drops(&case.name(), &two, Counter::NatConflict);
            subject.drops(&case.name(), &flagged(&two, SYN), Counter::NatConflict);
            // The first is not disturbed.
            assert_there(subject, case, first, &one);
            assert_back(subject, case, first, PORT);
            // Another port of the client's is free.
            assert_there(subject, case, second, &request(case, second, PORT + 1));
            if case.protocol == Protocol::Tcp {
                // So is this one when its connection has ended.
                assert_there(subject, case, first, &flagged(&one, FIN | 16));
                assert_there(subject, case, second, &flagged(&two, SYN));
                assert_back(subject, case, second, PORT);
            }
        }
    })
}

#[test]
fn a_flow_that_is_older_than_the_sharing_keeps_its_answers() -> Result<()> {
    let alone = Setup::new(Case::nat().into_iter().map(|case| case.service(&[1])));
    Subject::with(&alone, |subject| {
        for case in Case::nat() {
            let request = request(case, sides(case)[0], PORT);
            assert_there(subject, case, sides(case)[0], &request);
            assert_there(subject, case, sides(case)[0], &request);
        }
        subject.reload(&setup());
        for case in Case::nat() {
            let [first, second] = sides(case);
            // Even if the backend speaks first.
            assert_back(subject, case, first, PORT);
            assert_there(subject, case, first, &request(case, first, PORT));
            assert_back(subject, case, first, PORT);
            let other = request(case, second, PORT + 1);
            assert_there(subject, case, second, &other);
            assert_back(subject, case, second, PORT + 1);
        }
        subject.reload(&alone);
        for case in Case::nat() {
            assert_back(subject, case, sides(case)[0], PORT);
        }
    })
}

#[test]
fn errors_quote_the_service_that_was_asked() -> Result<()> {
    Subject::with(&setup(), |subject| {
        for case in Case::nat() {
            for (side, port) in sides(case).into_iter().zip([PORT + 2, PORT + 3]) {
                let request = request(case, side, port);
                assert_there(subject, case, side, &request);
                assert_there(subject, case, side, &request);
                let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
                for length in [8, 2000] {
                    let error = |source, quoted: &Packet| {
                        let body = Icmp::error(kind, code, [0; 4], quoted.quote(length));
                        Packet::new(source, case.client(), body)
                    };
                    let sent = case.translated(&request.packet, 1);
                    let sent = from_backend(1, error(backend(case.v4, 1), &sent));
                    let seen = error(side.0, &request.packet).with(|packet| packet.hops -= 1);
                    let seen = Frame { to: CLIENT, from: L0, ..from_client(seen) };
                    subject.replies(&case.name(), &sent, &seen, backend(case.v4, 1));
                }
            }
        }
    })
}

#[test]
fn an_echo_is_nobodys_answer() -> Result<()> {
    Subject::with(&setup(), |subject| {
        for case in Case::nat() {
            let kind = if case.v4 { 0 } else { 129 };
            let body = Body::Icmp(Icmp { kind, code: 0, rest: [0; 4], payload: vec![1] });
            let packet = Packet::new(backend(case.v4, 1), case.client(), body);
            subject.passes(&case.name(), &from_backend(1, packet));
        }
    })
}

#[test]
fn services_with_ranges_share_a_backend_port_by_port() -> Result<()> {
    // The first answers at one port, or at all; the second at a range.
    for (first_port, to) in [("80", Some(8050)), ("\"any\"", None)] {
        let service = |case: Case, vip, port: &str, to| {
            Service::new(Mode::Nat, vip, case.protocol, port).to(backend(case.v4, 1), to)
        };
        let setup = Setup::new(Case::nat().into_iter().flat_map(|case| {
            let other = service(case, other_vip(case), "\"8000-8100\"", None);
            [service(case, case.vip(), first_port, to), other]
        }));
        Subject::with(&setup, |subject| {
            for case in Case::nat() {
                let first = (case.vip(), if to.is_some() { 80 } else { 8050 });
                // As the client asks, and the backend's port.
                let mut flows = [
                    (first, 8050, PORT),
                    ((other_vip(case), 8051), 8051, PORT),
                    ((other_vip(case), 8050), 8050, PORT + 1),
                ]
                .map(|(side, port, client)| (side, request(case, side, client), port));
                for _ in 0..2 {
                    for ((vip, service_port), request, port) in &mut flows {
                        assert_rewritten(subject, case, (*vip, *service_port), request, *port);
                    }
                }
                let conflict = request(case, (other_vip(case), 8050), PORT);
                subject.drops(&case.name(), &conflict, Counter::NatConflict);
            }
        })?;
    }
    Ok(())
}

/// The request arrives at `port` of the backend, and its answer comes back.
#[track_caller]
fn assert_rewritten(
    subject: &Subject<'_>,
    case: Case,
    (vip, service_port): Side,
    request: &mut Frame,
    port: u16,
) {
    let (to, client_port) = (backend(case.v4, 1), *request.packet.body.source_port());
    let expected = request.with(|frame| {
        (frame.to, frame.from) = (backend_mac(1), L1);
        frame.packet.destination = to;
        *frame.packet.body.destination_port() = port;
        frame.packet.hops -= 1;
    });
    let what = format!("{}: {vip} port {service_port}", case.name());
    subject.forwards(&what, request, &expected, to);
    let answer = case.answer(1).with(|frame| {
        *frame.packet.body.source_port() = port;
        *frame.packet.body.destination_port() = client_port;
    });
    let expected = answer.with(|frame| {
        (frame.to, frame.from) = (CLIENT, L0);
        frame.packet.source = vip;
        *frame.packet.body.source_port() = service_port;
        frame.packet.hops -= 1;
    });
    subject.replies(&what, &answer, &expected, to);
}

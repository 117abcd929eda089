//! ICMP errors about flows in mode `fullnat`, in both directions (RFC 792, RFC 4443;
//! RFC 5508, section 4).

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::Result;

use super::way::Way;
use crate::packet::{
    case::{PORT, client, from_backend, from_client},
    frame::{Frame, Icmp, Packet},
    icmp::{QUOTED, errors, quotable},
    network::{CLIENT, L0, L1, backend, backend_mac},
    subject::Subject,
};

#[test]
fn an_error_about_what_a_backend_got_reaches_the_client() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            let router: IpAddr = if way.v4 { "10.2.0.77" } else { "fd00:2::77" }.parse().unwrap();
            let requests = quotable(&way.request(client(way.v4), PORT).packet);
            for (from, seen) in [(router, router), (backend(way.v4, 1), way.vip())] {
                for (kind, code, rest) in errors(way.v4) {
                    for (length, request) in
                        QUOTED.iter().flat_map(|length| requests.iter().map(move |r| (*length, r)))
                    {
                        let error = |from, to, quoted: &Packet| {
                            let body = Icmp::error(kind, code, rest, quoted.quote(length));
                            Packet::new(from, to, body)
                        };
                        let translated = way.translated(request, bound, 1);
                        let sent = from_backend(1, error(from, bound.0, &translated));
                        let expected = error(seen, client(way.v4), request);
                        let expected = expected.with(|packet| packet.hops -= 1);
                        let expected = Frame { to: CLIENT, from: L0, ..from_client(expected) };
                        let what = format!("{}: {from}, type {kind}, {length}", way.name());
                        subject.replies(&what, &sent, &expected, backend(way.v4, 1));
                    }
                }
            }
        }
    })
}

#[test]
fn an_error_about_what_a_client_got_reaches_the_backend_from_the_source() -> Result<()> {
    Subject::with(&Way::setup(&[1, 2]), |subject| {
        for way in Way::all() {
            let (bound, number) = way.begin(subject, client(way.v4), PORT);
            let router: IpAddr = if way.v4 { "10.1.0.77" } else { "fd00:1::77" }.parse().unwrap();
            let answers = quotable(&way.answer(bound, number).packet);
            for from in [router, client(way.v4)] {
                for (kind, code, rest) in errors(way.v4) {
                    for (length, answer) in
                        QUOTED.iter().flat_map(|length| answers.iter().map(move |a| (*length, a)))
                    {
                        let error = |from, to, quoted: &Packet| {
                            let body = Icmp::error(kind, code, rest, quoted.quote(length));
                            Packet::new(from, to, body)
                        };
                        let seen = answer.with(|packet| {
                            (packet.source, packet.destination) = (way.vip(), client(way.v4));
                            *packet.body.source_port() = way.port();
                            *packet.body.destination_port() = PORT;
                        });
                        let sent = from_client(error(from, way.vip(), &seen));
                        let to = backend(way.v4, number);
                        let expected = from_client(error(bound.0, to, answer)).with(|frame| {
                            (frame.to, frame.from) = (backend_mac(number), L1);
                            frame.packet.hops -= 1;
                        });
                        let what = format!("{}: {from}, type {kind}, {length}", way.name());
                        subject.forwards(&what, &sent, &expected, to);
                    }
                }
            }
        }
    })
}

#[test]
fn an_error_about_no_flow_is_dropped() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            let (kind, code, rest) = errors(way.v4)[0];
            let error = |to, quoted: &Packet| {
                let body = Icmp::error(kind, code, rest, quoted.quote(8));
                Packet::new(backend(way.v4, 1), to, body)
            };
            let request = way.request(client(way.v4), PORT).packet;
            let other = way.translated(&request, (bound.0, bound.1 ^ 1), 1);
            let stranger = way.translated(&request, bound, 2);
            for quoted in [other, stranger, request.clone()] {
                let frame = from_backend(1, error(bound.0, &quoted));
                subject.drops(&way.name(), &frame, Counter::NatUnbound);
            }
            // One to the VIP, about an answer to a client who has no flow.
            let answer = way.answered(&way.answer(bound, 1), (client(way.v4), PORT + 7)).packet;
            let frame = from_client(error(way.vip(), &answer));
            subject.drops(&way.name(), &frame, Counter::IcmpUnmatched);
        }
    })
}

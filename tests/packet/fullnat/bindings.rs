//! Ports: how long flows have them, and what happens when none is left.

use std::{collections::HashSet, net::IpAddr};

use lb_common::{
    binding::{self, Binding, EMBRYONIC, FIRST_PORT},
    flow::{FlowState, FlowValue},
    maps,
    stats::Counter,
};
use lb_tests::harness::{Protocol, Result};

use super::way::{Bound, SOURCES, Way};
use crate::packet::{
    affinity::flagged,
    case::{PORT, client, client_number},
    frame::{ACK, FIN, Frame, RST, SYN},
    network::backend,
    subject::{Action, Subject},
};

/// Index of what a flow has in a setup with one source of each family.
fn index(way: Way, (source, port): Bound) -> u32 {
    assert!(SOURCES.contains(&source.to_string().as_str()));
    binding::index(way.v4, 0, port)
}

/// The value of a binding.
fn value(subject: &Subject<'_>, index: u32) -> FlowValue {
    let bindings = subject.writable::<Binding>(maps::BINDINGS);
    FlowValue(bindings.get(&index, 0).expect("an entry").value)
}

/// Changes a binding.
fn rewrite(subject: &Subject<'_>, index: u32, change: impl FnOnce(&mut Binding)) {
    let mut bindings = subject.writable::<Binding>(maps::BINDINGS);
    let mut entry = bindings.get(&index, 0).expect("an entry");
    change(&mut entry);
    bindings.set(index, entry, 0).expect("an entry");
}

/// Indexes of all bindings that live.
pub(super) fn held(subject: &Subject<'_>) -> Vec<u32> {
    let (bindings, now) = (subject.writable::<Binding>(maps::BINDINGS), subject.second());
    let lives = |value: u64| value != 0 && FlowValue(value).left(now) >= 0;
    let entries = bindings.iter().map(|entry| entry.expect("an entry").value);
    (0..).zip(entries).filter(|(_, value)| lives(*value)).map(|(index, _)| index).collect()
}

/// State of a binding, and seconds left to live.
fn life(subject: &Subject<'_>, index: u32) -> (FlowState, i16) {
    let value = value(subject, index);
    let state = FlowState::from_number(value.state()).expect("a state");
    (state, value.left(subject.second()))
}

#[track_caller]
fn assert_lives(subject: &Subject<'_>, index: u32, state: FlowState, seconds: u16) {
    let (found, left) = life(subject, index);
    assert_eq!(found, state);
    let seconds = seconds.cast_signed();
    assert!((seconds - 2..=seconds).contains(&left), "{state:?}: {left} of {seconds} s left");
}

#[test]
fn how_long_a_port_is_kept_follows_the_connection() -> Result<()> {
    use FlowState::{Closing, Embryonic, Established};
    Subject::with(&Way::setup(&[1]), |subject| {
        for v4 in [true, false] {
            let way = Way { v4, protocol: Protocol::Tcp };
            let client = client(v4);
            let mut port = PORT;
            // Each is what one side sends next, and what the connection is then.
            for steps in [
                vec![(true, ACK, Established, 600), (true, FIN | ACK, Closing, 30)],
                vec![(false, SYN | ACK, Embryonic, EMBRYONIC), (true, ACK, Established, 600)],
                vec![(true, ACK, Established, 600), (false, ACK, Established, 600)],
                vec![(true, ACK, Established, 600), (false, FIN | ACK, Closing, 30)],
                vec![(false, RST | ACK, Closing, 30), (true, SYN, Embryonic, EMBRYONIC)],
                vec![(true, RST, Closing, 30), (true, ACK, Closing, 30)],
                vec![(true, SYN, Embryonic, EMBRYONIC)],
            ] {
                port += 1;
                let (bound, _) = way.begin(subject, client, port);
                let index = index(way, bound);
                assert_lives(subject, index, Embryonic, EMBRYONIC);
                for (asks, flags, state, seconds) in steps {
                    // As if it had been silent until the last moment.
                    let now = subject.second();
                    rewrite(subject, index, |entry| {
                        let value = FlowValue(entry.value);
                        entry.value = value.touched(now.wrapping_add(1), value.state()).0;
                    });
                    let frame = if asks { way.request(client, port) } else { way.answer(bound, 1) };
                    let (action, _) = subject.run_uncounted(&flagged(&frame, flags));
                    assert_eq!(action, Action::Redirect);
                    assert_lives(subject, index, state, seconds);
                }
            }
        }
    })
}

#[test]
fn a_question_is_kept_for_a_short_time_and_a_talk_for_longer() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for v4 in [true, false] {
            let way = Way { v4, protocol: Protocol::Udp };
            let (bound, _) = way.begin(subject, client(v4), PORT);
            let index = index(way, bound);
            assert_lives(subject, index, FlowState::Embryonic, EMBRYONIC);
            subject.run_uncounted(&way.answer(bound, 1));
            assert_lives(subject, index, FlowState::Embryonic, EMBRYONIC);
            subject.run_uncounted(&way.request(client(v4), PORT));
            assert_lives(subject, index, FlowState::Established, 600);
        }
    })
}

/// Ends what a binding has left to live.
fn end(subject: &Subject<'_>, index: u32) {
    let over = subject.second().wrapping_sub(1);
    rewrite(subject, index, |entry| {
        let value = FlowValue(entry.value);
        entry.value = value.touched(over, value.state()).0;
    });
}

#[test]
fn a_port_whose_time_is_up_is_nobodys() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let (bound, _) = way.begin(subject, client(way.v4), PORT);
            end(subject, index(way, bound));
            subject.drops(&way.name(), &way.answer(bound, 1), Counter::NatUnbound);
            // The same flow, begun anew.
            let (again, _) = way.begin(subject, client(way.v4), PORT);
            assert_ne!(again, bound, "{}", way.name());
            let answer = way.answer(again, 1);
            let expected = way.answered(&answer, (client(way.v4), PORT));
            subject.replies(&way.name(), &answer, &expected, backend(way.v4, 1));
        }
    })
}

/// A reply's payload names the flow that it is for.
fn marked(frame: &Frame, number: u32) -> Frame {
    frame.with(|frame| *frame.packet.body.payload() = number.to_be_bytes().to_vec())
}

#[test]
fn sixty_thousand_flows_to_one_port_of_one_backend_are_told_apart() -> Result<()> {
    const FLOWS: u32 = 60_000;
    let setup = Way::setup(&[1]).flows(1 << 17);
    Subject::with(&setup, |subject| {
        for way in
            [Way { v4: true, protocol: Protocol::Udp }, Way { v4: false, protocol: Protocol::Tcp }]
        {
            let who = |number: u32| (client_number(way.v4, number / 8), 2000 + (number % 8) as u16);
            let begin = |number| {
                let (client, port) = who(number);
                way.begin(subject, client, port).0
            };
            let bound: Vec<_> = (0..FLOWS).map(begin).collect();
            let distinct: HashSet<_> = bound.iter().collect();
            assert_eq!(distinct.len() as u32, FLOWS);
            assert!(bound.iter().all(|(_, port)| *port >= FIRST_PORT));
            for (number, bound) in (0..).zip(&bound) {
                let answer = marked(&way.answer(*bound, 1), number);
                let (action, frame) = subject.run_uncounted(&answer);
                assert_eq!(action, Action::Redirect);
                assert_eq!(frame, way.answered(&answer, who(number)).bytes());
            }
            assert_eq!(subject.counter(Counter::NatPortsExhausted), 0);
        }
    })
}

#[test]
fn without_a_free_port_new_flows_are_refused_and_others_go_on() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        let mut bindings = subject.writable::<Binding>(maps::BINDINGS);
        for way in Way::all() {
            let (bound, number) = way.begin(subject, client(way.v4), PORT);
            let mine = index(way, bound);
            let value = FlowValue::new(1, 1, FlowState::Embryonic, subject.second() + 600);
            let full = Binding { value: value.0, ..Binding::ZERO };
            let others = || (FIRST_PORT..=u16::MAX).map(|port| binding::index(way.v4, 0, port));
            for index in others().filter(|index| *index != mine) {
                bindings.set(index, full, 0).expect("an entry");
            }
            for number in 0..20 {
                let client = client_number(way.v4, number);
                let syn = flagged(&way.request(client, PORT), SYN);
                subject.drops(&way.name(), &syn, Counter::NatPortsExhausted);
            }
            let request = way.request(client(way.v4), PORT);
            assert_eq!(way.goes(subject, &request), (bound, number), "{}", way.name());
            // A tenth is given back.
            for index in others().filter(|index| *index != mine && index % 10 == 0) {
                bindings.set(index, Binding::ZERO, 0).expect("an entry");
            }
            let mut taken: Vec<_> = (0..100)
                .map(|number| way.begin(subject, client_number(way.v4, number), PORT).0)
                .collect();
            taken.sort_unstable();
            taken.dedup();
            assert_eq!(taken.len(), 100);
            for index in others() {
                bindings.set(index, Binding::ZERO, 0).expect("an entry");
            }
        }
    })
}

#[test]
fn flows_keep_their_ports_over_a_reload() -> Result<()> {
    let setup = Way::setup(&[1]);
    Subject::with(&setup, |subject| {
        let clients = |v4| (0..20).map(move |number: u32| client_number(v4, number));
        let begin = |way: Way| clients(way.v4).map(move |c| way.begin(subject, c, PORT).0);
        let known: Vec<(Way, Vec<Bound>)> =
            Way::all().into_iter().map(|way| (way, begin(way).collect())).collect();
        // Backend 2 gets what is new, backend 1 keeps what it has.
        let mut other = Way::setup(&[1, 2]);
        other.services.iter_mut().for_each(|service| service.backends[0].weight = 0);
        for (way, _) in &known {
            for client in clients(way.v4) {
                way.goes(subject, &way.request(client, PORT));
            }
        }
        subject.reload(&other);
        for (way, bound) in &known {
            for (client, bound) in clients(way.v4).zip(bound) {
                let request = way.request(client, PORT);
                assert_eq!(way.goes(subject, &request), (*bound, 1), "{}", way.name());
                let answer = way.answer(*bound, 1);
                let expected = way.answered(&answer, (client, PORT));
                subject.replies(&way.name(), &answer, &expected, backend(way.v4, 1));
            }
            let stranger: IpAddr = client_number(way.v4, 99);
            assert_eq!(way.begin(subject, stranger, PORT).1, 2);
        }
    })
}

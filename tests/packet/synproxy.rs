//! SYN cookies: what clients and backends get instead of what the other one sent.

pub(super) mod party;
mod refused;

use std::net::IpAddr;

use lb_common::stats::Counter;
use lb_tests::harness::{Mode, Result};

use self::party::{
    ANSWER, BACKEND, CLIENT, OFFER, Party, anew, renumbered, sends, sequence, setup, size,
};
use super::{
    case::{PORT, client, client_number, from_client},
    frame::{ACK, Body, Extension, FIN, Frame, Icmp, Packet, QINQ, RST, SYN, VLAN},
    icmp::errors,
    network::backend,
    refuse::answer,
    subject::{Action, Subject},
};

fn parties() -> Vec<Party> {
    Party::each(client, PORT)
}

/// A frame with these TCP options in every form.
fn forms(frame: &Frame, v4: bool) -> Vec<(&'static str, Frame)> {
    let tagged = |tags: &[(u16, u16)]| frame.with(|frame| frame.tags = tags.to_vec());
    let long = frame.with(|frame| {
        if v4 {
            frame.packet.options = vec![1; 40];
        } else {
            frame.packet.extensions = vec![Extension::routing()];
        }
    });
    vec![
        ("plain", frame.clone()),
        ("one tag", tagged(&[(VLAN, 7)])),
        ("two tags", tagged(&[(QINQ, 8), (VLAN, 9)])),
        ("long header", long),
        ("data", renumbered(frame, |tcp| tcp.payload = vec![7; 321])),
    ]
}

/// Options that a client may send, with what it is answered, and what its backend is sent:
/// the size of segments, and what follows.
fn offers(v4: bool) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let [most, sack, no_sack] = [size(v4), [4, 2], [1, 1]];
    let options = |size: [u8; 2], sack: [u8; 2], scale: Option<u8>| {
        let scale = scale.map_or([1; 4], |scale| [1, 3, 3, scale]);
        [&[2, 4], &size[..], &[1, 1], &sack, &scale].concat()
    };
    let least = if v4 { 536_u16 } else { 1220 }.to_be_bytes();
    let middle = 1300_u16.to_be_bytes();
    vec![
        (OFFER.to_vec(), options(most, sack, Some(7)), options(most, sack, Some(9))),
        (Vec::new(), options(most, no_sack, None), options(least, no_sack, None)),
        // 1400; no scale.
        (vec![2, 4, 5, 120, 4, 2, 0, 9], options(most, sack, None), options(middle, sack, None)),
        // A jumbo frame's size behind what nobody knows; a scale that is too large.
        (
            vec![77, 3, 1, 2, 4, 35, 0, 3, 3, 200, 1, 1],
            options(most, no_sack, Some(7)),
            options(most, no_sack, Some(14)),
        ),
        // Lengths that are none, and that reach beyond the header.
        (
            vec![3, 0, 2, 4, 5, 180, 1, 1],
            options(most, no_sack, None),
            options(least, no_sack, None),
        ),
        (vec![1, 4, 2, 2, 4, 5, 180, 9], options(most, sack, None), options(most, sack, None)),
        (vec![4, 2, 1, 77, 9, 0, 0, 0], options(most, sack, None), options(least, sack, None)),
    ]
}

#[test]
fn a_syn_is_answered_with_a_cookie_and_what_confirms_it_is_the_backends_syn() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            for (offer, answered, offered) in offers(party.v4) {
                for (what, syn) in forms(&party.syn(&offer), party.v4) {
                    let what = format!("{}, {what}, {offer:?}", party.name());
                    let outcome = subject.run(&syn);
                    let cookie =
                        sequence(&outcome.frame, syn.l3() + if party.v4 { 20 } else { 40 });
                    let expected = Party::own(&syn, |tcp| {
                        (tcp.flags, tcp.sequence, tcp.acknowledged) =
                            (SYN | ACK, cookie, CLIENT + 1);
                        tcp.options.clone_from(&answered);
                    });
                    subject.answers(&what, &syn, &expected, Counter::SynCookieSent);
                    assert_eq!(subject.entry(&syn).map(|entry| entry.state), None, "{what}");
                    let confirms = Frame { tags: syn.tags.clone(), ..party.confirms(cookie) };
                    let confirms = confirms.with(|frame| {
                        frame.packet.options.clone_from(&syn.packet.options);
                        frame.packet.extensions.clone_from(&syn.packet.extensions);
                    });
                    // What the client sends with it, it sends again.
                    let confirms = renumbered(&confirms, |tcp| {
                        tcp.payload = b"too early".to_vec();
                        tcp.options = vec![1; 12];
                    });
                    let outcome = subject.run(&confirms);
                    assert_eq!(outcome.counted.get("syn_cookie_confirmed"), Some(&1), "{what}");
                    let bound = super::fullnat::way::source_of(&without_tags(&outcome.frame, &syn));
                    let to_backend = anew(&party.forwarded(&confirms, (bound, 1)), 63);
                    let scale = if offered[8] == 1 && offered[9] == 3 { offered[11] } else { 0 };
                    let expected = renumbered(&to_backend, |tcp| {
                        (tcp.flags, tcp.sequence, tcp.acknowledged) = (SYN, CLIENT, 0);
                        tcp.window = u32::min(0xffff, 125 << scale) as u16;
                        (tcp.options, tcp.payload) = (offered.clone(), Vec::new());
                    });
                    // Once more: the SYN was lost.
                    sends(subject, &what, &confirms, &expected);
                    // And once more: the client asks for a window, with the SYN's number.
                    let probe = renumbered(&confirms, |tcp| tcp.sequence = CLIENT);
                    sends(subject, &what, &probe, &expected);
                }
            }
        }
    })
}

fn without_tags(bytes: &[u8], frame: &Frame) -> Vec<u8> {
    [&bytes[..12], &bytes[12 + 4 * frame.tags.len()..]].concat()
}

#[test]
fn the_backends_answer_opens_the_clients_window_and_makes_it_speak() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for (number, party) in Party::each(client, PORT).into_iter().enumerate() {
            // What the client, the backend offers, and the window that the client reads.
            for (port, offer, answer, window) in [
                (1000, &OFFER[..], &ANSWER[..], 500),
                (1001, &OFFER[..], &[2, 4, 5, 160][..], 500),
                (1002, &[2, 4, 5, 180][..], &[][..], 64_000),
            ] {
                let party = Party { port: port + 10 * number as u16, ..party };
                let cookie = party.challenged(subject, offer);
                let from = party.confirmed(subject, cookie);
                let accepts = party.accepts(from, answer);
                let expected = renumbered(&anew(&party.answered(&accepts), 63), |tcp| {
                    (tcp.flags, tcp.sequence, tcp.window) = (ACK, cookie, window);
                    (tcp.options, tcp.payload) = (Vec::new(), vec![0]);
                });
                // The second time because the client's acknowledgement was lost.
                for what in ["first", "again"] {
                    let what = format!("{}, {what}, {offer:?}", party.name());
                    sends(subject, &what, &accepts, &expected);
                }
                let acknowledges = party.data(cookie, 0);
                let expected = renumbered(&party.forwarded(&acknowledges, from), |tcp| {
                    tcp.acknowledged = BACKEND + 1;
                    // A backend that knows no shift reads the window as it is.
                    let unshifted = answer.len() == 4;
                    tcp.window = if unshifted { 0xffff } else { 500 };
                });
                sends(subject, &party.name(), &acknowledges, &expected);
                sends(subject, "after the client has spoken", &accepts, &{
                    renumbered(&anew(&party.answered(&accepts), 63), |tcp| {
                        (tcp.flags, tcp.sequence, tcp.window) = (ACK, cookie, window);
                        (tcp.options, tcp.payload) = (Vec::new(), vec![0]);
                    })
                });
            }
        }
    })
}

#[test]
fn all_numbers_of_the_backends_bytes_are_translated() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let (cookie, from) = party.opened(subject);
            party.goes_on(subject, cookie, from);
            let block = |numbers: [u32; 2]| numbers.map(u32::to_be_bytes).concat();
            let sacks = [
                // Even and odd positions, after others, four blocks.
                (vec![1, 1, 5, 10], vec![[20, 30]], vec![]),
                (vec![5, 10], vec![[20, 30]], vec![1, 0]),
                (vec![1, 5, 18], vec![[20, 30], [50, 60]], vec![1]),
                (vec![1, 1, 5, 34], vec![[9, 10], [20, 30], [50, 60], [70, 80]], vec![]),
            ];
            for (before, blocks, after) in sacks {
                let options = |first: u32| {
                    let blocks = blocks.iter().map(|of| block(of.map(|at| first.wrapping_add(at))));
                    [before.clone(), blocks.collect::<Vec<_>>().concat(), after.clone()].concat()
                };
                let data = renumbered(&party.data(cookie, 0), |tcp| tcp.options = options(cookie));
                let expected = renumbered(&party.forwarded(&data, from), |tcp| {
                    (tcp.acknowledged, tcp.options) = (BACKEND + 1, options(BACKEND));
                });
                sends(subject, &format!("{}: {before:?}", party.name()), &data, &expected);
            }
            // A backend acknowledges the client's bytes, which have their own numbers.
            let options = [vec![1, 1, 5, 10], block([CLIENT, CLIENT + 9])].concat();
            let data = renumbered(&party.answers(from, 77), |tcp| tcp.options = options);
            let expected = renumbered(&party.answered(&data), |tcp| {
                (tcp.sequence, tcp.window) = (cookie.wrapping_add(78), 250);
            });
            sends(subject, &party.name(), &data, &expected);
            // A reset that acknowledges nothing.
            let reset = renumbered(&party.data(cookie, 0), |tcp| {
                (tcp.flags, tcp.acknowledged) = (RST, 0);
                tcp.payload.clear();
            });
            let expected = party.forwarded(&reset, from);
            sends(subject, &party.name(), &reset, &expected);
        }
    })
}

#[test]
fn syns_below_the_rate_reach_backends() -> Result<()> {
    Subject::with(&setup("20", &[1]), |subject| {
        for party in parties() {
            let answers = (0..100).map(|port| {
                let party = Party { port: 2000 + port, ..party };
                let outcome = subject.run(&party.syn(&OFFER));
                outcome.counted.contains_key("syn_cookie_sent")
            });
            let answered = answers.filter(|answered| *answered).count();
            // One second's worth, and what comes while this runs.
            assert!((20..=79).contains(&answered), "{}: {answered}", party.name());
        }
    })
}

#[test]
fn connections_go_on_where_cookies_are_turned_off() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        let open: Vec<_> =
            parties().into_iter().map(|party| (party, party.opened(subject))).collect();
        subject.reload(&setup("\"off\"", &[1]));
        for (party, (cookie, from)) in open {
            party.goes_on(subject, cookie, from);
            // And no SYN is answered any more.
            let syn = Party { port: PORT + 1, ..party }.syn(&OFFER);
            let outcome = subject.run(&syn);
            assert_eq!(outcome.action, Action::Redirect, "{}: {outcome:?}", party.name());
            assert!(outcome.counted.is_empty(), "{outcome:?}");
        }
    })
}

#[test]
fn a_backend_that_refuses_is_heard() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let cookie = party.challenged(subject, &OFFER);
            let from = party.confirmed(subject, cookie);
            // What comes before the backend has answered.
            let early = party.says(|tcp| {
                (tcp.flags, tcp.sequence) = (ACK | FIN, CLIENT + 1);
                tcp.acknowledged = cookie.wrapping_add(1);
            });
            subject.drops(&party.name(), &early, Counter::Unopened);
            // It has an older connection from the same port: it is told that it has none.
            let old = party.hears(from, |tcp| {
                (tcp.flags, tcp.sequence, tcp.acknowledged) = (ACK, 4711, 1234);
            });
            let reset = Party::own(&old, |tcp| {
                (tcp.flags, tcp.sequence, tcp.acknowledged) = (RST, 1234, 0);
            });
            subject.answers(&party.name(), &old, &reset, Counter::Unopened);
            let refuses = party.hears(from, |tcp| {
                (tcp.flags, tcp.sequence, tcp.acknowledged) = (RST | ACK, 0, CLIENT + 1);
            });
            let expected = renumbered(&party.answered(&refuses), |tcp| {
                tcp.sequence = cookie.wrapping_add(1);
            });
            sends(subject, &party.name(), &refuses, &expected);
        }
    })
}

#[test]
fn a_port_is_used_again() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            // After an end, and after a client that forgot its connection.
            for ends in [true, false] {
                let (cookie, from) = party.opened(subject);
                party.goes_on(subject, cookie, from);
                if ends {
                    let end = renumbered(&party.data(cookie, 0), |tcp| tcp.flags = ACK | FIN);
                    subject.run(&end);
                }
            }
            let (cookie, from) = party.opened(subject);
            party.goes_on(subject, cookie, from);
        }
    })
}

#[test]
fn a_forged_syn_does_not_end_a_connection() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let (cookie, from) = party.opened(subject);
            let forged = renumbered(&party.syn(&OFFER), |tcp| tcp.sequence = 99);
            assert_eq!(subject.run(&forged).action, Action::Transmit);
            party.goes_on(subject, cookie, from);
        }
    })
}

/// The first data of a connection looks like what confirms its cookie.
#[test]
fn what_is_said_again_opens_nothing_again() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let (cookie, from) = party.opened(subject);
            let first = party.data(cookie, 0);
            let expected = party.forwarded(&first, from);
            let expected = renumbered(&expected, |tcp| tcp.acknowledged = BACKEND + 1);
            sends(subject, &party.name(), &first, &expected);
            let end = renumbered(&first, |tcp| {
                (tcp.flags, tcp.sequence) = (ACK | FIN, CLIENT + 9);
                tcp.payload.clear();
            });
            subject.run(&end);
            sends(subject, &format!("{}, after its end", party.name()), &first, &expected);
            // Nor where somebody forged a SYN, and the client has spoken since.
            let forged = renumbered(&party.syn(&OFFER), |tcp| tcp.sequence = 99);
            assert_eq!(subject.run(&forged).action, Action::Transmit);
            party.goes_on(subject, cookie, from);
            sends(subject, &format!("{}, after a SYN", party.name()), &first, &expected);
        }
    })
}

#[test]
fn who_can_be_served_no_more_is_sent_a_reset_of_his_connection() -> Result<()> {
    let rejecting = |backends: &[u8]| {
        let mut setup = setup("0", backends);
        for service in &mut setup.services {
            *service = service.clone().line("on_empty = \"reject\"");
        }
        setup
    };
    Subject::with(&rejecting(&[1]), |subject| {
        let cookies: Vec<_> =
            parties().into_iter().map(|party| party.challenged(subject, &OFFER)).collect();
        subject.reload(&rejecting(&[]));
        for (party, cookie) in parties().into_iter().zip(cookies) {
            let confirms = party.confirms(cookie);
            let expected = Party::own(&confirms, |tcp| {
                (tcp.flags, tcp.sequence) = (RST | ACK, cookie.wrapping_add(1));
                tcp.acknowledged = CLIENT + 1;
            });
            let outcome = subject.run(&confirms);
            assert_eq!(outcome.action, Action::Transmit, "{}: {outcome:?}", party.name());
            assert!(outcome.frame == expected.bytes(), "{}: {outcome:?}", party.name());
        }
    })
}

#[test]
fn an_error_about_what_the_client_got_says_what_the_backend_sent() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let (cookie, from) = party.opened(subject);
            let sent = party.answers(from, 50);
            let seen = renumbered(&party.answered(&sent), |tcp| {
                (tcp.sequence, tcp.window) = (cookie.wrapping_add(51), 250);
            });
            // A window is not translated back, so its checksum is not quoted, either: eight
            // bytes, and twelve.
            for length in [8, 12] {
                for (kind, code, rest) in errors(party.v4) {
                    let router: IpAddr =
                        if party.v4 { "10.1.0.77" } else { "fd00:1::77" }.parse().unwrap();
                    let error = |packet: &Packet, from, to| {
                        let body = Icmp::error(kind, code, rest, packet.quote(length));
                        from_client(Packet::new(from, to, body))
                    };
                    let vip = seen.packet.source;
                    let frame = error(&seen.packet, router, vip);
                    let outcome = subject.run(&frame);
                    assert_eq!(outcome.action, Action::Redirect, "{}: {outcome:?}", party.name());
                    let l4 = frame.l4() + 8 + if party.v4 { 20 } else { 40 };
                    let number = sequence(&outcome.frame, l4);
                    assert_eq!(number, BACKEND + 51, "{}", party.name());
                    super::check::assert_valid(&outcome.frame);
                }
            }
        }
    })
}

/// Who told it, knows it by its own numbers.
#[test]
fn what_is_too_long_for_the_client_is_told_as_it_came() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let (cookie, from) = party.opened(subject);
            let long = party.answers(from, 0).with(|frame| {
                let rest = frame.packet.bytes().len() - frame.packet.body.payload().len();
                *frame.packet.body.payload() = vec![7; 1501 - rest];
            });
            if party.mode == Mode::Nat {
                subject.passes(&party.name(), &long);
            } else {
                let mut payload = long.packet.bytes();
                payload.truncate(if party.v4 { 576 - 28 } else { 1280 - 48 });
                let (kind, code) = if party.v4 { (3, 4) } else { (2, 0) };
                let [high, low] = 1500_u16.to_be_bytes();
                let icmp = Icmp { kind, code, rest: [0, 0, high, low], payload };
                let expected = answer(&long, Body::Icmp(icmp));
                subject.answers(&party.name(), &long, &expected, Counter::TooBig);
            }
            party.goes_on(subject, cookie, from);
        }
    })
}

#[test]
fn many_connections_are_kept_apart() -> Result<()> {
    Subject::with(&setup("0", &[1, 2]), |subject| {
        let mut open = Vec::new();
        for number in 0..200 {
            for party in Party::each(|v4| client_number(v4, number), PORT) {
                open.push((party, party.opened(subject)));
            }
        }
        for (party, (cookie, from)) in open {
            party.goes_on(subject, cookie, from);
            assert_eq!(backend(party.v4, from.1).is_ipv4(), party.v4);
        }
    })
}

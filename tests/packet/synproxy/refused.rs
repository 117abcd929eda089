//! Who is given no connection, whatever he says.

use std::{net::IpAddr, sync::Mutex};

use lb_common::{limits, maps, stats::Counter, synproxy};
use lb_tests::harness::{Mode, Result};

use super::{
    parties,
    party::{ANSWER, OFFER, Party, renumbered, setup},
};
use crate::packet::{
    case::PORT,
    frame::{ACK, FIN, RST},
    subject::{Action, Subject},
};

#[test]
fn who_guesses_opens_nothing() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let cookie = party.challenged(subject, &OFFER);
            let other = Party { port: PORT + 1, ..party };
            let strange = [
                ("another number", party.confirms(cookie ^ 1)),
                ("another port", other.confirms(cookie)),
                ("another sequence", {
                    renumbered(&party.confirms(cookie), |tcp| tcp.sequence += 1)
                }),
                ("an end", renumbered(&party.confirms(cookie), |tcp| tcp.flags = ACK | FIN)),
                ("a reset", renumbered(&party.confirms(cookie), |tcp| tcp.flags = RST)),
            ];
            for (what, frame) in strange {
                // It goes the way of any packet of a flow that is not known.
                let outcome = subject.run(&frame);
                let confirmed = outcome.counted.contains_key("syn_cookie_confirmed");
                assert!(!confirmed, "{}, {what}: {outcome:?}", party.name());
                let reset = outcome.action == Action::Drop;
                assert_eq!(reset, party.mode == Mode::FullNat && what == "a reset", "{what}");
            }
            party.confirmed(subject, cookie);
        }
    })
}

#[test]
fn who_cannot_be_kept_is_sent_a_reset() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        let mut table = subject.writable::<synproxy::Bucket>(maps::PROXIED);
        let expires = subject.second().wrapping_add(1000);
        let other = synproxy::Proxied::opening(1, 7, 0, expires).0;
        let full = synproxy::Bucket { keys: [1; 4], values: [other; 4] };
        for party in parties() {
            let cookie = party.challenged(subject, &OFFER);
            (0..limits::PROXIED_BUCKETS).for_each(|at| table.set(at, full, 0).unwrap());
            let confirms = party.confirms(cookie);
            let reset = Party::own(&confirms, |tcp| {
                (tcp.flags, tcp.sequence, tcp.acknowledged) = (RST, cookie.wrapping_add(1), 0);
            });
            subject.answers(&party.name(), &confirms, &reset, Counter::ProxiedFull);
            let empty = synproxy::Bucket::ZERO;
            (0..limits::PROXIED_BUCKETS).for_each(|at| table.set(at, empty, 0).unwrap());
            party.confirmed(subject, cookie);
        }
    })
}

#[test]
fn nobody_is_promised_what_will_be_refused() -> Result<()> {
    Subject::with(&setup("0", &[]), |subject| {
        for party in parties() {
            subject.drops(&party.name(), &party.syn(&OFFER), Counter::NoBackend);
        }
    })?;
    Subject::with(&setup("0", &[1]), |subject| {
        for party in parties() {
            let vip = party.syn(&OFFER).packet.destination;
            let multicast: IpAddr = if party.v4 { "224.0.0.9" } else { "ff02::9" }.parse().unwrap();
            for source in [vip, multicast] {
                let land = Party { client: source, ..party }.syn(&OFFER);
                subject.drops(&format!("{}: {source}", party.name()), &land, Counter::BadSource);
            }
        }
    })
}

#[test]
fn the_peers_cookies_are_taken_by_who_asks_for_them_too() -> Result<()> {
    const PAIRS: [u64; 2] = [1, 2];
    let cookies = Mutex::new(Vec::new());
    Subject::with(&setup("0", &[1]), |subject| {
        subject.place_by(PAIRS);
        let made = parties().into_iter().map(|party| (party, party.challenged(subject, &OFFER)));
        cookies.lock().unwrap().extend(made);
    })?;
    let confirms = |subject: &Subject<'_>, party: Party, cookie| {
        let outcome = subject.run(&party.confirms(cookie));
        outcome.counted.contains_key("syn_cookie_confirmed")
    };
    Subject::with(&setup("0", &[1]), |subject| {
        for (party, cookie) in cookies.into_inner().unwrap() {
            let asked = Party { port: PORT + 1, ..party };
            subject.place_by([3, 4]);
            asked.challenged(subject, &OFFER);
            assert!(!confirms(subject, party, cookie), "{}: of another pair", party.name());
            subject.place_by(PAIRS);
            asked.challenged(subject, &OFFER);
            let (bound, number) = party.confirmed(subject, cookie);
            subject.run(&party.accepts((bound, number), &ANSWER));
            party.goes_on(subject, cookie, (bound, number));
        }
    })
}

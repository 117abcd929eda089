//! How long backends take to answer a SYN, as the packet path counts it.

use std::net::IpAddr;

use lb_common::{
    handshake::{Begun, LONGEST},
    limits, maps,
};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client},
    frame::{ACK, FIN, Frame, RST, SYN},
    network::backend,
    setup::Setup,
    subject::{Subject, eventually},
};

impl Subject<'_> {
    /// SYNs that wait for an answer, by place.
    fn pending(&self) -> Vec<(u32, Begun)> {
        let moments = self.writable::<u64>(maps::HANDSHAKES);
        let entry = |index| Begun(moments.get(&index, 0).expect("an entry of HANDSHAKES"));
        let all = (0..limits::HANDSHAKES).map(|index| (index, entry(index)));
        all.filter(|(_, begun)| *begun != Begun::EMPTY).collect()
    }

    /// Makes all SYNs older by so many microseconds.
    fn wait(&self, us: u32) {
        for (index, Begun(word)) in self.pending() {
            let moment = (word as u32).wrapping_sub(us);
            let word = word & !u64::from(u32::MAX) | u64::from(moment);
            self.writable(maps::HANDSHAKES).set(index, word, 0).expect("an entry of HANDSHAKES");
        }
    }

    /// Handshakes counted at a backend's address, and their microseconds.
    fn handshakes(&self, address: IpAddr) -> (u64, u64) {
        let at = (1..).zip(self.stats()).filter(|(id, _)| self.backend_address(*id) == address);
        let stats: lb_common::stats::BackendStats = at.map(|(_, stats)| stats).sum();
        (stats.handshakes, stats.handshake_us)
    }

    fn all_handshakes(&self) -> u64 {
        self.stats().iter().map(|stats| stats.handshakes).sum()
    }
}

/// TCP cases of mode `nat`.
fn timed() -> impl Iterator<Item = Case> {
    Case::nat().into_iter().filter(|case| case.protocol == Protocol::Tcp)
}

/// All services with these lines, and `policy = "latency"`.
fn with_lines(lines: &str) -> Setup {
    let mut setup = spread(&[1, 2, 3]);
    for service in &mut setup.services {
        *service = service.clone().line("policy = \"latency\"").line(lines);
    }
    setup
}

fn syn(case: Case, port: u16) -> Frame {
    flagged(&case.request_from(client(case.v4), port), SYN)
}

/// What the backend at `address` answers to the client's `port`.
fn answer(case: Case, address: IpAddr, port: u16, flags: u8) -> Frame {
    let number = (1..=3).find(|&number| backend(case.v4, number) == address);
    let answer = case.answer(number.expect("one of three backends"));
    flagged(&answer, flags).with(|frame| *frame.packet.body.destination_port() = port)
}

/// Shakes hands, from other ports until it is counted: a machine that stands
/// still in between makes an answer too late. Returns who answered.
#[track_caller]
fn shake_hands(subject: &Subject<'_>, case: Case, us: u32) -> IpAddr {
    let (before, mut ports) = (subject.all_handshakes(), 1000..);
    let mut answered = None;
    let done = eventually(|| {
        let port = ports.next().expect("a port");
        let to = goes_to(subject, &syn(case, port));
        subject.wait(us);
        subject.run_uncounted(&answer(case, to, port, SYN | ACK));
        answered = Some(to);
        subject.all_handshakes() > before
    });
    assert!(done, "{}: no handshake is counted", case.name());
    assert_eq!(subject.all_handshakes(), before + 1, "{}", case.name());
    answered.expect("who answered")
}

#[test]
fn a_syn_and_its_answer_are_one_sample_of_who_answered() -> Result<()> {
    Subject::with(&with_lines(""), |subject| {
        for case in timed() {
            let to = shake_hands(subject, case, 70_000);
            let (count, us) = subject.handshakes(to);
            assert_eq!(count, 1, "{}", case.name());
            assert!((70_000..LONGEST.into()).contains(&us), "{}: {us}", case.name());
            assert_eq!(subject.pending(), [], "{}", case.name());
            // An answer that comes again is none to a SYN.
            subject.run_uncounted(&answer(case, to, 1000, SYN | ACK));
            assert_eq!(subject.handshakes(to), (count, us), "{}", case.name());
        }
    })
}

#[test]
fn handshakes_are_timed_at_ranges_of_ports_and_for_clients_that_stay() -> Result<()> {
    Subject::with(&with_lines("affinity = \"client\""), |subject| {
        for case in timed() {
            let to = shake_hands(subject, case, 0);
            assert_eq!(shake_hands(subject, case, 0), to, "{}", case.name());
            assert_eq!(subject.handshakes(to).0, 2, "{}", case.name());
        }
        let mut ranges = with_lines("");
        for service in &mut ranges.services {
            service.port = "\"8000-8100\"".into();
            service.backends.iter_mut().for_each(|backend| backend.port = None);
        }
        subject.reload(&ranges);
        for case in timed() {
            let port = case.backend_port();
            let syn = syn(case, 7).with(|f| *f.packet.body.destination_port() = port);
            let done = eventually(|| {
                let to = goes_to(subject, &syn);
                subject.run_uncounted(&answer(case, to, 7, SYN | ACK));
                subject.handshakes(to).0 > 0
            });
            assert!(done, "{}", case.name());
        }
    })
}

#[test]
fn nothing_is_timed_where_nobody_asks_for_it_or_only_one_side_is_seen() -> Result<()> {
    let shake = |subject: &Subject<'_>, case: Case| {
        let to = goes_to(subject, &syn(case, 7));
        assert_eq!(subject.pending(), [], "{}", case.name());
        subject.run_uncounted(&answer(case, to, 7, SYN | ACK));
        assert_eq!(subject.all_handshakes(), 0, "{}", case.name());
    };
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        Case::all().into_iter().for_each(|case| shake(subject, case));
        // The policy alone is a change that packets notice.
        subject.reload(&with_lines(""));
        let seen = |case: &Case| case.mode == Mode::Nat && case.protocol == Protocol::Tcp;
        Case::all().into_iter().filter(|case| !seen(case)).for_each(|case| shake(subject, case));
        timed().for_each(|case| _ = shake_hands(subject, case, 0));
    })
}

#[test]
fn a_connection_that_lost_a_packet_is_no_sample() -> Result<()> {
    Subject::with(&with_lines(""), |subject| {
        for case in timed() {
            let to = goes_to(subject, &syn(case, 7));
            subject.wait(LONGEST);
            let first = subject.pending();
            assert_eq!(first.len(), 1);
            // Which of the two is answered cannot be told.
            goes_to(subject, &syn(case, 7));
            assert_eq!(subject.pending(), first, "{}", case.name());
            subject.run_uncounted(&answer(case, to, 7, SYN | ACK));
            assert_eq!((subject.all_handshakes(), subject.pending()), (0, vec![]));
        }
    })
}

#[test]
fn who_refuses_a_connection_has_not_answered() -> Result<()> {
    Subject::with(&with_lines(""), |subject| {
        for case in timed() {
            let to = goes_to(subject, &syn(case, 7));
            let waiting = subject.pending();
            for flags in [RST | ACK, ACK, SYN, SYN | ACK | RST, SYN | ACK | FIN] {
                subject.run_uncounted(&answer(case, to, 7, flags));
            }
            subject.run_uncounted(&answer(case, to, 8, SYN | ACK));
            assert_eq!((subject.pending(), subject.all_handshakes()), (waiting, 0));
            subject.wait(LONGEST);
            subject.run_uncounted(&answer(case, to, 7, SYN | ACK));
            assert_eq!(subject.pending(), []);
        }
    })
}

#[test]
fn what_is_only_explained_is_not_timed() -> Result<()> {
    Subject::with(&with_lines(""), |subject| {
        for case in timed() {
            subject.explain(&syn(case, 7));
            assert_eq!(subject.pending(), [], "{}", case.name());
            let to = goes_to(subject, &syn(case, 7));
            let waiting = subject.pending();
            assert_eq!(waiting.len(), 1, "{}", case.name());
            subject.explain(&answer(case, to, 7, SYN | ACK));
            assert_eq!((subject.pending(), subject.all_handshakes()), (waiting, 0));
            subject.wait(LONGEST);
            subject.run_uncounted(&answer(case, to, 7, SYN | ACK));
        }
    })
}

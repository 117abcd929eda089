//! Frames that nobody thought of: random ones, whole and damaged. Whatever comes, there
//! is one verdict, with its counter, and nothing is sent that is worse than what came.

use lb_common::stats::Counter;
use lb_tests::harness::Result;

use super::{
    affinity::flagged,
    case::{Case, PORT, client, client_number, from_client},
    check::check,
    frame::{
        Body, DONT_FRAGMENT, Extension, Frame, Icmp, MORE_FRAGMENTS, Packet, QINQ, SYN, VLAN, hex,
    },
    fullnat::way,
    subject::{Action, Outcome, Subject},
    synproxy::party::{ANSWER, OFFER, Party, setup},
    tunnel::Way,
};

/// Frames of each kind.
const FRAMES: u32 = 20_000;

/// Answers of our own, each with a counter.
const ANSWERS: [Counter; 6] = [
    Counter::EchoReplied,
    Counter::Rejected,
    Counter::Reset,
    Counter::TooBig,
    Counter::SynCookieSent,
    Counter::Unopened,
];

/// Numbers that look random, the same in every run (splitmix64: Steele, Lea, Flood,
/// *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
struct Lots(u64);

impl Lots {
    /// One of 0 to `below` - 1.
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % below as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.draw(times) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.draw(from.len())].clone()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.draw(most + 1)).map(|_| self.draw(256) as u8).collect()
    }
}

/// A frame that is whole, but otherwise as strange as can be.
fn vary(lots: &mut Lots, frame: &mut Frame) {
    if lots.one_in(4) {
        frame.tags = lots.pick(&[vec![(VLAN, 7)], vec![(QINQ, 8), (VLAN, 9)]]);
    }
    let packet = &mut frame.packet;
    let v4 = packet.source.is_ipv4();
    if lots.one_in(3) {
        packet.source = client_number(v4, lots.draw(1 << 20) as u32);
    }
    if lots.one_in(6) {
        packet.hops = lots.draw(4) as u8;
    }
    if lots.one_in(4) {
        packet.class = lots.draw(256) as u8;
        packet.label = lots.draw(1 << 28) as u32;
    }
    if lots.one_in(4) {
        if v4 {
            packet.options = vec![1; 4 * lots.draw(11)];
        } else {
            let kinds = [Extension::HOP_BY_HOP, Extension::DESTINATION];
            packet.extensions = (0..lots.draw(9))
                .map(|_| match lots.draw(4) {
                    0 => Extension::routing(),
                    1 => Extension::authentication(),
                    _ => Extension::options(lots.pick(&kinds), lots.draw(3) as u8),
                })
                .collect();
        }
    }
    if lots.one_in(4) {
        let (offset, more) = (lots.pick(&[0, 0, 1, 3, 185, 8191]), lots.one_in(2));
        if v4 {
            packet.identification = lots.draw(3) as u16;
            packet.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
        } else {
            packet.extensions = vec![Extension::fragment(offset, more)];
        }
    } else if v4 {
        packet.fragment = lots.pick(&[0, DONT_FRAGMENT]);
    }
    match &mut packet.body {
        Body::Tcp(tcp) => {
            if lots.one_in(2) {
                tcp.flags = lots.draw(256) as u8;
            }
            if lots.one_in(4) {
                tcp.options = vec![1; 4 * lots.draw(11)];
            }
        }
        Body::Udp(udp) => udp.checksum = !v4 || !lots.one_in(4),
        Body::Icmp(_) | Body::Other(..) => {}
    }
    if lots.one_in(3) {
        let most = lots.pick(&[0, 1, 40, 1600]);
        *packet.body.payload() = lots.bytes(most);
    }
    if lots.one_in(8) {
        // About itself, as a router on the way back would say.
        let quoted =
            Packet { source: packet.destination, destination: packet.source, ..packet.clone() };
        let kind = lots.pick(if v4 { &[3, 11, 12, 8, 0] } else { &[1, 2, 3, 4, 128, 135] });
        let (code, length) = (lots.draw(5) as u8, lots.draw(64));
        let payload = quoted.quote(length);
        packet.extensions.clear();
        packet.body = Body::Icmp(Icmp { kind, code, rest: [0, 0, 5, 0], payload });
    }
}

/// Damages a frame anywhere.
fn damage(lots: &mut Lots, bytes: &mut Vec<u8>) {
    for _ in 0..=lots.draw(3) {
        let at = lots.draw(bytes.len().clamp(1, 90));
        match lots.draw(5) {
            0 => bytes.truncate(at.max(14)),
            1 => {
                let more = lots.bytes(40);
                bytes.extend(more);
            }
            _ if at >= bytes.len() => {}
            2 => bytes[at] ^= 1 << lots.draw(8),
            3 => bytes[at] = lots.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            _ => drop(bytes.remove(at)),
        }
    }
    // The kernel runs programs on no less.
    bytes.resize(bytes.len().max(14), 0);
}

/// What must be true of every frame. What is made `anew` has right checksums, though what
/// it was made of had not.
fn judge(bytes: &[u8], outcome: &Outcome, anew: bool) -> std::result::Result<(), String> {
    let mut counted = outcome.counted.clone();
    // Beside the verdict.
    for beside in [Counter::Unrecorded, Counter::Moved, Counter::SynCookieConfirmed] {
        counted.remove(beside.name());
    }
    let counted: Vec<_> = counted.into_iter().collect();
    let changed = outcome.frame != bytes;
    let (good, fine) = (check(bytes).is_ok(), check(&outcome.frame));
    let answered = |(name, times): &(&str, u64)| {
        *times == 1 && ANSWERS.iter().any(|answer| answer.name() == *name)
    };
    let one = |what| match &counted[..] {
        [(_, 1)] => Ok(()),
        _ => Err(format!("{what}, counted {counted:?}")),
    };
    let as_it_came = || match (good, fine.clone()) {
        (true, Err(wrong)) => Err(format!("sent: {wrong}")),
        (false, Ok(())) if !anew => Err("sent as if it were whole".into()),
        _ => Ok(()),
    };
    match outcome.action {
        Action::Drop if !outcome.traffic.is_empty() => Err("dropped and counted as sent".into()),
        Action::Drop => one("dropped"),
        Action::Pass if outcome.traffic.is_empty() && changed => Err("passed, but changed".into()),
        Action::Pass if outcome.traffic.is_empty() => one("passed"),
        Action::Pass => one("handed over").and_then(|()| as_it_came()),
        Action::Transmit if counted.len() == 1 && answered(&counted[0]) => {
            if good {
                fine.map_err(|wrong| format!("answered: {wrong}"))
            } else {
                Ok(())
            }
        }
        Action::Transmit | Action::Redirect => match (&outcome.traffic[..], &counted[..]) {
            ([traffic], []) if traffic.packets + traffic.replies == 1 => as_it_came(),
            _ => Err(format!("sent, counted {counted:?} and {:?}", outcome.traffic)),
        },
    }
}

fn fuzz(subject: &Subject<'_>, seeds: &[Frame]) {
    fuzz_with(subject, seeds, false);
}

fn fuzz_with(subject: &Subject<'_>, seeds: &[Frame], anew: bool) {
    let mut lots = Lots(1);
    let mut actions = [0; 4];
    for number in 0..FRAMES {
        let mut frame = lots.pick(seeds);
        vary(&mut lots, &mut frame);
        let mut bytes = frame.bytes();
        if lots.one_in(2) {
            damage(&mut lots, &mut bytes);
        }
        let outcome = subject.run(bytes.clone());
        if let Err(wrong) = judge(&bytes, &outcome, anew) {
            let (came, left) = (hex(&bytes), hex(&outcome.frame));
            panic!("frame {number}: {wrong}: {:?}\n  {came}\n  {left}", outcome.action);
        }
        actions[outcome.action as usize] += 1;
    }
    // Nothing is shown by frames that all fare alike.
    assert!(actions.iter().all(|&times| times > FRAMES / 200), "{actions:?}");
}

#[test]
fn no_frame_leaves_worse_than_it_came() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let requests = Case::all().into_iter().map(Case::request);
        let answers = Case::nat().into_iter().map(|case| case.answer(1));
        fuzz(subject, &requests.chain(answers).collect::<Vec<_>>());
    })
}

#[test]
fn no_frame_leaves_a_tunnels_mouth_worse_than_it_came() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        let mut seeds: Vec<_> = Way::all().into_iter().map(Way::request).collect();
        // Echo to a VIP, so that something is answered, too.
        for way in [Way::all()[0], Way::all()[4]] {
            let kind = if way.v4 { 8 } else { 128 };
            let echo = Icmp { kind, code: 0, rest: [1, 2, 3, 4], payload: b"echo".to_vec() };
            let source = client_number(way.v4, 5);
            seeds.push(from_client(Packet::new(source, way.vip(), Body::Icmp(echo))));
        }
        fuzz(subject, &seeds);
    })
}

#[test]
fn no_frame_leaves_worse_than_it_came_where_both_ends_are_rewritten() -> Result<()> {
    Subject::with(&way::Way::setup(&[1]), |subject| {
        let mut seeds = Vec::new();
        for way in way::Way::all() {
            let (bound, number) = way.begin(subject, client(way.v4), PORT);
            let request = way.request(client(way.v4), PORT);
            let answer = way.answer(bound, number);
            // What a router tells of a packet to the backend, and of one to the client.
            for about in
                [way.forwarded(&request, bound, 1), way.answered(&answer, (client(way.v4), PORT))]
            {
                let (kind, code) = if way.v4 { (3, 4) } else { (2, 0) };
                let payload = about.packet.quote(8);
                let icmp = Body::Icmp(Icmp { kind, code, rest: [0, 0, 5, 0], payload });
                let packet = Packet::new(client_number(way.v4, 5), about.packet.source, icmp);
                seeds.push(from_client(packet));
            }
            seeds.extend([flagged(&request, SYN), request, answer.clone(), answer]);
        }
        fuzz(subject, &seeds);
    })
}

#[test]
fn no_frame_leaves_worse_than_it_came_where_syns_are_answered() -> Result<()> {
    Subject::with(&setup("0", &[1]), |subject| {
        let mut seeds = Vec::new();
        for party in Party::each(client, PORT) {
            let (cookie, from) = party.opened(subject);
            // Another one, whose backend has not answered yet.
            let late = Party { port: PORT + 1, ..party };
            let other = late.challenged(subject, &OFFER);
            let to = late.confirmed(subject, other);
            seeds.extend([party.syn(&OFFER), party.data(cookie, 6), party.answers(from, 0)]);
            seeds.extend([late.confirms(other), late.accepts(to, &ANSWER)]);
        }
        // What goes nowhere, so that something is passed.
        let elsewhere = Party::each(client, PORT).into_iter().map(|party| {
            let frame = party.syn(&OFFER);
            frame.with(|frame| frame.packet.destination = client_number(party.v4, 99))
        });
        seeds.extend(elsewhere);
        fuzz_with(subject, &seeds, true);
    })
}

//! A connection with a service that has SYN cookies: its segments on both sides, and what
//! becomes of them.

use std::net::IpAddr;

use lb_tests::harness::{Mode, Protocol};

use crate::packet::{
    case::{Case, from_client},
    check::assert_valid,
    frame::{ACK, Body, Frame, Packet, SYN, Tcp, hex},
    fullnat::way::{Bound, SOURCES, Way, source_of},
    refuse::answer,
    setup::{Service, Setup},
    subject::{Action, Outcome, Subject},
};

/// The client's first number, and the backend's.
pub(in crate::packet) const CLIENT: u32 = 0xffff_ff00;
pub(in crate::packet) const BACKEND: u32 = 0x1000_0000;

/// What a common client offers: segments of 1460 bytes, selective acknowledgements,
/// timestamps, windows shifted by 9.
pub(in crate::packet) const OFFER: [u8; 20] =
    [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 9];
/// What a backend answers that shifts windows by 5.
pub(in crate::packet) const ANSWER: [u8; 12] = [2, 4, 5, 160, 1, 1, 4, 2, 1, 3, 3, 5];
/// The longest segments that are announced to clients.
pub(in crate::packet) fn size(v4: bool) -> [u8; 2] {
    if v4 { 1460_u16 } else { 1440 }.to_be_bytes()
}

/// A client of one mode and family.
#[derive(Clone, Copy, Debug)]
pub(in crate::packet) struct Party {
    pub(in crate::packet) mode: Mode,
    pub(in crate::packet) v4: bool,
    pub(in crate::packet) client: IpAddr,
    pub(in crate::packet) port: u16,
}

/// Services that answer SYNs with cookies above `rate`, and these backends.
pub(in crate::packet) fn setup(rate: &str, backends: &[u8]) -> Setup {
    let line = format!("syn_cookies_above = {rate}");
    let is_tcp = |service: &Service| service.protocol == Protocol::Tcp;
    let nat = Case::nat().into_iter().map(|case| case.service(backends));
    let mut services: Vec<_> = nat.filter(is_tcp).collect();
    // Those of the other mode have the next ports.
    services.extend(
        Way::setup(backends)
            .services
            .into_iter()
            .filter(is_tcp)
            .map(|service| Service { port: FULLNAT_PORT.to_string(), ..service }),
    );
    let services = services.into_iter().map(|service| service.line(&line));
    Setup::new(services).node(&format!("nat_sources = {SOURCES:?}"))
}

const FULLNAT_PORT: u16 = 81;

impl Party {
    /// One of each mode and family, with this address and port.
    pub(in crate::packet) fn each(client: impl Fn(bool) -> IpAddr, port: u16) -> Vec<Self> {
        let of = |mode| [true, false].map(|v4| Self { mode, v4, client: client(v4), port });
        [Mode::Nat, Mode::FullNat].map(of).concat()
    }

    pub(in crate::packet) fn name(self) -> String {
        format!("{}, {}", self.mode, if self.v4 { "IPv4" } else { "IPv6" })
    }

    fn way(self) -> Way {
        Way { v4: self.v4, protocol: Protocol::Tcp }
    }

    pub(in crate::packet) fn case(self) -> Case {
        Case { mode: Mode::Nat, v4: self.v4, protocol: Protocol::Tcp }
    }

    fn service_port(self) -> u16 {
        if self.mode == Mode::FullNat { FULLNAT_PORT } else { 80 }
    }

    /// A segment of the client's.
    pub(in crate::packet) fn says(self, change: impl FnOnce(&mut Tcp)) -> Frame {
        let body = segment(self.port, self.service_port(), change);
        from_client(Packet::new(self.client, self.way().vip(), body))
    }

    /// Its SYN.
    pub(in crate::packet) fn syn(self, options: &[u8]) -> Frame {
        self.says(|tcp| {
            (tcp.flags, tcp.sequence, tcp.acknowledged, tcp.window) = (SYN, CLIENT, 0, 64_240);
            tcp.options = options.to_vec();
        })
    }

    /// A segment of a backend's to where the connection comes from.
    pub(in crate::packet) fn hears(
        self,
        from: (Bound, u8),
        change: impl FnOnce(&mut Tcp),
    ) -> Frame {
        let ((source, port), number) = from;
        let frame = match self.mode {
            Mode::FullNat => self.way().answer((source, port), number),
            _ => self.case().answer(number).with(|frame| frame.packet.destination = self.client),
        };
        let to = if self.mode == Mode::FullNat { port } else { self.port };
        frame.with(|frame| {
            let from = *frame.packet.body.source_port();
            frame.packet.body = segment(from, to, change);
        })
    }

    /// The backend's answer to the SYN.
    pub(in crate::packet) fn accepts(self, from: (Bound, u8), options: &[u8]) -> Frame {
        self.hears(from, |tcp| {
            (tcp.flags, tcp.sequence, tcp.acknowledged) = (SYN | ACK, BACKEND, CLIENT + 1);
            (tcp.window, tcp.options) = (64_000, options.to_vec());
        })
    }

    /// What a backend gets of a client's frame, where numbers are not looked at.
    pub(in crate::packet) fn forwarded(self, frame: &Frame, (bound, number): (Bound, u8)) -> Frame {
        match self.mode {
            Mode::FullNat => self.way().forwarded(frame, bound, number),
            _ => self.case().forwarded(frame, number),
        }
    }

    /// What the client gets of a backend's frame, likewise.
    pub(in crate::packet) fn answered(self, frame: &Frame) -> Frame {
        let frame = match self.mode {
            Mode::FullNat => self.way().answered(frame, (self.client, self.port)),
            _ => self.case().answered(frame),
        };
        frame.with(|frame| *frame.packet.body.source_port() = self.service_port())
    }

    /// Sends a SYN that is answered: the cookie.
    #[track_caller]
    pub(in crate::packet) fn challenged(self, subject: &Subject<'_>, options: &[u8]) -> u32 {
        let syn = self.syn(options);
        let outcome = subject.run(&syn);
        assert_eq!(outcome.action, Action::Transmit, "{}: {outcome:?}", self.name());
        sequence(&outcome.frame, syn.l4())
    }

    /// The packet that confirms a cookie.
    pub(in crate::packet) fn confirms(self, cookie: u32) -> Frame {
        self.says(|tcp| {
            (tcp.flags, tcp.sequence, tcp.acknowledged) = (ACK, CLIENT + 1, cookie.wrapping_add(1));
            tcp.window = 125;
        })
    }

    /// Confirms a cookie: where the backend's SYN comes from, and the backend.
    #[track_caller]
    pub(in crate::packet) fn confirmed(self, subject: &Subject<'_>, cookie: u32) -> (Bound, u8) {
        let outcome = subject.run(&self.confirms(cookie));
        assert_eq!(outcome.action, Action::Redirect, "{}: {outcome:?}", self.name());
        assert_eq!(outcome.counted.get("syn_cookie_confirmed"), Some(&1), "{}", self.name());
        (source_of(&outcome.frame), outcome.frame[5] - 0x10)
    }

    /// Opens a connection: the cookie, and whereby the backend knows it.
    #[track_caller]
    pub(in crate::packet) fn opened(self, subject: &Subject<'_>) -> (u32, (Bound, u8)) {
        let cookie = self.challenged(subject, &OFFER);
        let from = self.confirmed(subject, cookie);
        let outcome = subject.run(&self.accepts(from, &ANSWER));
        assert_eq!(outcome.action, Action::Redirect, "{}: {outcome:?}", self.name());
        (cookie, from)
    }

    /// Data of the client's, which has read so many bytes.
    pub(in crate::packet) fn data(self, cookie: u32, read: u32) -> Frame {
        self.says(|tcp| {
            (tcp.flags, tcp.sequence, tcp.window) = (ACK, CLIENT + 1, 500);
            tcp.acknowledged = cookie.wrapping_add(1).wrapping_add(read);
            tcp.payload = b"question".to_vec();
        })
    }

    /// Data of the backend's, after so many bytes.
    pub(in crate::packet) fn answers(self, from: (Bound, u8), sent: u32) -> Frame {
        self.hears(from, |tcp| {
            (tcp.flags, tcp.sequence, tcp.acknowledged) = (ACK, BACKEND + 1 + sent, CLIENT + 9);
            (tcp.window, tcp.payload) = (1000, b"answer".to_vec());
        })
    }

    /// Asserts that an open connection is translated both ways.
    #[track_caller]
    pub(in crate::packet) fn goes_on(self, subject: &Subject<'_>, cookie: u32, from: (Bound, u8)) {
        let data = self.data(cookie, 6);
        let expected = self.forwarded(&data, from);
        let expected = renumbered(&expected, |tcp| tcp.acknowledged = BACKEND + 7);
        sends(subject, &format!("{}: request", self.name()), &data, &expected);
        let data = self.answers(from, 0);
        let expected = renumbered(&self.answered(&data), |tcp| {
            (tcp.sequence, tcp.window) = (cookie.wrapping_add(1), 250);
        });
        sends(subject, &format!("{}: answer", self.name()), &data, &expected);
    }

    /// The balancer's own answer to a frame, as [`answer`].
    pub(in crate::packet) fn own(frame: &Frame, change: impl FnOnce(&mut Tcp)) -> Frame {
        let Body::Tcp(tcp) = &frame.packet.body else { panic!("no TCP: {frame:?}") };
        answer(frame, segment(tcp.destination, tcp.source, change))
    }
}

fn segment(source: u16, destination: u16, change: impl FnOnce(&mut Tcp)) -> Body {
    let Body::Tcp(mut tcp) = Tcp::body(source, destination, ACK) else { unreachable!() };
    (tcp.options, tcp.payload, tcp.window) = (Vec::new(), Vec::new(), 0);
    change(&mut tcp);
    Body::Tcp(tcp)
}

/// A frame with another TCP segment.
pub(in crate::packet) fn renumbered(frame: &Frame, change: impl FnOnce(&mut Tcp)) -> Frame {
    frame.with(|frame| {
        let Body::Tcp(tcp) = &mut frame.packet.body else { panic!("no TCP: {frame:?}") };
        change(tcp);
    })
}

/// A header of our own making, `hops` away.
pub(in crate::packet) fn anew(frame: &Frame, hops: u8) -> Frame {
    frame.with(|frame| {
        let packet = &mut frame.packet;
        // The traffic class stays.
        (packet.identification, packet.hops) = (0, hops);
        packet.label &= 0xff0_0000;
        (packet.options, packet.extensions) = (Vec::new(), Vec::new());
    })
}

/// The sequence number of a frame.
pub(in crate::packet) fn sequence(frame: &[u8], l4: usize) -> u32 {
    u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().expect("four bytes"))
}

/// Asserts that a frame goes on as `expected`, whatever is counted.
#[track_caller]
pub(in crate::packet) fn sends(
    subject: &Subject<'_>,
    what: &str,
    frame: &Frame,
    expected: &Frame,
) -> Outcome {
    let (outcome, expected) = (subject.run(frame), expected.bytes());
    assert_valid(&expected);
    let at = expected.iter().zip(&outcome.frame).position(|(a, b)| a != b);
    assert!(
        outcome.frame == expected,
        "{what}: another frame from byte {at:?} on, {:?} and counted {:?}\n      in {}\nexpected {}\n   found {}",
        outcome.action,
        outcome.counted,
        hex(&frame.bytes()),
        hex(&expected),
        hex(&outcome.frame),
    );
    assert_eq!(outcome.action, Action::Redirect, "{what}");
    outcome
}

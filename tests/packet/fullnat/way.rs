//! A service in mode `fullnat` of either family and protocol, and what becomes of its
//! frames.

use std::net::IpAddr;

use lb_tests::harness::{Mode, NAT_V4, NAT_V6, Protocol};

use crate::packet::{
    affinity::flagged,
    case::{from_backend, from_client},
    check::assert_valid,
    frame::{ACK, Body, Frame, Packet, SYN, Tcp, Udp},
    network::{CLIENT, L0, L1, backend, backend_mac},
    setup::{Service, Setup},
    subject::{Action, Subject},
};

/// `node.nat_sources`.
pub(crate) const SOURCES: [&str; 2] = ["10.2.0.200", "fd00:2::200"];

/// An address of the balancer's and a port that a flow has.
pub(crate) type Bound = (IpAddr, u16);

/// One combination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) v4: bool,
    pub(crate) protocol: Protocol,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let of = |v4| [Protocol::Tcp, Protocol::Udp].map(|protocol| Self { v4, protocol });
        [of(true), of(false)].concat()
    }

    /// A configuration with a service for each, at these backends.
    pub(crate) fn setup(backends: &[u8]) -> Setup {
        Self::setup_from(backends, SOURCES)
    }

    pub(crate) fn setup_from(backends: &[u8], sources: [&str; 2]) -> Setup {
        let services = Self::all().into_iter().map(|way| {
            let service = Service::new(Mode::FullNat, way.vip(), way.protocol, way.port());
            let to = |service: Service, &n| service.to(backend(way.v4, n), Some(way.to_port()));
            backends.iter().fold(service, to)
        });
        Setup::new(services).node(&format!("nat_sources = {sources:?}"))
    }

    pub(crate) fn name(self) -> String {
        format!("{}, {}", if self.v4 { "IPv4" } else { "IPv6" }, self.protocol)
    }

    pub(crate) fn vip(self) -> IpAddr {
        if self.v4 { NAT_V4 } else { NAT_V6 }
    }

    pub(crate) fn port(self) -> u16 {
        if self.protocol == Protocol::Tcp { 80 } else { 53 }
    }

    pub(crate) fn to_port(self) -> u16 {
        self.port() + 8000
    }

    pub(crate) fn body(self, source: u16, destination: u16) -> Body {
        match self.protocol {
            Protocol::Tcp => Tcp::body(source, destination, ACK),
            Protocol::Udp => Udp::body(source, destination),
        }
    }

    /// A packet in the midst of a flow, from its client.
    pub(crate) fn request(self, client: IpAddr, port: u16) -> Frame {
        from_client(Packet::new(client, self.vip(), self.body(port, self.port())))
    }

    /// What backend `number` gets of a request.
    pub(crate) fn forwarded(self, request: &Frame, bound: Bound, number: u8) -> Frame {
        request.with(|frame| {
            (frame.to, frame.from) = (backend_mac(number), L1);
            frame.packet = self.translated(&frame.packet, bound, number);
            frame.packet.hops -= 1;
        })
    }

    /// A client's packet as backend `number` knows it, but for the hops.
    pub(crate) fn translated(self, packet: &Packet, bound: Bound, number: u8) -> Packet {
        packet.with(|packet| {
            (packet.source, packet.destination) = (bound.0, backend(self.v4, number));
            *packet.body.source_port() = bound.1;
            *packet.body.destination_port() = self.to_port();
        })
    }

    /// The answer of backend `number`.
    pub(crate) fn answer(self, (source, port): Bound, number: u8) -> Frame {
        let body = self.body(self.to_port(), port);
        from_backend(number, Packet::new(backend(self.v4, number), source, body))
    }

    /// What the client gets of an answer.
    pub(crate) fn answered(self, answer: &Frame, (client, port): (IpAddr, u16)) -> Frame {
        answer.with(|frame| {
            (frame.to, frame.from) = (CLIENT, L0);
            (frame.packet.source, frame.packet.destination) = (self.vip(), client);
            *frame.packet.body.source_port() = self.port();
            *frame.packet.body.destination_port() = port;
            frame.packet.hops -= 1;
        })
    }

    /// Begins a flow: where it comes from now, and the backend it goes to.
    #[track_caller]
    pub(crate) fn begin(self, subject: &Subject<'_>, client: IpAddr, port: u16) -> (Bound, u8) {
        self.goes(subject, &flagged(&self.request(client, port), SYN))
    }

    /// Where a plain request comes from now, and the backend it goes to; the whole frame is
    /// looked at.
    #[track_caller]
    pub(crate) fn goes(self, subject: &Subject<'_>, request: &Frame) -> (Bound, u8) {
        let (action, frame) = subject.run_uncounted(request);
        assert_eq!(action, Action::Redirect, "{}", self.name());
        let bound = source_of(&frame);
        let number = frame[5] - 0x10;
        let expected = self.forwarded(request, bound, number).bytes();
        assert_valid(&expected);
        assert!(frame == expected, "{}: another frame", self.name());
        (bound, number)
    }
}

/// Source address and port of a frame without tags and options.
pub(crate) fn source_of(frame: &[u8]) -> Bound {
    let (address, l4) = if frame[14] >> 4 == 4 {
        let octets: [u8; 4] = frame[26..30].try_into().expect("four bytes");
        (IpAddr::from(octets), 34)
    } else {
        let octets: [u8; 16] = frame[22..38].try_into().expect("sixteen bytes");
        (IpAddr::from(octets), 54)
    };
    (address, u16::from_be_bytes([frame[l4], frame[l4 + 1]]))
}

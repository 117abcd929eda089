//! Every combination of mode, IP version and protocol: a service with one
//! backend, the frames that go through it, and what becomes of them.

use std::net::IpAddr;

use lb_tests::harness::{CLIENT_V4, CLIENT_V6, DSR_V4, DSR_V6, Mode, NAT_V4, NAT_V6, Protocol};

use super::{
    frame::{ACK, Frame, Packet, Tcp, Udp},
    network::{CLIENT, L0, L1, backend, backend_mac},
    setup::{Service, Setup},
    subject::Subject,
};

/// The client's port.
pub(crate) const PORT: u16 = 40_000;

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) v4: bool,
    pub(crate) protocol: Protocol,
}

impl Case {
    /// All eight.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for mode in [Mode::Nat, Mode::Dsr] {
            for v4 in [true, false] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    all.push(Self { mode, v4, protocol });
                }
            }
        }
        all
    }

    /// Those of mode `nat`.
    pub(crate) fn nat() -> Vec<Self> {
        Self::all().into_iter().filter(|case| case.mode == Mode::Nat).collect()
    }

    /// A configuration with a service for each.
    pub(crate) fn setup() -> Setup {
        Setup::new(Self::all().iter().map(|case| case.service(&[1])))
    }

    /// Runs `test` on each, in a balancer with all their services.
    pub(crate) fn each(
        test: impl Fn(&Subject<'_>, Self) + Send + Sync,
    ) -> lb_tests::harness::Result<()> {
        Subject::with(&Self::setup(), |subject| {
            Self::all().into_iter().for_each(|case| test(subject, case));
        })
    }

    /// Its service, with these backends.
    pub(crate) fn service(self, backends: &[u8]) -> Service {
        let service = Service::new(self.mode, self.vip(), self.protocol, self.service_port());
        let port = (self.mode == Mode::Nat).then(|| self.backend_port());
        backends.iter().fold(service, |service, &n| service.to(backend(self.v4, n), port))
    }

    pub(crate) fn name(self) -> String {
        format!("{}, {}, {}", self.mode, if self.v4 { "IPv4" } else { "IPv6" }, self.protocol)
    }

    pub(crate) fn vip(self) -> IpAddr {
        match (self.mode, self.v4) {
            (Mode::Nat, true) => NAT_V4,
            (Mode::Nat, false) => NAT_V6,
            (_, true) => DSR_V4,
            (_, false) => DSR_V6,
        }
    }

    pub(crate) fn client(self) -> IpAddr {
        client(self.v4)
    }

    pub(crate) fn service_port(self) -> u16 {
        if self.protocol == Protocol::Tcp { 80 } else { 53 }
    }

    pub(crate) fn backend_port(self) -> u16 {
        match (self.mode, self.protocol) {
            (Mode::Nat, Protocol::Tcp) => 8080,
            (Mode::Nat, Protocol::Udp) => 5353,
            (_, _) => self.service_port(),
        }
    }

    /// A packet in the midst of a flow, from the client.
    pub(crate) fn request(self) -> Frame {
        self.request_from(self.client(), PORT)
    }

    pub(crate) fn request_from(self, client: IpAddr, port: u16) -> Frame {
        from_client(Packet::new(client, self.vip(), self.body(port, self.service_port())))
    }

    fn body(self, source: u16, destination: u16) -> super::frame::Body {
        match self.protocol {
            Protocol::Tcp => Tcp::body(source, destination, ACK),
            Protocol::Udp => Udp::body(source, destination),
        }
    }

    /// What backend `number` gets of a request.
    pub(crate) fn forwarded(self, request: &Frame, number: u8) -> Frame {
        request.with(|frame| {
            (frame.to, frame.from) = (backend_mac(number), L1);
            frame.packet = self.translated(&frame.packet, number);
            frame.packet.hops -= 1;
        })
    }

    /// A packet of the client's as a backend knows it, but for the hops.
    pub(crate) fn translated(self, packet: &Packet, number: u8) -> Packet {
        packet.with(|packet| {
            if self.mode == Mode::Nat {
                packet.destination = backend(self.v4, number);
                *packet.body.destination_port() = self.backend_port();
            }
        })
    }

    /// The answer of backend `number`, as it sends it.
    pub(crate) fn answer(self, number: u8) -> Frame {
        let source = if self.mode == Mode::Nat { backend(self.v4, number) } else { self.vip() };
        let body = self.body(self.backend_port(), PORT);
        from_backend(number, Packet::new(source, self.client(), body))
    }

    /// What the client gets of a backend's answer (mode `nat`).
    pub(crate) fn answered(self, answer: &Frame) -> Frame {
        answer.with(|frame| {
            (frame.to, frame.from) = (CLIENT, L0);
            frame.packet.source = self.vip();
            *frame.packet.body.source_port() = self.service_port();
            frame.packet.hops -= 1;
        })
    }
}

/// The client's address.
pub(crate) fn client(v4: bool) -> IpAddr {
    if v4 { CLIENT_V4 } else { CLIENT_V6 }
}

/// One of many clients, which are all behind the one.
pub(crate) fn client_number(v4: bool, number: u32) -> IpAddr {
    let [_, b, c, d] = number.to_be_bytes();
    if v4 {
        IpAddr::from([10, 64 | b & 63, c, d])
    } else {
        let (high, low) = ((number >> 16) as u16, number as u16);
        IpAddr::from([0xfd00, 0x64, 0, 0, 1, 0, high, low])
    }
}

/// A frame that a client sends to the balancer.
pub(crate) fn from_client(packet: Packet) -> Frame {
    Frame { to: L0, from: CLIENT, tags: Vec::new(), packet }
}

/// A frame that a backend sends to the balancer.
pub(crate) fn from_backend(number: u8, packet: Packet) -> Frame {
    Frame { to: L1, from: backend_mac(number), tags: Vec::new(), packet }
}

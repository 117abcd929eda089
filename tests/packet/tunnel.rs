//! Modes `ipip` and `gue`: the backend gets the client's packet in another one.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{addr::from_bytes, backend::flags, stats::Counter};
use lb_tests::harness::{DSR_V4, DSR_V6, Mode, Protocol, Result, tunnel_sources};

use super::{
    affinity::flagged,
    case::{PORT, client, client_number, from_client},
    frame::{
        ACK, Body, DONT_FRAGMENT, Extension, FIN, Frame, Icmp, Packet, QINQ, SYN, Tcp, Udp, VLAN,
    },
    network::{L1, backend, backend_mac},
    refuse::answer,
    setup::{Service, Setup},
    subject::{Action, Subject, eventually},
};

/// Port of GUE (IANA).
pub(crate) const GUE: u16 = 6080;

/// A mode, the families of the VIP and of its backends, and the protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) mode: Mode,
    pub(crate) v4: bool,
    pub(crate) outer_v4: bool,
    pub(crate) protocol: Protocol,
}

impl Way {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for mode in [Mode::Ipip, Mode::Gue] {
            for (v4, outer_v4) in [(true, true), (true, false), (false, true), (false, false)] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    all.push(Self { mode, v4, outer_v4, protocol });
                }
            }
        }
        all
    }

    pub(crate) fn setup(backends: &[u8]) -> Setup {
        let services = Self::all().into_iter().map(|way| {
            let service = Service::new(way.mode, way.vip(), way.protocol, way.port());
            let to =
                |service: Service, number: &u8| service.to(backend(way.outer_v4, *number), None);
            backends.iter().fold(service, to)
        });
        Setup::new(services).node(&tunnel_sources())
    }

    pub(crate) fn vip(self) -> IpAddr {
        if self.v4 { DSR_V4 } else { DSR_V6 }
    }

    /// A port for each.
    fn port(self) -> u16 {
        80 + u16::from(self.mode == Mode::Gue) + 2 * u16::from(self.outer_v4)
    }

    pub(crate) fn name(self) -> String {
        let family = |v4| if v4 { "IPv4" } else { "IPv6" };
        let Self { mode, v4, outer_v4, protocol } = self;
        format!("{mode}, {protocol} in {} in {}", family(v4), family(outer_v4))
    }

    pub(super) fn request_from(self, client: IpAddr, port: u16) -> Frame {
        let body = match self.protocol {
            Protocol::Tcp => Tcp::body(port, self.port(), ACK),
            Protocol::Udp => Udp::body(port, self.port()),
        };
        from_client(Packet::new(client, self.vip(), body))
    }

    pub(crate) fn request(self) -> Frame {
        self.request_from(client(self.v4), PORT)
    }

    fn overhead(self) -> usize {
        let ip = if self.outer_v4 { 20 } else { 40 };
        ip + if self.mode == Mode::Gue { 8 } else { 0 }
    }

    /// What a backend gets of a request, up to what differs from flow to flow: that is
    /// taken from what `found` has.
    fn wrapped(self, request: &Frame, number: u8, found: &[u8]) -> Frame {
        let inner = request.packet.with(|packet| packet.hops -= 1);
        let bytes = inner.bytes();
        let class = if self.v4 { bytes[1] } else { bytes[0] << 4 | bytes[1] >> 4 };
        let outer = &found[request.l3()..];
        let source = if self.outer_v4 {
            IpAddr::from([outer[12], outer[13], outer[14], outer[15]])
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&outer[8..24]).unwrap())
        };
        assert!(is_source(source), "{}: {source}", self.name());
        let body = if self.mode == Mode::Ipip {
            Body::Other(if self.v4 { 4 } else { 41 }, bytes)
        } else {
            let header = if self.outer_v4 { 20 } else { 40 };
            let port = u16::from_be_bytes([outer[header], outer[header + 1]]);
            assert!(port >= 0xc000, "{}: {port}", self.name());
            // Over IPv6 where the packet has one as well.
            let has_one = match &inner.body {
                Body::Udp(udp) => udp.checksum,
                _ => true,
            };
            let whole = inner.extensions.is_empty();
            let checksum = !self.outer_v4 && has_one && whole;
            Body::Udp(Udp { source: port, destination: GUE, checksum, payload: bytes })
        };
        let label = u32::from_be_bytes([0, outer[1], outer[2], outer[3]]) & 0xf_ffff;
        let packet = Packet::new(source, backend(self.outer_v4, number), body).with(|packet| {
            (packet.identification, packet.fragment) = (0, DONT_FRAGMENT);
            (packet.class, packet.label) = (class, u32::from(class) << 20 | label);
        });
        let (to, from) = (backend_mac(number), L1);
        Frame { to, from, tags: request.tags.clone(), packet }
    }
}

/// UDP over IPv4 may do without (RFC 768).
fn without_checksum(frame: &mut Frame) {
    if let Body::Udp(udp) = &mut frame.packet.body {
        udp.checksum = frame.packet.source.is_ipv6();
    }
}

fn is_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [10, 255, 7],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 0xff, 0, 7],
    }
}

/// Asserts that backend 1 gets it, whole and wrapped.
#[track_caller]
fn assert_wrapped(subject: &Subject<'_>, way: Way, what: &str, request: &Frame) {
    let (_, found) = subject.run_uncounted(request);
    let expected = way.wrapped(request, 1, &found);
    let what = format!("{}: {what}", way.name());
    subject.forwards(&what, request, &expected, backend(way.outer_v4, 1));
}

#[test]
fn a_packet_reaches_its_backend_in_another() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let request = way.request();
            let tagged = |tags: &[(u16, u16)]| request.with(|frame| frame.tags = tags.to_vec());
            let long = request.with(|frame| {
                if way.v4 {
                    frame.packet.options = vec![1; 40];
                } else {
                    frame.packet.extensions = vec![Extension::routing()];
                }
            });
            let empty = request.with(|frame| frame.packet.body.payload().clear());
            for (what, frame) in [
                ("in the midst", request.clone()),
                ("one tag", tagged(&[(VLAN, 7)])),
                ("two tags", tagged(&[(QINQ, 8), (VLAN, 9)])),
                ("options", long),
                ("no payload", empty),
                ("no checksum", request.with(without_checksum)),
                ("SYN", flagged(&request, SYN)),
                ("FIN", flagged(&request, FIN | ACK)),
                (
                    "class",
                    request.with(|frame| {
                        (frame.packet.class, frame.packet.label) = (0xbb, 0xbb0_0005);
                    }),
                ),
            ] {
                assert_wrapped(subject, way, what, &frame);
            }
        }
    })
}

#[test]
fn padding_behind_a_packet_is_none_of_it() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let request = way.request();
            let padded = [request.bytes(), vec![0xff; 9]].concat();
            let (action, found) = subject.run_uncounted(padded);
            assert_eq!(action, Action::Redirect);
            let expected = [way.wrapped(&request, 1, &found).bytes(), vec![0xff; 9]].concat();
            assert_eq!(found, expected, "{}", way.name());
        }
    })
}

#[test]
fn flows_differ_in_what_load_is_spread_by() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            let mut sources = BTreeSet::new();
            for number in 0..200 {
                let request = way.request_from(client_number(way.v4, number), PORT);
                let outer = |frame: &Frame| {
                    let (_, found) = subject.run_uncounted(frame);
                    way.wrapped(frame, 1, &found).packet
                };
                let (first, second) = (outer(&request), outer(&request));
                assert_eq!(first.source, second.source);
                assert_eq!(first.bytes(), second.bytes(), "{}", way.name());
                sources.insert(first.source);
            }
            // Of 256 addresses 200 flows have 139 by chance.
            assert!(sources.len() > 100, "{}: {}", way.name(), sources.len());
        }
    })
}

#[test]
fn what_does_not_fit_once_it_is_wrapped_is_answered() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        let is_known = || {
            let entries = (1..64).map(|id| subject.backends.get(&id, 0).expect("an entry"));
            let mut used = entries.filter(|entry| entry.flags & flags::IN_USE != 0);
            used.all(|entry| entry.flags & flags::RESOLVED != 0)
        };
        assert!(eventually(is_known));
        for way in Way::all() {
            let most = 1500 - way.overhead();
            let sized = |size: usize| {
                let mut frame = way.request();
                let rest = frame.bytes().len() - frame.l3() - frame.packet.body.payload().len();
                *frame.packet.body.payload() = vec![7; size - rest];
                frame
            };
            assert_wrapped(subject, way, "as long as may be", &sized(most));
            let long = sized(most + 1);
            // Told as well to who lets it be cut, which nobody here can.
            let cut = long.with(|frame| frame.packet.fragment = 0);
            for long in [long, cut] {
                let mut payload = long.packet.bytes();
                payload.truncate(if way.v4 { 576 - 28 } else { 1280 - 48 });
                let [.., high, low] = most.to_be_bytes();
                let (kind, code) = if way.v4 { (3, 4) } else { (2, 0) };
                let icmp = Icmp { kind, code, rest: [0, 0, high, low], payload };
                let expected = answer(&long, Body::Icmp(icmp));
                subject.answers(&way.name(), &long, &expected, Counter::TooBig);
            }
        }
    })
}

#[test]
fn an_error_about_an_answer_reaches_the_backend_wrapped() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        for way in Way::all() {
            // The flow's backend sent this to the client, and a router says that it is
            // too long.
            let body = match way.protocol {
                Protocol::Tcp => Tcp::body(way.port(), PORT, ACK),
                Protocol::Udp => Udp::body(way.port(), PORT),
            };
            let sent = Packet::new(way.vip(), client(way.v4), body);
            let (kind, code) = if way.v4 { (3, 4) } else { (2, 0) };
            let icmp = Icmp { kind, code, rest: [0, 0, 5, 0], payload: sent.quote(8) };
            let router = client_number(way.v4, 77);
            let error = from_client(Packet::new(router, way.vip(), Body::Icmp(icmp)));
            assert_wrapped(subject, way, "an error", &error);
        }
    })
}

#[test]
fn what_a_router_says_of_the_way_to_a_backend_is_heeded() -> Result<()> {
    Subject::with(&Way::setup(&[1]), |subject| {
        // Each says less than the one before: more is no news.
        for (way, mtu) in Way::all().into_iter().zip((1300..1500_u16).rev().step_by(7)) {
            let (_, found) = subject.run_uncounted(&way.request());
            let outer = way.wrapped(&way.request(), 1, &found).packet;
            let too_big = if way.outer_v4 { (3, 4) } else { (2, 0) };
            let error = |(kind, code), mtu: u16, quoted: &Packet| {
                let [high, low] = mtu.to_be_bytes();
                let icmp = Icmp { kind, code, rest: [0, 0, high, low], payload: quoted.quote(8) };
                let packet = Packet::new(backend(way.outer_v4, 3), outer.source, Body::Icmp(icmp));
                Frame { to: L1, from: backend_mac(3), tags: Vec::new(), packet }
            };
            let mtus = || -> BTreeSet<u32> {
                let entries = (1..64).map(|id| subject.backends.get(&id, 0).expect("an entry"));
                let serving = entries.filter(|entry| entry.flags & flags::SERVING != 0);
                let same = serving.filter(|entry| {
                    let gue = entry.flags & flags::GUE != 0;
                    from_bytes(entry.addr).is_ipv4() == way.outer_v4
                        && gue == (way.mode == Mode::Gue)
                });
                same.map(|entry| entry.mtu).collect()
            };
            let before = mtus();
            let stranger = outer.with(|packet| packet.source = backend(way.outer_v4, 2));
            let elsewhere = outer.with(|packet| packet.destination = backend(way.outer_v4, 2));
            for (what, error) in [
                ("another error", error((3, 1), mtu, &outer)),
                ("about another's packet", error(too_big, mtu, &stranger)),
                ("to no backend", error(too_big, mtu, &elsewhere)),
            ] {
                subject.drops(&format!("{}: {what}", way.name()), &error, Counter::TunnelError);
                assert_eq!(mtus(), before);
            }
            subject.drops(&way.name(), &error(too_big, mtu, &outer), Counter::TunnelError);
            let fits = BTreeSet::from([u32::from(mtu) - way.overhead() as u32]);
            assert!(eventually(|| mtus() == fits), "{}: {:?}, {fits:?}", way.name(), mtus());
        }
    })
}

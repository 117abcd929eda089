//! `firewall.host = "drop"`: what still reaches the balancer's own addresses.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lb_common::stats::Counter;
use lb_tests::harness::{CLIENT_V4, Protocol, Result};

use super::{
    case::{Case, client, from_backend, from_client},
    forward::assert_forwarded,
    frame::{ACK, Body, Frame, Icmp, Packet, RST, SYN, Tcp, Udp},
    network::backend,
    policy::neighbour_discovery,
    setup::Setup,
    subject::{Subject, eventually},
};

fn guarded() -> Setup {
    Case::setup().firewall("host = \"drop\"\nallow = [\"tcp/22\", \"udp/161-162\"]")
}

/// The balancer's own addresses.
fn own(v4: bool) -> [IpAddr; 2] {
    let own = if v4 { ["10.1.0.1", "10.2.0.1"] } else { ["fd00:1::1", "fd00:2::1"] };
    own.map(|text| text.parse().unwrap())
}

fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Frame {
    from_client(Packet::new(from.ip(), to.ip(), Tcp::body(from.port(), to.port(), flags)))
}

fn udp(from: SocketAddr, to: SocketAddr) -> Frame {
    from_client(Packet::new(from.ip(), to.ip(), Udp::body(from.port(), to.port())))
}

/// A peer of the balancer's that never answers.
fn peer(v4: bool, port: u16) -> SocketAddr {
    (backend(v4, 8), port).into()
}

#[test]
fn closed_ports_of_the_host_are_protected() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            for own in own(v4) {
                for port in [1, 23, 80, 8080, 33_000, 65_535] {
                    let (from, to) = ((client(v4), 4711).into(), (own, port).into());
                    for flags in [SYN, ACK, SYN | ACK, RST] {
                        subject.drops("tcp", &tcp(from, to, flags), Counter::HostProtected);
                    }
                    subject.drops("udp", &udp(from, to), Counter::HostProtected);
                }
            }
        }
    })
}

#[test]
fn the_host_is_open_unless_it_is_to_be_protected() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        for v4 in [true, false] {
            let (from, to) = ((client(v4), 4711).into(), (own(v4)[0], 8080).into());
            subject.passes("tcp", &tcp(from, to, SYN));
            subject.passes("udp", &udp(from, to));
        }
    })
}

#[test]
fn allowed_ports_of_the_host_are_open_and_services_go_on() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            for own in own(v4) {
                let from = (client(v4), 4711).into();
                for flags in [SYN, ACK, RST] {
                    subject.passes("tcp 22", &tcp(from, (own, 22).into(), flags));
                }
                subject.drops("udp 22", &udp(from, (own, 22).into()), Counter::HostProtected);
                subject.passes("udp 161", &udp(from, (own, 161).into()));
                subject.passes("udp 162", &udp(from, (own, 162).into()));
                let frame = tcp(from, (own, 161).into(), SYN);
                subject.drops("tcp 161", &frame, Counter::HostProtected);
            }
        }
        for case in Case::all() {
            assert_forwarded(subject, case, "a service", &case.request());
        }
    })
}

#[test]
fn a_listening_socket_opens_nothing() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            let from = (client(v4), 4711).into();
            for own in own(v4) {
                let listener = TcpListener::bind((own, 0)).unwrap();
                let at = listener.local_addr().unwrap();
                subject.drops("listener", &tcp(from, at, SYN), Counter::HostProtected);
                subject.drops("listener", &tcp(from, at, ACK), Counter::HostProtected);
                // A server's port, below those of the host's own connections.
                let server = UdpSocket::bind((own, 5000)).unwrap();
                let frame = udp(from, server.local_addr().unwrap());
                subject.drops("server", &frame, Counter::HostProtected);
            }
        }
    })
}

#[test]
fn replies_to_a_connection_that_the_host_opens_pass() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            let peer = peer(v4, 4712);
            // Nobody answers: the socket stays in SYN-SENT.
            thread::spawn(move || TcpStream::connect_timeout(&peer, Duration::from_secs(5)));
            let mut local = None;
            assert!(eventually(|| {
                local = syn_sent(peer);
                local.is_some()
            }));
            let local = SocketAddr::from((own(v4)[1], local.unwrap()));
            for flags in [SYN | ACK, RST | ACK, ACK] {
                subject.passes("a reply", &tcp(peer, local, flags));
            }
            let other = SocketAddr::from((peer.ip(), 4713));
            let frame = tcp(other, local, SYN | ACK);
            subject.drops("another port of the peer", &frame, Counter::HostProtected);
        }
    })
}

/// Local port of a socket of this namespace that is connecting to `peer`.
fn syn_sent(peer: SocketAddr) -> Option<u16> {
    let name = if peer.is_ipv4() { "tcp" } else { "tcp6" };
    let table = fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok()?;
    let remote_port = format!(":{:04X}", peer.port());
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        (remote.ends_with(&remote_port) && state == "02")
            .then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    })
}

#[test]
fn a_connection_of_the_hosts_own_works() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        let listener = subject.lab.client.within(|| TcpListener::bind((CLIENT_V4, 4714)));
        let listener = listener.unwrap().unwrap();
        let there = listener.local_addr().unwrap();
        let stream = TcpStream::connect_timeout(&there, Duration::from_secs(5)).unwrap();
        let here = stream.local_addr().unwrap();
        subject.passes("a segment", &tcp(there, here, ACK));
        let stranger = SocketAddr::from((CLIENT_V4, 4715));
        subject.drops("a stranger's", &tcp(stranger, here, ACK), Counter::HostProtected);
    })
}

#[test]
fn answers_to_datagrams_of_the_hosts_own_pass() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            let peer = peer(v4, 53);
            // A resolver's socket, not connected, on a port of the system's choice.
            let resolver = UdpSocket::bind((own(v4)[1], 0)).unwrap();
            let here = resolver.local_addr().unwrap();
            subject.passes("an answer", &udp(peer, here));
            // Connected, on a port of its own choice.
            let time = UdpSocket::bind((own(v4)[1], 1123)).unwrap();
            time.connect(peer).unwrap();
            let here = time.local_addr().unwrap();
            subject.passes("an answer", &udp(peer, here));
            let stranger = SocketAddr::from((peer.ip(), 54));
            subject.drops("a stranger's", &udp(stranger, here), Counter::HostProtected);
        }
    })
}

#[test]
fn messages_that_the_stack_needs_pass() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for frame in neighbour_discovery() {
            subject.passes("neighbour discovery", frame);
        }
        for v4 in [true, false] {
            // Echo and its reply, unreachable, too big, time exceeded, bad
            // parameter; membership (RFC 2710, RFC 3810).
            let kinds: &[u8] =
                if v4 { &[0, 3, 8, 11, 12] } else { &[1, 2, 3, 4, 128, 129, 130, 131, 132, 143] };
            for (own, &kind) in own(v4).iter().flat_map(|own| kinds.iter().map(move |k| (*own, k)))
            {
                let quote = Packet::new(own, client(v4), Udp::body(40_000, 53)).bytes();
                let body = Body::Icmp(Icmp { kind, code: 0, rest: [0; 4], payload: quote });
                let frame = from_client(Packet::new(client(v4), own, body));
                subject.passes(&format!("type {kind}"), &frame);
            }
        }
    })
}

/// What a backend of mode `nat` sends from its service's port to `here`.
fn answer_to(case: Case, here: SocketAddr) -> Frame {
    case.answer(1).with(|frame| {
        frame.packet.destination = here.ip();
        *frame.packet.body.destination_port() = here.port();
    })
}

#[test]
fn answers_of_a_backend_to_the_hosts_own_connection_pass() -> Result<()> {
    for setup in [Case::setup(), guarded()] {
        Subject::with(&setup, |subject| {
            for case in Case::nat().into_iter().filter(|case| case.protocol == Protocol::Udp) {
                // As the agent's probes will do: from the balancer to a backend's
                // port, whose answers to clients are rewritten.
                let socket = UdpSocket::bind((own(case.v4)[1], 0)).unwrap();
                let here = socket.local_addr().unwrap();
                subject.passes(&case.name(), &answer_to(case, here));
            }
        })?;
    }
    Subject::with(&Case::setup(), |subject| {
        for case in Case::nat() {
            subject.passes(&case.name(), &answer_to(case, (own(case.v4)[1], 4711).into()));
        }
    })
}

#[test]
fn a_backends_port_opens_no_port_of_a_protected_host() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for case in Case::nat() {
            let frame = answer_to(case, (own(case.v4)[1], 4711).into());
            subject.drops(&case.name(), &frame, Counter::HostProtected);
        }
    })
}

#[test]
fn an_address_that_the_host_gets_later_is_protected() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        let later = ["192.0.2.99", "2001:db8:99::1"];
        for address in later {
            let address: IpAddr = address.parse().unwrap();
            let frame = tcp((client(address.is_ipv4()), 1).into(), (address, 23).into(), SYN);
            subject.passes("nobody's address", &frame);
        }
        subject
            .lab
            .balancer
            .ip("addr add 192.0.2.99/32 dev l0\n addr add 2001:db8:99::1/128 dev l0 nodad")
            .unwrap();
        for address in later {
            let address: IpAddr = address.parse().unwrap();
            let frame = tcp((client(address.is_ipv4()), 1).into(), (address, 23).into(), SYN);
            let dropped = || subject.counter(Counter::HostProtected);
            assert!(eventually(|| {
                let before = dropped();
                subject.run_uncounted(&frame);
                dropped() > before
            }));
            subject.drops("the host's address", &frame, Counter::HostProtected);
        }
    })
}

#[test]
fn packets_for_others_pass_a_guarded_host() -> Result<()> {
    Subject::with(&guarded(), |subject| {
        for v4 in [true, false] {
            let others = if v4 {
                ["192.0.2.1", "224.0.0.251", "255.255.255.255"]
            } else {
                ["2001:db8:1::1", "ff02::fb", "fe80::99"]
            };
            for other in others {
                let other: IpAddr = other.parse().unwrap();
                let from = (client(v4), 4711).into();
                subject.passes("tcp", &tcp(from, (other, 23).into(), SYN));
                subject.passes("udp", &udp(from, (other, 5353).into()));
                let body = Body::Other(47, vec![0; 32]);
                subject.passes("gre", &from_backend(1, Packet::new(client(v4), other, body)));
            }
        }
    })
}

//! QUIC packets go where their connection ID says, wherever they come from.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use lb_common::{flow::FlowState, stats::Counter};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{goes_to, spread},
    case::{Case, PORT, client_number},
    frame::{Extension, Frame, Icmp, QINQ, VLAN},
    network::backend,
    setup::{Backend, Setup},
    subject::{Action, Subject},
    tunnel::Way,
};

/// A configuration: rotation, octets of a server ID, octets of a nonce.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config(u8, usize, usize);

pub(super) const PLAIN: Config = Config(0, 2, 4);
const LONGER: Config = Config(5, 3, 16);
/// Of the same server IDs as [`PLAIN`].
const LATER: Config = Config(6, 2, 7);

impl Config {
    fn table(self) -> String {
        let Self(id, server_id, nonce) = self;
        format!(
            "[[service.quic]]\nid = {id}\nserver_id_length = {server_id}\nnonce_length = {nonce}"
        )
    }

    /// The ID of backend `number`.
    fn server_id(self, number: u8) -> Vec<u8> {
        (0..self.1).map(|at| 0xa0 + at as u8).chain([number]).skip(1).collect()
    }

    /// A connection ID of backend `number`; `salt` tells it from others.
    fn cid(self, number: u8, salt: u8) -> Vec<u8> {
        let nonce = (0..self.2).map(|at| salt.wrapping_mul(31) ^ at as u8);
        [self.0 << 5 | salt & 0x1f].into_iter().chain(self.server_id(number)).chain(nonce).collect()
    }
}

/// Gives UDP services connection IDs of these configurations, and backends IDs by their
/// numbers.
fn named(mut setup: Setup, configs: &[Config]) -> Setup {
    for service in setup.services.iter_mut().filter(|one| one.protocol == Protocol::Udp) {
        for config in configs {
            *service = service.clone().line(&config.table());
        }
        for at in &mut service.backends {
            let number =
                (1..=9).find(|&n| [true, false].map(|v4| backend(v4, n)).contains(&at.address));
            let ids = configs.iter().map(|config| {
                let id = config.server_id(number.expect("a backend of the network"));
                id.iter().map(|octet| format!("{octet:02x}")).collect::<String>()
            });
            at.server_ids = ids.collect();
            at.server_ids.sort();
            at.server_ids.dedup();
        }
    }
    setup
}

pub(super) fn quic(backends: &[u8], configs: &[Config]) -> Setup {
    named(spread(backends), configs)
}

fn cases() -> Vec<Case> {
    Case::all().into_iter().filter(|case| case.protocol == Protocol::Udp).collect()
}

/// A short header, the ID, and what is encrypted (RFC 9000, section 17.3).
fn short(cid: &[u8]) -> Vec<u8> {
    [&[0x41], cid, &[0x5a; 20]].concat()
}

/// A long header (section 17.2).
fn long(cid: &[u8]) -> Vec<u8> {
    [&[0xe0, 0, 0, 0, 1, cid.len() as u8], cid, &[4, 1, 2, 3, 4], &[0x5a; 20]].concat()
}

fn carrying(request: &Frame, payload: &[u8]) -> Frame {
    request.with(|frame| *frame.packet.body.payload() = payload.to_vec())
}

/// Runs a frame that is to be forwarded: to whom, and what was counted.
#[track_caller]
fn sent(subject: &Subject<'_>, frame: &Frame) -> (IpAddr, BTreeMap<&'static str, u64>) {
    let outcome = subject.run(frame);
    assert_eq!(outcome.traffic.len(), 1, "{outcome:?}");
    (outcome.traffic[0].backend, outcome.counted)
}

fn by_id() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([(Counter::QuicRouted.name(), 1)])
}

fn by_flow() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([(Counter::QuicUnrouted.name(), 1)])
}

#[test]
fn packets_go_where_their_connection_id_says_wherever_they_come_from() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN, LONGER]), |subject| {
        for case in cases() {
            for (config, number) in
                [PLAIN, LONGER].into_iter().flat_map(|c| [1, 2, 3].map(|n| (c, n)))
            {
                for at in 0..6 {
                    let client = client_number(case.v4, u32::from(at));
                    let request = case.request_from(client, PORT + u16::from(at));
                    let cid = config.cid(number, at);
                    for payload in [short(&cid), long(&cid)] {
                        let frame = carrying(&request, &payload);
                        let outcome = subject.run(&frame);
                        let what = format!("{}: {config:?} {number} from {client}", case.name());
                        let expected = case.forwarded(&frame, number).bytes();
                        assert_eq!(outcome.frame, expected, "{what}: {outcome:?}");
                        assert_eq!(outcome.action, Action::Redirect, "{what}");
                        assert_eq!(outcome.traffic[0].backend, backend(case.v4, number), "{what}");
                        assert_eq!(outcome.counted, by_id(), "{what}");
                    }
                }
            }
        }
    })
}

#[test]
fn connection_ids_are_found_behind_tags_options_and_extension_headers() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN]), |subject| {
        for case in cases() {
            let frame = carrying(&case.request(), &short(&PLAIN.cid(2, 1)));
            let tagged = frame.with(|frame| frame.tags = vec![(QINQ, 8), (VLAN, 9)]);
            let longer = frame.with(|frame| {
                if case.v4 {
                    frame.packet.options = vec![1; 40];
                } else {
                    frame.packet.extensions =
                        vec![Extension::options(Extension::HOP_BY_HOP, 30), Extension::routing()];
                }
            });
            for frame in [tagged, longer] {
                assert_eq!(
                    sent(subject, &frame),
                    (backend(case.v4, 2), by_id()),
                    "{}",
                    case.name()
                );
            }
        }
    })
}

#[test]
fn tunnels_carry_them_as_well() -> Result<()> {
    Subject::with(&named(Way::setup(&[1, 2, 3]), &[PLAIN]), |subject| {
        for way in Way::all().into_iter().filter(|way| way.protocol == Protocol::Udp) {
            for number in 1..=3 {
                let client = client_number(way.v4, number.into());
                let frame =
                    carrying(&way.request_from(client, PORT), &short(&PLAIN.cid(number, 3)));
                let to = backend(way.outer_v4, number);
                assert_eq!(sent(subject, &frame), (to, by_id()), "{}", way.name());
            }
        }
    })
}

/// Payloads whose connection ID says nothing.
fn unroutable() -> Vec<(&'static str, Vec<u8>)> {
    let cid = PLAIN.cid(2, 1);
    let with = |at: usize, octet: u8| {
        let mut cid = cid.clone();
        cid[at] = octet;
        cid
    };
    let mut cut = short(&cid);
    cut.truncate(20);
    let mut long_cut = long(&cid);
    long_cut.truncate(25);
    vec![
        ("another configuration", short(&with(0, 1 << 5))),
        ("no configuration", short(&with(0, 7 << 5))),
        ("a server ID of nobody", short(&with(2, 77))),
        ("a server ID of nobody in a long header", long(&with(1, 0))),
        ("an ID that a client chose", long(&[0xe3; 8])),
        ("an ID that is too short", long(&cid[..6])),
        ("an ID without octets", long(&[])),
        ("the ID of a longer configuration", short(&[&[5 << 5], &cid[1..]].concat())),
        ("a short header that is too short", cut),
        ("a long header that is too short", long_cut),
        ("one byte", vec![0x41]),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn all_others_go_by_addresses_and_ports() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN, LONGER]), |subject| {
        for case in cases() {
            let mut seen = Vec::new();
            for (at, (what, payload)) in (0..).zip(unroutable()) {
                for number in 0..8 {
                    let client = client_number(case.v4, 100 * at + number);
                    let frame = carrying(&case.request_from(client, PORT), &payload);
                    let expected = subject.choice(&frame).current;
                    for _ in 0..2 {
                        let found = sent(subject, &frame);
                        assert_eq!(found, (expected, by_flow()), "{}: {what}", case.name());
                    }
                    let entry = subject.entry(&frame).expect("a flow as any other");
                    assert_eq!(entry.state, FlowState::Established as u8, "{what}");
                    seen.push(expected);
                }
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 3, "{}", case.name());
        }
    })
}

/// What is behind the datagram in its frame is nobody's connection ID.
#[test]
fn a_connection_id_lies_within_its_datagram() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN]), |subject| {
        for case in cases() {
            let mut payload = short(&PLAIN.cid(2, 1));
            let rest = payload.split_off(20);
            let frame = carrying(&case.request(), &payload);
            let bytes = [frame.bytes(), rest].concat();
            let outcome = subject.run(bytes);
            assert_eq!(outcome.counted, by_flow(), "{}: {outcome:?}", case.name());
        }
    })
}

#[test]
fn a_connection_keeps_its_server_while_that_drains_and_no_longer() -> Result<()> {
    let all = quic(&[1, 2, 3], &[PLAIN]);
    let mut drained = all.clone();
    drained.services.iter_mut().for_each(|service| service.backends[1].weight = 0);
    let mut removed = all.clone();
    removed.services.iter_mut().for_each(|service| {
        service.backends.retain(|one| one.weight != 0);
        service.backends.remove(1);
    });
    Subject::with(&all, |subject| {
        let frame = |case: Case, client: u32| {
            let request = case.request_from(client_number(case.v4, client), PORT);
            carrying(&request, &short(&PLAIN.cid(2, 9)))
        };
        let goes_on = |client: u32| {
            for case in cases() {
                let found = sent(subject, &frame(case, client));
                assert_eq!(found, (backend(case.v4, 2), by_id()), "{}", case.name());
            }
        };
        let falls_back = |client: u32| {
            for case in cases() {
                let (to, counted) = sent(subject, &frame(case, client));
                assert_ne!(to, backend(case.v4, 2), "{}", case.name());
                assert_eq!(counted, by_flow(), "{}", case.name());
            }
        };
        goes_on(0);
        subject.reload(&drained);
        // No new flow goes there, but this is none.
        goes_on(1);
        let order = |order: &str| {
            for (at, _) in all.services.iter().enumerate() {
                let service = format!("s{at}");
                subject.lab.done(&["backend", order, &service, "b1"]).expect("an order");
            }
        };
        order("maint");
        falls_back(2);
        order("ready");
        goes_on(3);
        order("drain");
        goes_on(4);
        subject.reload(&removed);
        falls_back(5);
        falls_back(0);
        subject.reload(&all);
        order("ready");
        goes_on(6);
    })
}

#[test]
fn configurations_come_and_go_beside_each_other() -> Result<()> {
    Subject::with_own(&quic(&[1, 2, 3], &[PLAIN]), |mut subject| {
        let by = |subject: &Subject<'_>, config: Config, expected: &BTreeMap<&str, u64>| {
            for case in cases() {
                for number in 1..=3 {
                    let client = client_number(case.v4, 50 + u32::from(number));
                    let request = case.request_from(client, PORT);
                    let frame = carrying(&request, &short(&config.cid(number, 4)));
                    let (to, counted) = sent(subject, &frame);
                    assert_eq!(counted, *expected, "{}: {config:?}", case.name());
                    if counted == by_id() {
                        assert_eq!(to, backend(case.v4, number), "{}: {config:?}", case.name());
                    }
                }
            }
        };
        for (configs, known, unknown) in [
            (&[PLAIN][..], &[PLAIN][..], &[LONGER, LATER][..]),
            (&[PLAIN, LATER], &[PLAIN, LATER], &[LONGER]),
            (&[PLAIN, LATER, LONGER], &[PLAIN, LATER, LONGER], &[]),
            (&[LONGER, LATER], &[LONGER, LATER], &[PLAIN]),
        ] {
            subject.reload(&quic(&[1, 2, 3], configs));
            known.iter().for_each(|config| by(&subject, *config, &by_id()));
            unknown.iter().for_each(|config| by(&subject, *config, &by_flow()));
        }
        // Neither the end of the agent nor another one changes anything.
        subject.kill_agent();
        by(&subject, LONGER, &by_id());
        subject.start_agent(&quic(&[1, 2, 3], &[LONGER, LATER]));
        by(&subject, LATER, &by_id());
        // Without any the service is as any other.
        subject.reload(&spread(&[1, 2, 3]));
        by(&subject, LONGER, &BTreeMap::new());
    })
}

#[test]
fn a_flow_is_entered_where_its_connection_ids_lead() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN]), |subject| {
        for case in cases() {
            let request = case.request();
            let current = subject.choice(&request).current;
            let number = (1..=3).find(|&n| backend(case.v4, n) != current).expect("another");
            let (frame, to) =
                (carrying(&request, &short(&PLAIN.cid(number, 8))), backend(case.v4, number));
            let entered = subject.entered();
            for state in [FlowState::Embryonic, FlowState::Established] {
                assert_eq!(sent(subject, &frame).0, to);
                let entry = subject.entry(&frame).expect("an entry");
                assert_eq!((entry.backend, entry.state), (to, state as u8), "{}", case.name());
            }
            assert_eq!(subject.entered(), entered + 1);
            // An error about what the server sent goes to it, and so does what says nothing.
            let answer = case.answer(number);
            let seen = if case.mode == Mode::Nat { case.answered(&answer) } else { answer };
            let (kind, code) = if case.v4 { (3, 3) } else { (1, 4) };
            let error = request.with(|frame| {
                frame.packet.body = Icmp::error(kind, code, [0; 4], seen.packet.quote(8));
            });
            assert_eq!(goes_to(subject, &error), to, "{}", case.name());
            assert_eq!(sent(subject, &carrying(&request, &[0x41; 21])), (to, by_flow()));
            // Another connection from the same port has its own way, and changes nothing.
            let other = (1..=3).find(|&n| n != number).expect("another");
            let others = carrying(&request, &short(&PLAIN.cid(other, 8)));
            assert_eq!(sent(subject, &others), (backend(case.v4, other), by_id()));
            assert_eq!(subject.entry(&frame).map(|entry| entry.backend), Some(to));
        }
    })
}

#[test]
fn without_affinity_nothing_is_entered() -> Result<()> {
    let mut setup = spread(&[1, 2, 3]);
    for service in setup.services.iter_mut().filter(|one| one.protocol == Protocol::Udp) {
        *service = service.clone().line("affinity = \"none\"");
    }
    Subject::with(&named(setup, &[PLAIN]), |subject| {
        for case in cases() {
            for number in 1..=3 {
                let frame = carrying(&case.request(), &short(&PLAIN.cid(number, 2)));
                assert_eq!(sent(subject, &frame), (backend(case.v4, number), by_id()));
            }
            let frame = carrying(&case.request(), &short(&PLAIN.cid(9, 2)));
            assert_eq!(sent(subject, &frame), (subject.choice(&frame).current, by_flow()));
        }
        assert_eq!(subject.all_flows(), []);
    })
}

/// Two services share their backends' port: which of them an answer belongs to is noted
/// by flow, whatever the connection ID says.
#[test]
fn answers_of_shared_backends_find_their_service() -> Result<()> {
    let mut setup = spread(&[1, 2]);
    let others = setup.services.clone().into_iter().map(|mut service| {
        service.port = "4712".into();
        let is_tcp = service.protocol == Protocol::Tcp;
        let to = |port: u16| if is_tcp { 8080 } else { port };
        service.backends.iter_mut().for_each(|b: &mut Backend| b.port = b.port.map(to));
        service
    });
    let others: Vec<_> = others.collect();
    setup.services.extend(others);
    Subject::with(&named(setup, &[PLAIN]), |subject| {
        for case in cases().into_iter().filter(|case| case.mode == Mode::Nat) {
            for (port, number) in [(4712, 2), (case.service_port(), 1)] {
                let client_port = PORT + u16::from(number);
                let request = case.request_from(case.client(), client_port).with(|frame| {
                    *frame.packet.body.destination_port() = port;
                });
                let frame = carrying(&request, &short(&PLAIN.cid(number, 2)));
                assert_eq!(sent(subject, &frame), (backend(case.v4, number), by_id()));
                let answer = case.answer(number).with(|frame| {
                    *frame.packet.body.destination_port() = client_port;
                });
                let expected = case.answered(&answer).with(|frame| {
                    *frame.packet.body.source_port() = port;
                });
                subject.replies(&case.name(), &answer, &expected, backend(case.v4, number));
            }
        }
    })
}

#[test]
fn impossible_sources_are_dropped() -> Result<()> {
    Subject::with(&quic(&[1, 2, 3], &[PLAIN]), |subject| {
        for case in cases() {
            let frame = carrying(&case.request(), &short(&PLAIN.cid(2, 2)));
            let frame = frame.with(|frame| frame.packet.source = case.vip());
            let outcome = subject.run(&frame);
            assert_eq!(outcome.action, Action::Drop, "{outcome:?}");
            assert_eq!(outcome.counted.get(Counter::BadSource.name()), Some(&1));
        }
    })
}

/// The test vectors of the draft (QUIC-LB, appendix B.2): rotation, server ID, octets of
/// the nonce, connection ID. One is a single block, the others four passes of even and odd
/// length, with server IDs that are and are not in the left half.
const VECTORS: [(u8, &str, u8, &str); 4] = [
    (0, "ed793a", 4, "0720b1d07b359d3c"),
    (1, "ed793a51d49b8f5fab65", 5, "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    (2, "ed793a51d49b8f5f", 8, "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    (3, "ed793a51d49b8f5fab", 9, "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
];

fn octets(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    (0..digits.len()).step_by(2).map(digit).collect()
}

/// Writes a key that nobody else can read.
fn write_key(directory: &Path, name: &str, digits: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, digits).expect("the directory can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is there");
    path
}

/// Services whose backends 1 to 4 have the IDs of the vectors.
fn keyed(key_file: &Path) -> Setup {
    let mut setup = spread(&[1, 2, 3, 4]);
    for service in setup.services.iter_mut().filter(|one| one.protocol == Protocol::Udp) {
        for (at, (id, server_id, nonce, _)) in VECTORS.into_iter().enumerate() {
            *service = service.clone().line(&format!(
                "[[service.quic]]\nid = {id}\nserver_id_length = {}\nnonce_length = {nonce}\n\
                 key_file = {key_file:?}",
                server_id.len() / 2
            ));
            service.backends[at].server_ids = vec![server_id.to_owned()];
        }
    }
    setup
}

#[test]
fn encrypted_connection_ids_are_read() -> Result<()> {
    let directory = tempfile::tempdir().expect("a directory");
    let key = write_key(directory.path(), "quic.key", "8f95f09245765f80256934e50c66207f\n");
    let other = write_key(directory.path(), "other.key", "fdf726a9893ec05c0632d3956680baf0");
    Subject::with_own(&keyed(&key), |mut subject| {
        let all = |subject: &Subject<'_>, expected: &BTreeMap<&str, u64>| {
            for case in cases() {
                for ((_, _, _, cid), number) in VECTORS.into_iter().zip(1..) {
                    let client = client_number(case.v4, u32::from(number));
                    let request = case.request_from(client, PORT);
                    for payload in [short(&octets(cid)), long(&octets(cid))] {
                        let (to, counted) = sent(subject, &carrying(&request, &payload));
                        assert_eq!(counted, *expected, "{}: {cid}", case.name());
                        if counted == by_id() {
                            assert_eq!(to, backend(case.v4, number), "{}: {cid}", case.name());
                        }
                    }
                }
            }
        };
        all(&subject, &by_id());
        // By another key they say nothing.
        subject.reload(&keyed(&other));
        all(&subject, &by_flow());
        subject.reload(&keyed(&key));
        subject.kill_agent();
        subject.start_agent(&keyed(&key));
        all(&subject, &by_id());
    })
}

//! `affinity = "client"`: all flows of a source address stay together.

use std::net::IpAddr;

use lb_common::flow::FlowState;
use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client_number},
    frame::{ACK, FIN, Frame, RST, SYN},
    network::backend,
    setup::Setup,
    subject::Subject,
};

const ESTABLISHED: u8 = FlowState::Established as u8;
const PORTS: std::ops::Range<u16> = 2000..2020;

pub(super) fn sticky(backends: &[u8]) -> Setup {
    let mut setup = spread(backends);
    for service in &mut setup.services {
        *service = service.clone().line("affinity = \"client\"");
        service.timeout = Some("300s".into());
    }
    setup
}

fn requests(case: Case, client: IpAddr) -> impl Iterator<Item = Frame> {
    PORTS.map(move |port| case.request_from(client, port))
}

/// A client that has been there, and where.
fn known(subject: &Subject<'_>, case: Case, number: u32) -> (IpAddr, IpAddr) {
    let client = client_number(case.v4, number);
    let request = case.request_from(client, 1000);
    let to = goes_to(subject, &request);
    assert_eq!(goes_to(subject, &request), to);
    assert_eq!(subject.entry(&request).map(|entry| entry.state), Some(ESTABLISHED));
    (client, to)
}

#[test]
fn all_flows_of_a_client_go_the_same_way_and_clients_spread() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let mut seen = Vec::new();
            for number in 0..30 {
                let client = client_number(case.v4, number);
                let mut to: Vec<_> = requests(case, client).map(|r| goes_to(subject, &r)).collect();
                to.push(subject.choice(&case.request_from(client, 1)).current);
                to.dedup();
                assert_eq!(to.len(), 1, "{}: {to:?}", case.name());
                seen.extend(to);
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 3, "{}: {seen:?}", case.name());
        }
    })
}

#[test]
fn a_client_has_one_entry_which_syns_do_not_make() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let (client, before) = (client_number(case.v4, 1), subject.all_flows().len());
            if case.protocol == Protocol::Tcp {
                requests(case, client).for_each(|r| _ = goes_to(subject, &flagged(&r, SYN)));
                assert_eq!(subject.all_flows().len(), before, "{}", case.name());
            }
            requests(case, client).for_each(|r| _ = goes_to(subject, &r));
            assert_eq!(subject.all_flows().len(), before + 1, "{}", case.name());
        }
    })
}

#[test]
fn no_packet_ends_a_client_and_every_packet_prolongs_him() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let (client, to) = known(subject, case, 2);
            let request = case.request_from(client, 7);
            let flags = if case.protocol == Protocol::Tcp {
                vec![SYN, ACK, FIN | ACK, RST, RST | ACK, SYN]
            } else {
                vec![0]
            };
            for flags in flags {
                subject.rewrite(&request, |value| {
                    value.touched(subject.second().wrapping_add(2), ESTABLISHED)
                });
                assert_eq!(goes_to(subject, &flagged(&request, flags)), to, "{}", case.name());
                let entry = subject.entry(&request).expect("an entry");
                let left = entry.expires.wrapping_sub(subject.second());
                assert_eq!(entry.state, ESTABLISHED, "{}: flags {flags}", case.name());
                assert!((298..=300).contains(&left), "{}: {left} s left", case.name());
            }
        }
    })
}

#[test]
fn a_client_who_was_heard_once_is_kept_as_long() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        for case in Case::all() {
            let request = case.request_from(client_number(case.v4, 3), 7);
            goes_to(subject, &request);
            let entry = subject.entry(&request).expect("an entry");
            let left = entry.expires.wrapping_sub(subject.second());
            assert!((298..=300).contains(&left), "{}: {left} s left", case.name());
        }
    })
}

#[test]
fn new_connections_follow_a_client_whose_backend_is_drained() -> Result<()> {
    Subject::with(&sticky(&[1, 2]), |subject| {
        let clients = |case| (0..20).map(move |number| known(subject, case, number));
        let known: Vec<_> = Case::all().iter().map(|&c| (c, clients(c).collect())).collect();
        let mut drained = sticky(&[1, 2]);
        drained.services.iter_mut().for_each(|service| service.backends[0].weight = 0);
        subject.reload(&drained);
        for (case, clients) in known {
            let clients: Vec<(IpAddr, IpAddr)> = clients;
            assert!(clients.iter().any(|(_, to)| *to == backend(case.v4, 1)));
            for (client, to) in clients {
                for request in requests(case, client) {
                    assert_eq!(goes_to(subject, &flagged(&request, SYN)), to, "{}", case.name());
                    assert_eq!(goes_to(subject, &request), to, "{}", case.name());
                }
            }
            // Who comes now goes elsewhere.
            let stranger = case.request_from(client_number(case.v4, 99), 1);
            assert_eq!(goes_to(subject, &flagged(&stranger, SYN)), backend(case.v4, 2));
        }
    })
}

#[test]
fn a_client_whose_backend_is_gone_gets_another_for_all_his_flows() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        let known: Vec<_> = Case::all()
            .into_iter()
            .flat_map(|case| (0..20).map(move |number| (case, known(subject, case, number))))
            .collect();
        subject.reload(&sticky(&[1, 3]));
        for (case, (client, before)) in known {
            let gone = before == backend(case.v4, 2);
            let request = case.request_from(client, 1);
            let expected = if gone { subject.choice(&request).current } else { before };
            for request in requests(case, client) {
                assert_eq!(goes_to(subject, &request), expected, "{}", case.name());
            }
        }
    })
}

#[test]
fn ports_of_a_range_do_not_tell_a_clients_flows_apart() -> Result<()> {
    let mut setup = sticky(&[1, 2, 3]);
    for service in &mut setup.services {
        service.port = "\"8000-8100\"".into();
        service.backends.iter_mut().for_each(|backend| backend.port = None);
    }
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let before = subject.all_flows().len();
            let request = |port| {
                let change = |frame: &mut Frame| *frame.packet.body.destination_port() = port;
                case.request().with(change)
            };
            let to = goes_to(subject, &request(8000));
            for port in 8000..8010 {
                assert_eq!(goes_to(subject, &request(port)), to, "{}", case.name());
            }
            assert_eq!(subject.all_flows().len(), before + 1, "{}", case.name());
        }
    })
}

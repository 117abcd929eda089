//! `service.route`: a client's address picks the group of backends.

use std::{collections::BTreeSet, net::IpAddr};

use lb_tests::harness::{Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, client, client_number, from_client},
    frame::{ACK, Frame, Icmp, Packet, SYN, Tcp, Udp},
    network::backend,
    setup::Setup,
    split::{goals, group, is_green, split},
    subject::Subject,
};

/// Clients 0 to 65535 go to `wide`, but 256 to 511 to `narrow`; backends 1 and
/// 2 are blue, 3 and 4 green.
pub(super) fn routed(wide: &str, narrow: &str) -> Setup {
    let mut setup = spread(&[1, 2, 3, 4]);
    setup.services.iter_mut().for_each(group);
    with_routes(setup, wide, narrow)
}

fn with_routes(mut setup: Setup, wide: &str, narrow: &str) -> Setup {
    for service in &mut setup.services {
        let prefixes = if service.vip.is_ipv4() {
            ["10.64.0.0/16", "10.64.1.0/24"]
        } else {
            ["fd00:64:0:0:1::/112", "fd00:64:0:0:1:0:0:100/120"]
        };
        let route = |prefix, group| format!("{{ from = [\"{prefix}\"], group = \"{group}\" }}");
        let routes = [route(prefixes[0], wide), route(prefixes[1], narrow)].join(", ");
        *service = service.clone().line(&format!("route = [{routes}]"));
    }
    setup
}

/// Numbers of clients of the wide prefix, of the narrow one, and of none.
const WIDE: [u32; 4] = [0, 255, 512, 65_535];
const NARROW: [u32; 3] = [256, 300, 511];
const OTHERS: [u32; 3] = [65_536, 65_792, 200_000];

fn backends(case: Case, numbers: impl IntoIterator<Item = u8>) -> BTreeSet<IpAddr> {
    numbers.into_iter().map(|number| backend(case.v4, number)).collect()
}

/// Where flows of these clients go, all together.
fn all_goals(subject: &Subject<'_>, case: Case, clients: &[u32], port: u16) -> BTreeSet<IpAddr> {
    clients.iter().flat_map(|&number| goals(subject, case, number, port)).collect()
}

#[test]
fn the_longest_prefix_picks_the_group() -> Result<()> {
    Subject::with(&routed("blue", "green"), |subject| {
        for case in Case::all() {
            let goals = |clients| all_goals(subject, case, clients, 100);
            assert_eq!(goals(&WIDE), backends(case, [1, 2]), "{}", case.name());
            assert_eq!(goals(&NARROW), backends(case, [3, 4]), "{}", case.name());
            assert_eq!(goals(&OTHERS), backends(case, 1..=4), "{}", case.name());
        }
    })
}

#[test]
fn a_split_is_for_clients_without_a_route() -> Result<()> {
    Subject::with(&with_routes(split(50, 50), "blue", "green"), |subject| {
        for case in Case::all() {
            let goals = |clients| all_goals(subject, case, clients, 100);
            assert_eq!(goals(&WIDE), backends(case, [1, 2]), "{}", case.name());
            assert_eq!(goals(&NARROW), backends(case, [3, 4]), "{}", case.name());
            let greens = (65_536..65_576u32).filter(|&number| {
                let goals = all_goals(subject, case, &[number], 100);
                let green = goals.iter().filter(|&&to| is_green(case, to)).count();
                assert!(green == 0 || green == goals.len(), "{}: {goals:?}", case.name());
                green > 0
            });
            let greens = greens.count();
            assert!((8..=32).contains(&greens), "{}: {greens} of 40 are green", case.name());
        }
    })
}

#[test]
fn a_routed_client_who_is_sticky_has_one_backend_of_his_group() -> Result<()> {
    let mut setup = routed("blue", "green");
    for service in &mut setup.services {
        *service = service.clone().line("affinity = \"client\"");
    }
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let mut seen = BTreeSet::new();
            for number in 256..286 {
                let goals = goals(subject, case, number, 100);
                assert_eq!(goals.len(), 1, "{}: {goals:?}", case.name());
                seen.extend(goals);
            }
            assert_eq!(seen, backends(case, [3, 4]), "{}", case.name());
        }
    })
}

#[test]
fn a_group_that_takes_no_new_flows_is_stood_in_for_by_all_others() -> Result<()> {
    let mut setup = routed("blue", "green");
    for service in &mut setup.services {
        service.backends[2].weight = 0;
        service.backends[3].weight = 0;
        service.backends[1].weight = 0;
    }
    Subject::with(&setup, |subject| {
        for case in Case::all() {
            let all: Vec<_> = [&WIDE[..], &NARROW, &OTHERS].concat();
            assert_eq!(all_goals(subject, case, &all, 100), backends(case, [1]), "{}", case.name());
        }
    })
}

#[test]
fn routes_that_come_change_or_go_keep_flows() -> Result<()> {
    let mut plain = spread(&[1, 2, 3, 4]);
    plain.services.iter_mut().for_each(group);
    let both = with_routes(split(30, 70), "green", "blue");
    let steps = [routed("blue", "green"), routed("green", "blue"), both, plain.clone()];
    Subject::with(&plain, |subject| {
        for (port, setup) in (1..).zip(steps) {
            let requests = |port| -> Vec<(Case, Frame)> {
                let clients = [&WIDE[..], &NARROW, &OTHERS].concat();
                let of = |case: Case| {
                    let client = move |number| client_number(case.v4, number);
                    let all = clients.clone().into_iter();
                    all.map(move |number| (case, case.request_from(client(number), port)))
                };
                Case::all().into_iter().flat_map(of).collect()
            };
            let established: Vec<_> = requests(2 * port)
                .into_iter()
                .map(|(_, request)| (goes_to(subject, &request), request))
                .collect();
            // Of these the affinity table does not know: a SYN leaves no trace.
            let begun: Vec<_> = requests(2 * port + 1)
                .into_iter()
                .filter(|(case, _)| case.protocol == Protocol::Tcp)
                .map(|(_, request)| (goes_to(subject, &flagged(&request, SYN)), request))
                .collect();
            let traces = begun.iter().filter(|(_, request)| subject.entry(request).is_some());
            assert!(port > 1 || traces.count() == 0);
            subject.reload(&setup);
            for (before, request) in established.into_iter().chain(begun) {
                assert_eq!(goes_to(subject, &flagged(&request, ACK)), before, "{request:?}");
            }
        }
    })
}

#[test]
fn an_icmp_error_follows_the_route_of_its_flow() -> Result<()> {
    Subject::with(&routed("blue", "green"), |subject| {
        for case in Case::all() {
            for number in [WIDE, [256, 300, 511, 400]].concat() {
                let request = case.request_from(client_number(case.v4, number), 77);
                let body = match case.protocol {
                    Protocol::Tcp => Tcp::body(case.service_port(), 77, ACK),
                    Protocol::Udp => Udp::body(case.service_port(), 77),
                };
                let answer = Packet::new(case.vip(), request.packet.source, body);
                let (kind, code) = if case.v4 { (3, 4) } else { (2, 0) };
                let error = Icmp::error(kind, code, [0, 0, 5, 0], answer.quote(8));
                let outcome =
                    subject.run(&from_client(Packet::new(client(case.v4), case.vip(), error)));
                let found: Vec<_> = outcome.traffic.iter().map(|t| t.backend).collect();
                assert_eq!(found, [subject.choice(&request).current], "{}", case.name());
                assert_eq!(is_green(case, found[0]), NARROW.contains(&number) || number == 400);
            }
        }
    })
}

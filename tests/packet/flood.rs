//! What no honest client sends, and what it does to those who are honest.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lb_common::{flow::FlowState, stats::Counter};
use lb_tests::harness::{self, Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    attack::first_fragment,
    case::{Case, client, client_number, from_client},
    client::sticky,
    frame::{ACK, FIN, Frame, Packet, RST, SYN, Tcp},
    setup::Setup,
    subject::{Action, Subject, eventually},
};

const PSH: u8 = 8;
const URG: u8 = 32;

/// Flags that no stack sends together.
const IMPOSSIBLE: [u8; 12] = [
    0,
    PSH,
    URG,
    FIN,
    FIN | PSH | URG,
    0xff,
    SYN | FIN,
    SYN | FIN | ACK,
    SYN | RST,
    SYN | RST | ACK,
    FIN | RST,
    FIN | RST | ACK,
];

fn of_tcp() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp)
}

#[test]
fn flags_that_no_stack_sends_begin_no_flow() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        for case in of_tcp() {
            for flags in IMPOSSIBLE {
                let what = format!("{}: flags {flags:#x}", case.name());
                let request = flagged(&case.request(), flags);
                subject.drops(&what, &request, Counter::BadFlags);
                let first = first_fragment(&request);
                subject.drops(&format!("{what}, in a fragment"), &first, Counter::BadFlags);
                assert_eq!(subject.entry(&request).map(|entry| entry.state), None, "{what}");
            }
        }
    })
}

#[test]
fn flags_that_no_stack_sends_change_nothing_of_a_flow() -> Result<()> {
    for setup in [spread(&[1, 2]), sticky(&[1, 2])] {
        Subject::with(&setup, |subject| {
            for case in of_tcp() {
                let request = case.request_from(client_number(case.v4, 7), 9);
                let to = goes_to(subject, &request);
                goes_to(subject, &request);
                let before = subject.entry(&request).map(|entry| (entry.state, entry.backend));
                assert_eq!(before, Some((FlowState::Established as u8, to)), "{}", case.name());
                for flags in IMPOSSIBLE {
                    let what = format!("{}: flags {flags:#x}", case.name());
                    subject.drops(&what, &flagged(&request, flags), Counter::BadFlags);
                }
                let after = subject.entry(&request).map(|entry| (entry.state, entry.backend));
                assert_eq!(after, before, "{}", case.name());
                assert_eq!(goes_to(subject, &request), to, "{}", case.name());
            }
        })?;
    }
    Ok(())
}

#[test]
fn flags_are_nobodys_business_where_nothing_is_ours() -> Result<()> {
    Case::each(|subject, case| {
        let elsewhere = if case.v4 { "192.0.2.77" } else { "2001:db8:77::1" }.parse().unwrap();
        for flags in IMPOSSIBLE {
            let body = Tcp::body(4711, 80, flags);
            let frame: Frame = from_client(Packet::new(client(case.v4), elsewhere, body));
            subject.passes(&format!("flags {flags:#x}"), &frame);
        }
    })
}

/// Services for clients 0 to 255 and the one client, and for everybody where `all`.
fn allowing(all: bool) -> Setup {
    let mut setup = spread(&[1, 2, 3]);
    for service in setup.services.iter_mut().filter(|_| !all) {
        let allowed = if service.vip.is_ipv4() {
            ["10.64.0.0/24", "10.1.0.2"]
        } else {
            ["fd00:64:0:0:1::/120", "fd00:1::2/128"]
        };
        *service = service.clone().line(&format!("allow_sources = {allowed:?}"));
    }
    setup
}

/// What a client may begin with.
fn beginnings(request: &Frame) -> Vec<Frame> {
    vec![flagged(request, SYN), request.clone(), first_fragment(request)]
}

#[test]
fn sources_that_are_not_allowed_reach_no_backend() -> Result<()> {
    Subject::with(&allowing(false), |subject| {
        for case in Case::all() {
            for number in [0, 77, 255, 256, 65_536] {
                let request = case.request_from(client_number(case.v4, number), 9);
                for frame in beginnings(&request) {
                    if number < 256 {
                        goes_to(subject, &frame);
                    } else {
                        let what = format!("{}: client {number}", case.name());
                        subject.drops(&what, &frame, Counter::SourceNotAllowed);
                    }
                }
            }
            goes_to(subject, &case.request());
        }
    })
}

#[test]
fn who_is_not_allowed_any_more_is_dropped_and_goes_on_when_he_is_again() -> Result<()> {
    Subject::with(&allowing(true), |subject| {
        let flows: Vec<_> = Case::all()
            .into_iter()
            .flat_map(|case| [7, 300].map(|number| (case, number)))
            .map(|(case, number)| {
                let request = case.request_from(client_number(case.v4, number), 9);
                goes_to(subject, &request);
                (number, goes_to(subject, &request), request)
            })
            .collect();
        subject.reload(&allowing(false));
        for (number, to, request) in &flows {
            if *number == 7 {
                assert_eq!(goes_to(subject, request), *to);
            } else {
                subject.drops("an established flow", request, Counter::SourceNotAllowed);
            }
        }
        subject.reload(&allowing(true));
        for (_, to, request) in &flows {
            assert_eq!(goes_to(subject, request), *to);
        }
    })
}

/// Services whose sources may begin `burst` flows, and one a second.
fn limited(burst: u32) -> Setup {
    spread(&[1, 2, 3]).firewall(&format!("new_flows_per_source = {{ rate = 1, burst = {burst} }}"))
}

/// One of many clients of the network of client 0, or of another one: a source of IPv6
/// is a network.
fn in_network(v4: bool, network: u16, port: u16) -> IpAddr {
    if v4 {
        let [high, low] = network.to_be_bytes();
        Ipv4Addr::from([10, 70, high, low]).into()
    } else {
        Ipv6Addr::from([0xfd00, 0x65, 0, network, 1, 2, 3, port]).into()
    }
}

/// How many of `count` flows of a source begin with a packet of these flags.
fn begun(subject: &Subject<'_>, case: Case, network: u16, flags: u8, count: u16) -> u16 {
    let before = subject.counter(Counter::SourceRate);
    let begin = |port| {
        let client = in_network(case.v4, network, port);
        subject.run_uncounted(&flagged(&case.request_from(client, 1000 + port), flags)).0
    };
    let begun = (0..count).filter(|&port| begin(port) == Action::Redirect).count() as u16;
    let dropped = subject.counter(Counter::SourceRate) - before;
    assert_eq!(dropped, u64::from(count - begun), "{}: flags {flags:#x}", case.name());
    begun
}

#[test]
fn a_source_begins_no_more_flows_than_it_may_and_keeps_those_that_it_has() -> Result<()> {
    Subject::with(&limited(20), |subject| {
        for (case, network) in Case::all().into_iter().zip((0..).step_by(100)) {
            let has = case.request_from(in_network(case.v4, network, 0), 1000);
            let to = goes_to(subject, &has);
            goes_to(subject, &has);
            // SYNs have a share of their own, a flow under way is never refused for them.
            let kinds = if case.protocol == Protocol::Tcp { vec![SYN, ACK] } else { vec![0] };
            for flags in kinds {
                let most = if flags == SYN { 20 } else { 19 };
                let begun = begun(subject, case, network, flags, 200);
                // The first one goes on, and a second or two may pass. Another source may
                // have one of its buckets by chance: at least half is left.
                let known = u16::from(flags != SYN);
                let range = most / 2..=most + 4;
                assert!(range.contains(&(begun - known)), "{}: {begun}", case.name());
            }
            for _ in 0..100 {
                assert_eq!(goes_to(subject, &has), to, "{}", case.name());
            }
            if case.protocol == Protocol::Tcp {
                goes_to(subject, &flagged(&has, FIN | ACK));
            }
            // Nobody else notices.
            for other in 1..50 {
                let client = in_network(case.v4, network + other, 0);
                goes_to(subject, &case.request_from(client, 9));
            }
        }
    })
}

#[test]
fn a_flood_from_random_sources_refuses_nobody() -> Result<()> {
    Subject::with(&limited(20), |subject| {
        for case in Case::all() {
            let before = subject.counter(Counter::SourceRate);
            for network in 0..3000_u16 {
                let client = in_network(case.v4, network, 0);
                subject.run_uncounted(&flagged(&case.request_from(client, 7), SYN));
            }
            assert_eq!(subject.counter(Counter::SourceRate), before, "{}", case.name());
        }
    })
}

#[test]
fn clients_who_stay_together_are_limited_in_their_connections() -> Result<()> {
    let limit = "new_flows_per_source = { rate = 1, burst = 20 }";
    Subject::with(&sticky(&[1, 2, 3]).firewall(limit), |subject| {
        let case = Case::all().into_iter().find(|case| case.protocol == Protocol::Tcp).unwrap();
        let has = case.request_from(in_network(case.v4, 0, 0), 1);
        let to = goes_to(subject, &has);
        let begun = begun(subject, case, 0, SYN, 100);
        assert!((20..=24).contains(&begun), "{begun}");
        assert_eq!(goes_to(subject, &has), to);
    })
}

#[test]
fn a_changed_limit_is_in_force_after_a_reload() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        let case = Case::all()[0];
        assert_eq!(begun(subject, case, 1, SYN, 100), 100);
        subject.reload(&limited(20));
        assert!((20..=24).contains(&begun(subject, case, 2, SYN, 100)));
        subject.reload(&limited(60));
        assert!((60..=64).contains(&begun(subject, case, 3, SYN, 100)));
        subject.reload(&spread(&[1, 2, 3]));
        assert_eq!(begun(subject, case, 2, SYN, 100), 100);
    })
}

#[test]
fn who_asks_why_takes_nobodys_share() -> Result<()> {
    Subject::with(&limited(20), |subject| {
        let case = Case::all()[0];
        let syn = flagged(&case.request_from(in_network(case.v4, 0, 0), 1), SYN);
        for _ in 0..100 {
            assert_eq!(subject.explain(&syn).0, Action::Redirect);
        }
        assert!((20..=24).contains(&begun(subject, case, 0, SYN, 100)));
        assert_eq!(subject.explain(&syn).0, Action::Drop);
    })
}

/// Services that take no new flows once they have ten, as `lines` say.
fn quota(lines: &str) -> Setup {
    let mut setup = spread(&[1, 2, 3]);
    for service in &mut setup.services {
        *service = service.clone().line("max_flows = 10").line(lines);
    }
    setup
}

/// Ten flows of each service, established, with where they go.
fn fill(subject: &Subject<'_>) -> Vec<(Case, Frame, IpAddr)> {
    let flows = Case::all().into_iter().flat_map(|case| {
        (0..10).map(move |number| {
            let request = case.request_from(client_number(case.v4, number), 9);
            goes_to(subject, &request);
            (case, goes_to(subject, &request), request)
        })
    });
    flows.map(|(case, to, request)| (case, request, to)).collect()
}

/// Waits until all services are full, or none is.
fn wait_until_full(subject: &Subject<'_>, full: bool) {
    let services = Case::all().len();
    let as_wanted = || subject.full().iter().filter(|&&is| is == full).count() == services;
    assert!(eventually(as_wanted), "{:?}", subject.full());
}

#[test]
fn a_service_with_as_many_flows_as_it_may_keeps_them_and_takes_no_more() -> Result<()> {
    Subject::with(&quota(""), |subject| {
        let flows = fill(subject);
        wait_until_full(subject, true);
        // Another generation changes nothing.
        subject.reload(&quota("on_down = \"reset\""));
        assert_eq!(subject.full(), [true; 8]);
        for ((case, request, to), number) in flows.iter().zip(100..) {
            assert_eq!(goes_to(subject, request), *to);
            let new = case.request_from(client_number(case.v4, number), 9);
            if case.protocol == Protocol::Udp {
                subject.drops(&case.name(), &new, Counter::FlowQuota);
            } else {
                subject.drops(&case.name(), &flagged(&new, SYN), Counter::FlowQuota);
                // It may be of a connection that nobody recorded.
                goes_to(subject, &new);
            }
        }
        subject.forget_flows();
        wait_until_full(subject, false);
        for case in Case::all() {
            let new = case.request_from(client_number(case.v4, 200), 9);
            goes_to(subject, &flagged(&new, SYN));
        }
    })
}

#[test]
fn who_finds_a_service_full_is_told_where_that_is_ordered() -> Result<()> {
    Subject::with(&quota("on_empty = \"reject\""), |subject| {
        fill(subject);
        wait_until_full(subject, true);
        for case in Case::all() {
            let new = case.request_from(client_number(case.v4, 100), 9);
            let outcome = subject.run(&flagged(&new, SYN));
            assert_eq!(outcome.action, Action::Transmit, "{}", case.name());
            assert_eq!(outcome.counted, [(Counter::Rejected.name(), 1)].into(), "{}", case.name());
        }
    })
}

#[test]
fn a_service_is_not_full_for_long_when_nobody_counts() -> Result<()> {
    Subject::with_own(&quota(""), |mut subject| {
        fill(&subject);
        wait_until_full(&subject, true);
        subject.kill_agent();
        let case = Case::all()[0];
        let syn = flagged(&case.request_from(client_number(case.v4, 100), 9), SYN);
        assert_eq!(subject.run_uncounted(&syn).0, Action::Drop);
        // Ten seconds, which is as long as the agent may take for anything else.
        let taken = || subject.run_uncounted(&syn).0 == Action::Redirect;
        assert!(harness::eventually(Duration::from_secs(20), taken));
    })
}

#[test]
fn clients_who_stay_together_are_counted_and_not_their_connections() -> Result<()> {
    let mut setup = sticky(&[1, 2, 3]);
    for service in &mut setup.services {
        *service = service.clone().line("max_flows = 10");
    }
    Subject::with(&setup, |subject| {
        let flows = fill(subject);
        wait_until_full(subject, true);
        for (case, request, to) in &flows {
            let another = case.request_from(request.packet.source, 5000);
            assert_eq!(goes_to(subject, &flagged(&another, SYN)), *to, "{}", case.name());
            let new = case.request_from(client_number(case.v4, 100), 9);
            subject.drops(&case.name(), &flagged(&new, SYN), Counter::FlowQuota);
        }
    })
}

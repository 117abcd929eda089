//! What of the affinity table is marked for the agent of a pair, and that its
//! keys say the same to both nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    addr::{to_bytes, v4_of, words},
    change::{BUCKETS, ChangeLine, Mark},
    config::Config,
    flow::{FlowState, FlowValue},
    hash, lease,
    limits::{self, change_lines},
    maps,
    service::{Service, flags},
};
use lb_tests::harness::{Mode, Protocol, Result};

use super::{
    affinity::{flagged, goes_to, spread},
    case::{Case, PORT, client_number},
    client::sticky,
    frame::{ACK, FIN, Frame, SYN, TCP, UDP},
    network::backend,
    reload::disputed,
    setup::{self, Setup},
    shared,
    subject::{Action, Subject},
    untracked::untracked,
};

/// Marks by bucket.
type Marks = BTreeMap<u32, Mark>;

impl Subject<'_> {
    /// Puts the services in force into a group that this node serves for ever.
    fn join_group(&self) {
        let group = lease::group(0);
        let set = self.writable(maps::LEASES).set(lease::index(group), u64::MAX, 0);
        set.expect("an entry of LEASES");
        let first = (self.config().active & 1) * limits::SERVICES;
        let mut services = self.writable::<Service>(maps::SERVICES);
        for index in first..first + limits::SERVICES {
            let entry = services.get(&index, 0).expect("an entry of SERVICES");
            if entry.flags & flags::IN_USE != 0 {
                let set = services.set(index, Service { group, ..entry }, 0);
                set.expect("an entry of SERVICES");
            }
        }
    }

    /// Has flows placed as another node would.
    pub(super) fn place_by(&self, place_seed: [u64; 2]) {
        let config = Config { place_seed, ..self.config() };
        self.writable(maps::CONFIG).set(0, config, 0).expect("the entry of CONFIG");
    }

    /// Takes all marks.
    fn marks(&self) -> Marks {
        let mut changes = self.writable::<ChangeLine>(maps::CHANGES);
        let mut marks = Marks::new();
        for line in 0..change_lines(self.config().flow_mask + 1) {
            let entry = changes.get(&line, 0).expect("a line of CHANGES");
            for (of, mark) in [(entry.changed, Mark::Changed), (entry.exceptions, Mark::Exception)]
            {
                let marked = (0..BUCKETS).filter(|&bucket| of[bucket as usize] != 0);
                marks.extend(marked.map(|bucket| (line * BUCKETS + bucket, mark)));
            }
            if entry != ChangeLine::ZERO {
                changes.set(line, ChangeLine::ZERO, 0).expect("a line of CHANGES");
            }
        }
        marks
    }

    /// Sends a frame; what that marks. An explanation of the same marks nothing.
    #[track_caller]
    fn marks_of(&self, frame: &Frame) -> Marks {
        self.explain(frame);
        assert_eq!(self.marks(), Marks::new());
        assert_eq!(self.run_uncounted(frame).0, Action::Redirect);
        self.marks()
    }

    /// The mark of the bucket that has a request's flow.
    #[track_caller]
    fn marked(&self, request: &Frame, mark: Mark) -> Marks {
        let (bucket, _) = self.slot_of(request).expect("the flow is recorded");
        Marks::from([(bucket, mark)])
    }
}

fn none() -> Marks {
    Marks::new()
}

#[test]
fn flows_are_marked_when_they_are_established_and_when_they_end() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]), |subject| {
        subject.join_group();
        for case in Case::all() {
            let request = case.request();
            let tcp = case.protocol == Protocol::Tcp;
            if tcp {
                assert_eq!(subject.marks_of(&flagged(&request, SYN)), none(), "{}", case.name());
            }
            assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
            let established = subject.marks_of(&request);
            assert_eq!(established, subject.marked(&request, Mark::Changed), "{}", case.name());
            assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
            if tcp {
                let end = flagged(&request, FIN | ACK);
                let ended = subject.marks_of(&end);
                assert_eq!(ended, subject.marked(&request, Mark::Changed), "{}", case.name());
                assert_eq!(subject.marks_of(&end), none(), "{}", case.name());
            }
        }
    })
}

#[test]
fn clients_that_stay_together_are_marked_when_they_are_established() -> Result<()> {
    Subject::with(&sticky(&[1, 2, 3]), |subject| {
        subject.join_group();
        for case in Case::all() {
            let request = case.request();
            assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
            let again = case.request_from(case.client(), PORT + 1);
            let established = subject.marks_of(&again);
            assert_eq!(established, subject.marked(&request, Mark::Changed), "{}", case.name());
            assert_eq!(subject.marks_of(&flagged(&again, FIN | ACK)), none(), "{}", case.name());
        }
    })
}

#[test]
fn flows_about_which_the_tables_disagree_are_exceptions() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        subject.reload(&spread(&[1, 2, 3, 4]));
        subject.join_group();
        for case in Case::all() {
            // The second begins with what is no SYN: it is older than the change.
            let requests = disputed(subject, case, 14, 2);
            for (request, flags) in requests.iter().zip([SYN, ACK]) {
                let state = || subject.entry(request).map(|entry| entry.state);
                let begun = subject.marks_of(&flagged(request, flags));
                assert_eq!(begun, subject.marked(request, Mark::Exception), "{}", case.name());
                assert_eq!(state(), Some(FlowState::Exception as u8), "{}", case.name());
                let established = subject.marks_of(request);
                assert_eq!(established, subject.marked(request, Mark::Changed), "{}", case.name());
                assert_eq!(state(), Some(FlowState::Established as u8), "{}", case.name());
                assert_eq!(subject.marks_of(request), none(), "{}", case.name());
            }
        }
    })
}

#[test]
fn an_exception_stays_one_until_it_is_taken() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        subject.reload(&spread(&[1, 2, 3, 4]));
        subject.join_group();
        for case in Case::all() {
            let request = &disputed(subject, case, 15, 1)[0];
            for _ in 0..3 {
                goes_to(subject, request);
            }
            assert_eq!(
                subject.marks(),
                subject.marked(request, Mark::Exception),
                "{}",
                case.name()
            );
        }
    })
}

#[test]
fn a_flow_that_takes_an_entry_over_from_another_backend_is_an_exception() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        subject.join_group();
        for case in Case::all().into_iter().filter(|case| case.protocol == Protocol::Tcp) {
            let request = case.request();
            let (syn, end) = (flagged(&request, SYN), flagged(&request, FIN | ACK));
            for frame in [&request, &request, &end] {
                goes_to(subject, frame);
            }
            subject.marks();
            // The port is taken up again, at the same backend.
            assert_eq!(subject.marks_of(&syn), none(), "{}", case.name());
            subject.rewrite(&request, |flow| {
                let (tag, expires) = (flow.tag(), flow.expires());
                FlowValue::new(flow.backend() + 100, tag, FlowState::Closing, expires)
            });
            let marks = subject.marks_of(&syn);
            assert_eq!(marks, subject.marked(&request, Mark::Exception), "{}", case.name());
        }
    })
}

#[test]
fn who_is_in_no_group_is_not_marked() -> Result<()> {
    Subject::with(&spread(&[1, 2]), |subject| {
        subject.reload(&spread(&[1, 2, 3, 4]));
        for case in Case::all() {
            for request in disputed(subject, case, 16, 5) {
                for _ in 0..3 {
                    assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
                }
            }
        }
    })
}

#[test]
fn a_flood_of_new_flows_marks_nothing() -> Result<()> {
    Subject::with(&spread(&[1, 2, 3]).flows(64), |subject| {
        subject.join_group();
        for case in Case::all() {
            for number in 0..500 {
                let request = case.request_from(client_number(case.v4, number), 17);
                if case.protocol == Protocol::Tcp {
                    subject.run_uncounted(&flagged(&request, SYN));
                }
                subject.run_uncounted(&request);
            }
        }
        assert_eq!(subject.marks(), none());
    })
}

/// The address as two words, as it lies in a frame.
fn as_words(address: IpAddr) -> [u64; 2] {
    let bytes = to_bytes(address);
    if address.is_ipv4() { [v4_of(bytes).into(), 0] } else { words(bytes) }
}

#[test]
fn replies_bindings_are_exceptions() -> Result<()> {
    Subject::with(&shared::setup(), |subject| {
        subject.join_group();
        for case in Case::nat() {
            let request = case.request();
            let config = subject.config();
            let proto = if case.protocol == Protocol::Tcp { TCP } else { UDP };
            let salt = hash::shared_salt(to_bytes(backend(case.v4, 1)), proto);
            let ports = hash::ports(PORT.to_be(), case.backend_port().to_be());
            let client = as_words(case.client());
            let key = hash::flow_key_hashed(client, ports, salt, config.place_seed);
            let key = hash::reply_key(key);
            let place = hash::place(key, config.place_seed, config.flow_mask);
            let state = || {
                let entry = subject.all_flows().into_iter().find(|(owner, _)| *owner == key);
                entry.map(|(_, value)| value.state())
            };
            let bound = Marks::from([(place.primary, Mark::Exception)]);
            assert_eq!(subject.marks_of(&request), bound, "{}", case.name());
            assert_eq!(state(), Some(FlowState::Exception as u8), "{}", case.name());
            let mut expected = subject.marked(&request, Mark::Changed);
            expected.extend(bound);
            assert_eq!(subject.marks_of(&request), expected, "{}", case.name());
            assert_eq!(state(), Some(FlowState::Established as u8), "{}", case.name());
            assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
        }
    })
}

#[test]
fn a_flood_of_syns_to_a_shared_endpoint_marks_nothing() -> Result<()> {
    Subject::with(&shared::setup(), |subject| {
        subject.join_group();
        for case in Case::nat().into_iter().filter(|case| case.protocol == Protocol::Tcp) {
            for number in 0..100 {
                let request = case.request_from(client_number(case.v4, number), 19);
                subject.run_uncounted(&flagged(&request, SYN));
            }
        }
        assert!(!subject.all_flows().is_empty());
        assert_eq!(subject.marks(), none());
    })
}

/// Services whose keys are hashes: with IPv6, with ranges of ports, and with
/// backends that they share.
fn hashed() -> Setup {
    let mut setup = shared::setup();
    setup.services.retain(|service| service.vip.is_ipv6());
    setup.services.extend(Case::all().into_iter().filter(|case| case.v4).map(|case| {
        let service = setup::Service::new(case.mode, case.vip(), case.protocol, "\"8000-8100\"");
        service.to(backend(true, 1), None)
    }));
    setup
}

/// Requests to the services of [`hashed`].
fn requests() -> Vec<Frame> {
    let port = |case: Case| if case.v4 { 8050 } else { case.service_port() };
    let cases = Case::all().into_iter().filter(|case| case.v4 || case.mode == Mode::Nat);
    let request = |case: Case| {
        case.request().with(|frame| *frame.packet.body.destination_port() = port(case))
    };
    cases.map(request).collect()
}

#[test]
fn hashed_keys_are_the_same_on_nodes_that_number_services_otherwise() -> Result<()> {
    let other = Case { mode: Mode::Dsr, v4: false, protocol: Protocol::Udp };
    let mut preceded = hashed();
    preceded.services.insert(0, other.service(&[9]));
    let mut seen = Vec::new();
    for setup in [hashed(), preceded] {
        Subject::with(&setup, |subject| {
            subject.place_by([7, 11]);
            let requests = requests();
            requests.iter().for_each(|request| _ = goes_to(subject, request));
            let ids: Vec<_> = requests.iter().map(|r| subject.service_of(r).0).collect();
            let keys: BTreeSet<_> = subject.all_flows().iter().map(|(key, _)| *key).collect();
            seen.push((ids, keys));
        })?;
    }
    let [(ids, keys), (other_ids, other_keys)] = &seen[..] else { panic!("two nodes") };
    assert!(ids.iter().zip(other_ids).all(|(id, other)| id != other), "{ids:?} {other_ids:?}");
    // One of each flow, and one of each that shares its backend.
    assert_eq!(keys.len(), 8);
    assert_eq!(keys, other_keys);
    Ok(())
}

#[test]
fn nothing_is_marked_of_who_does_without_affinity() -> Result<()> {
    Subject::with(&untracked(&[1, 2, 3]), |subject| {
        // Tables that disagree about some flows.
        subject.reload(&untracked(&[1, 3, 4]));
        subject.join_group();
        for case in Case::all().into_iter().filter(|case| case.protocol == Protocol::Udp) {
            for number in 0..40 {
                let request = case.request_from(client_number(case.v4, number), PORT);
                for _ in 0..3 {
                    assert_eq!(subject.marks_of(&request), none(), "{}", case.name());
                }
            }
        }
        assert_eq!(subject.all_flows(), []);
    })
}

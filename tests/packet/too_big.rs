//! What is longer than the way to its backend carries: its sender learns how long
//! it may be (RFC 1191, RFC 8201).

use lb_common::{backend::flags, stats::Counter};
use lb_tests::harness::{Mode, Result};

use super::{
    case::Case,
    forward::assert_forwarded,
    frame::{Body, Extension, Frame, Icmp, QINQ, VLAN},
    network::backend,
    refuse::{answer, hold_refusals},
    subject::{Subject, eventually},
};

/// What the way carries.
const MTU: usize = 1400;

/// The request as an IP packet of so many bytes.
fn sized(request: &Frame, size: usize) -> Frame {
    let mut frame = request.clone();
    let payload = frame.packet.body.payload().len();
    let rest = frame.bytes().len() - frame.l3() - payload;
    *frame.packet.body.payload() = (0..size - rest).map(|i| i as u8).collect();
    frame
}

/// The error about a request, of which `quote` bytes are quoted at most.
fn too_big(request: &Frame, mtu: usize, quote: usize) -> Frame {
    let mut payload = request.packet.bytes();
    payload.truncate(quote);
    let [.., high, low] = mtu.to_be_bytes();
    let (kind, code) = if request.packet.source.is_ipv4() { (3, 4) } else { (2, 0) };
    answer(request, Body::Icmp(Icmp { kind, code, rest: [0, 0, high, low], payload }))
}

fn most(case: Case) -> usize {
    if case.v4 { 576 - 28 } else { 1280 - 48 }
}

/// Has the agent learn that ways changed: each backend's carries so much.
fn change(subject: &Subject<'_>, lines: &str, mtu: usize) {
    subject.lab.balancer.ip(lines).unwrap();
    let is_known = || {
        let entries = (1..64).map(|id| subject.backends.get(&id, 0).expect("an entry"));
        let mut used = entries.filter(|entry| entry.flags & flags::IN_USE != 0);
        used.all(|entry| entry.flags & flags::RESOLVED != 0 && entry.mtu == mtu as u32)
    };
    assert!(eventually(is_known), "{mtu}");
}

fn link(subject: &Subject<'_>, mtu: usize) {
    change(subject, &format!("link set l1 mtu {mtu}\n"), mtu);
}

#[test]
fn its_sender_learns_how_long_it_may_be() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        link(subject, MTU);
        for case in Case::all() {
            let request = case.request();
            assert_forwarded(subject, case, "as long as may be", &sized(&request, MTU));
            let tagged = |tags: &[(u16, u16)]| request.with(|frame| frame.tags = tags.to_vec());
            let dressed = request.with(|frame| {
                if case.v4 {
                    frame.packet.options = vec![1; 40];
                } else {
                    frame.packet.extensions = vec![Extension::routing()];
                }
            });
            let frames =
                [request.clone(), tagged(&[(VLAN, 7)]), tagged(&[(QINQ, 8), (VLAN, 9)]), dressed];
            for (frame, size) in frames.iter().zip([MTU + 1, 1500, MTU + 2, MTU + 3]) {
                let long = sized(frame, size);
                let expected = too_big(&long, MTU, most(case));
                subject.answers(&case.name(), &long, &expected, Counter::TooBig);
            }
        }
        link(subject, 1500);
        for case in Case::all() {
            assert_forwarded(subject, case, "again", &sized(&case.request(), 1500));
        }
    })
}

#[test]
fn a_way_carries_what_its_route_says() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        let routes = "route add 10.2.0.11/32 dev l1 mtu 1300\n\
                      -6 route add fd00:2::11/128 dev l1 mtu 1300\n";
        change(subject, routes, 1300);
        for case in Case::all() {
            assert_forwarded(subject, case, "1300 bytes", &sized(&case.request(), 1300));
            let long = sized(&case.request(), 1301);
            let expected = too_big(&long, 1300, most(case));
            subject.answers(&case.name(), &long, &expected, Counter::TooBig);
        }
    })
}

#[test]
fn what_may_be_cut_is_left_to_the_kernel_where_that_knows_the_way() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        link(subject, MTU);
        for case in Case::all().into_iter().filter(|case| case.v4) {
            let long = sized(&case.request(), MTU + 1).with(|frame| frame.packet.fragment = 0);
            if case.mode == Mode::Nat {
                let expected = case.forwarded(&long, 1).with(|frame| {
                    (frame.to, frame.from) = (long.to, long.from);
                });
                subject.forwards(&case.name(), &long, &expected, backend(true, 1));
            } else {
                let expected = too_big(&long, MTU, most(case));
                subject.answers(&case.name(), &long, &expected, Counter::TooBig);
            }
        }
    })
}

#[test]
fn who_sends_too_many_is_not_told_of_all() -> Result<()> {
    Subject::with(&Case::setup(), |subject| {
        link(subject, MTU);
        for case in Case::all() {
            let long = sized(&case.request(), MTU + 1);
            let expected = too_big(&long, MTU, most(case));
            subject.answers(&case.name(), &long, &expected, Counter::TooBig);
            hold_refusals(subject, |latest| latest + (1000 << 32));
            subject.drops(&case.name(), &long, Counter::RefusalLimited);
            hold_refusals(subject, |_| 0);
            subject.answers(&case.name(), &long, &expected, Counter::TooBig);
        }
    })
}

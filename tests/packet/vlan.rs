//! Tags of VLANs (IEEE 802.1Q): kept where the balancer knows of no VLAN, else those of the
//! way that the frame goes. Where kernels know of VLANs is told by the tests of
//! `core::nexthop`; here the maps say what follows from it.

use lb_common::nexthop::vlan;
use lb_tests::harness::{Mode, Result};

use super::{
    case::{Case, PORT, client},
    frame::{Frame, QINQ, VLAN},
    fullnat::way,
    network::backend,
    subject::{Action, Subject},
    tunnel,
};

/// Tags of frames that come: none, one with a priority, two.
fn tags() -> [Vec<(u16, u16)>; 3] {
    [vec![], vec![(VLAN, 0x6007)], vec![(QINQ, 8), (VLAN, 9)]]
}

/// Those that frames leave with.
fn leaves_with(tags: &[(u16, u16)], vlan: u16) -> Vec<(u16, u16)> {
    match (tags, vlan) {
        ([_, _], _) | (_, vlan::KEPT) => tags.to_vec(),
        (_, vlan::NONE) => Vec::new(),
        ([], number) => vec![(VLAN, number)],
        ([(kind, control), ..], number) => vec![(*kind, control & 0xf000 | number)],
    }
}

fn tagged(frame: &Frame, tags: Vec<(u16, u16)>) -> Frame {
    frame.with(|frame| frame.tags = tags)
}

const ALL: [u16; 4] = [vlan::KEPT, vlan::NONE, 100, 4094];

#[test]
fn frames_leave_with_the_tag_of_their_way() -> Result<()> {
    for vlan in ALL {
        Subject::with(&Case::setup(), |subject| {
            subject.set_vlan(vlan);
            for case in Case::all() {
                for tags in tags() {
                    let what = format!("{}: {tags:x?}, VLAN {vlan}", case.name());
                    let request = tagged(&case.request(), tags.clone());
                    let expected = tagged(&case.forwarded(&request, 1), leaves_with(&tags, vlan));
                    let before = subject.stats();
                    let (action, frame) = subject.run_uncounted(&request);
                    assert_eq!((action, &frame), (Action::Redirect, &expected.bytes()), "{what}");
                    let packets = |stats: &[lb_common::stats::BackendStats]| {
                        stats.iter().map(|stats| stats.packets).sum::<u64>()
                    };
                    assert_eq!(packets(&subject.stats()), packets(&before) + 1, "{what}");
                    if case.mode == Mode::Nat {
                        let answer = tagged(&case.answer(1), tags.clone());
                        let expected = case.answered(&answer);
                        let expected = tagged(&expected, leaves_with(&tags, vlan));
                        subject.replies(&what, &answer, &expected, backend(case.v4, 1));
                    }
                }
            }
        })?;
    }
    Ok(())
}

#[test]
fn so_do_frames_whose_ends_are_rewritten() -> Result<()> {
    for vlan in ALL {
        Subject::with(&way::Way::setup(&[1]), |subject| {
            let all = way::Way::all().into_iter();
            let all: Vec<_> =
                all.map(|way| (way, way.begin(subject, client(way.v4), PORT))).collect();
            subject.set_vlan(vlan);
            for (way, (bound, number)) in all {
                for tags in tags() {
                    let what = format!("{}: {tags:x?}, VLAN {vlan}", way.name());
                    let request = tagged(&way.request(client(way.v4), PORT), tags.clone());
                    let expected = way.forwarded(&request, bound, number);
                    let expected = tagged(&expected, leaves_with(&tags, vlan));
                    let (action, frame) = subject.run_uncounted(&request);
                    assert_eq!((action, frame), (Action::Redirect, expected.bytes()), "{what}");
                    let answer = tagged(&way.answer(bound, number), tags.clone());
                    let expected = way.answered(&answer, (client(way.v4), PORT));
                    let expected = tagged(&expected, leaves_with(&tags, vlan));
                    subject.replies(&what, &answer, &expected, backend(way.v4, number));
                }
            }
        })?;
    }
    Ok(())
}

#[test]
fn so_do_frames_that_are_wrapped() -> Result<()> {
    Subject::with(&tunnel::Way::setup(&[1]), |subject| {
        let ways = tunnel::Way::all().into_iter();
        let requests: Vec<_> = ways.flat_map(|way| tags().map(|tags| (way, tags))).collect();
        let runs = |vlan| {
            subject.set_vlan(vlan);
            let runs = requests.iter().map(|(way, tags)| {
                let (action, frame) = subject.run_uncounted(&tagged(&way.request(), tags.clone()));
                assert_eq!(action, Action::Redirect, "{}: {tags:x?}", way.name());
                frame
            });
            runs.collect::<Vec<_>>()
        };
        let kept = runs(vlan::KEPT);
        for vlan in ALL {
            for (((way, tags), kept), frame) in requests.iter().zip(&kept).zip(runs(vlan)) {
                // All is as it was but the tags.
                let left: Vec<u8> = leaves_with(tags, vlan)
                    .into_iter()
                    .flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()])
                    .flatten()
                    .collect();
                let expected = [&kept[..12], &left, &kept[12 + 4 * tags.len()..]].concat();
                assert!(frame == expected, "{}: {tags:x?}, VLAN {vlan}", way.name());
            }
        }
    })
}

//! Datagrams that are longer than a packet, cut and put together by the kernels of
//! clients and backends.

use std::time::Duration;

use lb_common::stats::Counter;
use lb_tests::harness::{Lab, Mode, NAT_V4, NAT_V6, Result, ask_udp, eventually};

use super::{
    ECHO, VIPS, all_services, fullnat, names,
    tunnel::{tunnelled, unwrap_everywhere},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Four full packets and a bit.
const LONG: usize = 6000;
/// What tells that fragments were lost, or taken for something else.
const FAULTS: [Counter; 3] = [Counter::Fragment, Counter::FragmentOverlap, Counter::NatConflict];

fn no_faults(lab: &Lab) -> Result<()> {
    for fault in FAULTS {
        assert_eq!(lab.pins().counter(fault)?, 0, "{}", fault.name());
    }
    Ok(())
}

#[test]
fn long_datagrams_are_answered_by_every_backend() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    let long = "x".repeat(LONG);
    for (vip, mode) in VIPS {
        let mut answered = std::collections::BTreeSet::new();
        for _ in 0..40 {
            answered.insert(ask_udp(&lab.client, (vip, ECHO).into(), &long)?);
        }
        assert_eq!(answered, names(&lab), "{mode} at {vip}");
    }
    no_faults(&lab)
}

#[test]
fn long_datagrams_are_told_apart_that_come_from_one_address() -> Result<()> {
    let lab = fullnat::lab(2)?;
    let _agent = lab.start_agent(&fullnat::config(&lab, ""))?;
    let long = "x".repeat(LONG);
    for vip in fullnat::VIPS {
        let mut answered = std::collections::BTreeSet::new();
        for _ in 0..40 {
            answered.insert(ask_udp(&lab.client, (vip, ECHO).into(), &long)?);
        }
        assert_eq!(answered, names(&lab), "{vip}");
    }
    no_faults(&lab)
}

/// Fragments as long as a packet may be do not fit in a tunnel: clients learn that from
/// the first ones, and send shorter ones.
#[test]
fn long_datagrams_go_through_tunnels() -> Result<()> {
    let lab = Lab::new(1)?;
    unwrap_everywhere(&lab)?;
    let long = "x".repeat(LONG);
    for echo in [Mode::Ipip, Mode::Gue] {
        for outer_v4 in [true, false] {
            let _agent = lab.start_agent(&tunnelled(&lab, outer_v4, echo))?;
            for vip in [VIPS[2].0, VIPS[3].0] {
                let learns = || ask_udp(&lab.client, (vip, ECHO).into(), &long).is_ok();
                assert!(
                    eventually(PATIENCE, learns),
                    "{echo} at {vip}: {:?}",
                    lab.pins().counters()?
                );
                for _ in 0..5 {
                    ask_udp(&lab.client, (vip, ECHO).into(), &long)?;
                }
            }
        }
    }
    no_faults(&lab)
}

/// The last link to the backend carries less: the kernel cuts fragments once more.
#[test]
fn fragments_are_cut_again_on_a_way_that_carries_less() -> Result<()> {
    let lab = Lab::new(1)?;
    let [v4, v6] = [true, false].map(|v4| lab.backends[0].address(v4));
    lab.balancer.ip(&format!(
        "route add {v4}/32 dev l1 mtu 1300\n-6 route add {v6}/128 dev l1 mtu 1300\n"
    ))?;
    let _agent = lab.start_agent(&lab.config(all_services(&lab)))?;
    let long = "x".repeat(LONG);
    for vip in [NAT_V4, NAT_V6] {
        let answered = || ask_udp(&lab.client, (vip, ECHO).into(), &long).is_ok();
        assert!(eventually(PATIENCE, answered), "{vip}: {:?}", lab.pins().counters()?);
    }
    Ok(())
}

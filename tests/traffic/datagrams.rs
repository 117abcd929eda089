//! UDP services that remember no flow (`affinity = "none"`).

use std::collections::BTreeSet;

use lb_tests::harness::{
    Lab, Protocol, Result, Service, answers_udp, source_addresses, spread_udp,
};

use super::{ECHO, VIPS, all_answer, names};

/// Datagrams for each look.
const DATAGRAMS: usize = 400;

fn services(lab: &Lab) -> Vec<Service> {
    let service = |&(vip, mode): &_| Service::new(vip, Protocol::Udp, ECHO, mode);
    let service = |of: &_| service(of).with(&lab.backends).lines("affinity = \"none\"");
    VIPS.iter().map(service).collect()
}

#[test]
fn datagrams_without_affinity_are_answered_and_leave_nothing() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(services(&lab)))?;
    for (vip, mode) in VIPS {
        assert!(all_answer(&lab, vip), "{mode} at {vip}: {:?}", lab.pins().counters()?);
        let to = (vip, ECHO).into();
        let counts = spread_udp(&lab.client, &source_addresses(vip.is_ipv4()), to, DATAGRAMS)?;
        assert_eq!(counts.into_keys().collect::<BTreeSet<_>>(), names(&lab), "{mode} at {vip}");
    }
    assert_eq!(lab.pins().recorded()?, 0);
    assert_eq!(lab.json(&["status"])?["flows"], 0);
    let explained = lab.json(&["explain", "10.1.0.2:5555", "203.0.113.10:7", "--proto", "udp"])?;
    let steps = explained["steps"].as_array().expect("steps");
    let affinity = steps.iter().find(|step| step["step"] == "affinity").expect("the step");
    assert_eq!(affinity["answer"], "none: every datagram goes by the table");
    Ok(())
}

/// A client keeps its port, and is with another backend as soon as weights say so; who
/// is not concerned stays where the table has him.
#[test]
fn weights_and_orders_are_followed_by_the_next_datagram() -> Result<()> {
    let lab = Lab::new(3)?;
    let _agent = lab.start_agent(&lab.config(services(&lab)))?;
    for ((vip, _), service) in VIPS.iter().zip(services(&lab)) {
        let asked = || {
            let sources = source_addresses(vip.is_ipv4());
            answers_udp(&lab.client, &sources, (*vip, ECHO).into(), DATAGRAMS)
        };
        let before = asked()?;
        assert_eq!(asked()?, before);
        lab.done(&["backend", "drain", service.name(), "b2"])?;
        let after = asked()?;
        assert!(before.iter().any(|name| name == "b2"), "{vip}");
        assert!(after.iter().all(|name| name != "b2"), "{vip}");
        lab.done(&["backend", "ready", service.name(), "b2"])?;
        assert_eq!(asked()?, before, "{vip}");
    }
    assert_eq!(lab.pins().recorded()?, 0);
    Ok(())
}

//! Shares of new flows.

use lb_tests::harness::{
    Lab, Mode, NAT_V4, Protocol, Result, Service, source_addresses, spread_udp,
};

use super::ECHO;

/// New flows for each look.
const FLOWS: usize = 20_000;

#[test]
fn shares_of_twenty_thousand_flows_are_the_weights() -> Result<()> {
    let lab = Lab::new(3)?;
    let service = Service::new(NAT_V4, Protocol::Udp, ECHO, Mode::Nat).with(&lab.backends);
    let echo = service.name().to_owned();
    let _agent = lab.start_agent(&lab.config([service]))?;
    for (backend, weight) in [("b1", "60"), ("b2", "30"), ("b3", "10")] {
        lab.done(&["backend", "set", &echo, backend, "--weight", weight])?;
    }
    let counts = spread_udp(&lab.client, &source_addresses(true), (NAT_V4, ECHO).into(), FLOWS)?;
    for (backend, expected) in [("b1", 0.6), ("b2", 0.3), ("b3", 0.1)] {
        let share = counts[backend] as f64 / FLOWS as f64;
        assert!((share - expected).abs() < 0.02, "{counts:?}");
    }
    // The agent tells what the clients saw.
    let flows = lab.backends_by(&echo, "flows")?;
    assert!(counts.iter().all(|(backend, count)| flows[backend] == *count), "{counts:?} {flows:?}");
    assert_eq!(lab.json(&["stats"])?["services"][0]["new_flows"], FLOWS);
    Ok(())
}

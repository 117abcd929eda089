//! Shares of new flows.

use lb_tests::harness::{
    Lab, Mode, NAT_V4, Protocol, Result, Service, answers_udp, crowd, source_addresses, spread_udp,
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

#[test]
fn shares_of_twenty_thousand_clients_are_the_split_and_ramping_takes_none_back() -> Result<()> {
    let lab = Lab::new(3)?;
    lab.gather_crowd()?;
    let clients = crowd(FLOWS as u16);
    let mut service = Service::new(NAT_V4, Protocol::Udp, ECHO, Mode::Nat)
        .with(&lab.backends)
        .lines("[service.split]\nblue = 99\ngreen = 1");
    for (backend, group) in [("b1", "blue"), ("b2", "blue"), ("b3", "green")] {
        service.set(backend, &format!("group = \"{group}\""));
    }
    let echo = service.name().to_owned();
    let _agent = lab.start_agent(&lab.config([service]))?;
    let mut taken: Vec<bool> = vec![false; FLOWS];
    for green in [1, 5, 25] {
        let blue = format!("split.blue={}", 100 - green);
        lab.done(&["service", "set", &echo, &blue, &format!("split.green={green}")])?;
        // All of them are new again.
        lab.done(&["flow", "flush", "--all"])?;
        let answers = answers_udp(&lab.client, &clients, (NAT_V4, ECHO).into(), FLOWS)?;
        let takes: Vec<bool> = answers.iter().map(|name| name == "b3").collect();
        let count = takes.iter().filter(|takes| **takes).count();
        let share = count as f64 / FLOWS as f64;
        assert!((share - f64::from(green) / 100.0).abs() < 0.02, "{share} of {green} %");
        let back = taken.iter().zip(&takes).filter(|(before, now)| **before && !**now).count();
        assert_eq!(back, 0, "clients taken back by {green} % of green");
        taken = takes;
    }
    Ok(())
}

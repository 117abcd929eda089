//! Thousands of services.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use lb_tests::harness::{
    Config, Flows, Lab, NAT_V4, Result, Survey, curl, fleet, source_addresses,
};

/// Services.
const SERVICES: u16 = 1500;
/// Backends of each.
const BACKENDS: u16 = 3;
/// Live flows at each of three services.
const FLOWS: usize = 50;

fn at(config: &Config, index: u16) -> (&str, SocketAddr) {
    let service = &config.services[usize::from(index)];
    (service.name(), (NAT_V4, service.port()).into())
}

#[test]
fn fifteen_hundred_services_are_operated_like_one() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.answer_for_fleet()?;
    let config = lab.config(fleet(SERVICES, BACKENDS, ""));
    let agent = lab.start_agent(&config)?;
    let places = [0, SERVICES / 2, SERVICES - 1];
    let sources = source_addresses(true);
    let open = |&place: &u16| Flows::open(&lab.client, &sources, at(&config, place).1, FLOWS);
    let mut flows = places.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut kept = |when: &str| {
        for flows in &mut flows {
            let all = Survey { kept: FLOWS, moved: 0, broken: 0 };
            assert_eq!(flows.survey(None), all, "{when}");
        }
    };

    // Lists are whole.
    let services = lab.json(&["service", "list"])?;
    assert_eq!(services.as_array().map(Vec::len), Some(usize::from(SERVICES)));
    assert!(services.as_array().unwrap().iter().all(|one| one["up"] == BACKENDS), "{services}");
    let rows = lab.done(&["backend", "list"])?.stdout.lines().count();
    assert_eq!(rows, 1 + usize::from(SERVICES * BACKENDS));

    // One edit changes one service.
    let (last, to) = at(&config, SERVICES - 1);
    lab.done(&["backend", "set", last, "b1", "--weight", "7"])?;
    lab.done(&["backend", "maint", last, "b2"])?;
    lab.done(&["backend", "ready", last, "b2"])?;
    let weights = lab.backends_by(last, "effective_weight")?;
    let expected = [("b1", 7), ("b2", 100), ("b3", 100)];
    assert_eq!(weights, BTreeMap::from(expected.map(|(name, n)| (name.into(), n.into()))));
    assert_eq!(curl(&lab.client, &format!("http://{to}/"))?, "b1\n");
    kept("after edits");

    // A plan names the service that changes, and no other.
    let (middle, _) = at(&config, SERVICES / 2);
    let mut less = config.clone();
    less.services[usize::from(SERVICES / 2)].remove("b3");
    let file = lab.path("less.toml");
    fs::write(&file, less.to_string()).unwrap();
    let plan = lab.json(&["plan", &file.display().to_string()])?;
    let change = format!("service `{middle}`: backend `b3` is removed");
    assert_eq!(plan["changes"], serde_json::json!([change]), "{plan}");
    assert_eq!(plan["services"].as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(plan["services"][0]["flows"], FLOWS, "{plan}");

    // A new agent takes all of it over.
    agent.kill()?;
    kept("without an agent");
    let _agent = lab.start_agent(&config)?;
    kept("after adoption");
    assert_eq!(lab.backends_by(last, "effective_weight")?, weights);
    assert_eq!(lab.json(&["flow", "count"])?["flows"], places.len() * FLOWS + 1);
    Ok(())
}

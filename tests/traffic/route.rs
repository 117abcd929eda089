//! Clients are routed to groups of backends by their address.

use std::{collections::BTreeSet, net::IpAddr};

use lb_tests::harness::{
    CLIENT_V4, Flows, Lab, Mode, NAT_V4, Protocol, Result, Service, Survey, source_addresses,
};

use super::WEB;

/// Connections of each client.
const FLOWS: usize = 30;

/// Routes of a wide and, within it, of a narrow prefix.
fn routes(wide: &str, narrow: &str) -> String {
    format!(
        "route=[{{ from = [\"10.1.0.16/28\"], group = \"{wide}\" }}, \
                {{ from = [\"10.1.0.20/32\"], group = \"{narrow}\" }}]"
    )
}

/// Connections of a client, which are to be at just these backends.
fn open(lab: &Lab, client: IpAddr, expected: &[&str]) -> Result<Flows> {
    let flows = Flows::open(&lab.client, &[client], (NAT_V4, WEB).into(), FLOWS)?;
    let found = flows.by_backend();
    let names: BTreeSet<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, expected.iter().copied().collect(), "{client}: {found:?}");
    Ok(flows)
}

/// What is said of a client's route.
fn explained(lab: &Lab, client: IpAddr) -> Result<Option<String>> {
    let [from, to] = [format!("{client}:5555"), format!("{NAT_V4}:{WEB}")];
    let explained = lab.json(&["explain", &from, &to, "--syn"])?;
    let mut steps = explained["steps"].as_array().expect("steps").iter();
    let step = steps.find(|step| step["step"] == "route");
    Ok(step.map(|step| step["answer"].as_str().expect("words").to_owned()))
}

#[test]
fn the_longest_prefix_wins_and_a_change_of_routes_breaks_no_connection() -> Result<()> {
    let lab = Lab::new(3)?;
    let service = Service::new(NAT_V4, Protocol::Tcp, WEB, Mode::Nat).with(&lab.backends);
    let web = service.name().to_owned();
    let _agent = lab.start_agent(&lab.config([service]))?;
    for (backend, group) in [("b1", "blue"), ("b2", "blue"), ("b3", "green")] {
        lab.done(&["backend", "set", &web, backend, "--group", group])?;
    }
    let sources = source_addresses(true);
    let (narrow, wide) = (sources[0], sources[1]);
    let all = ["b1", "b2", "b3"];
    let mut flows = vec![open(&lab, narrow, &all)?, open(&lab, CLIENT_V4, &all)?];
    assert_eq!(explained(&lab, narrow)?, None);

    lab.done(&["service", "set", &web, &routes("blue", "green")])?;
    flows.push(open(&lab, narrow, &["b3"])?);
    flows.push(open(&lab, wide, &["b1", "b2"])?);
    flows.push(open(&lab, CLIENT_V4, &all)?);
    assert_eq!(explained(&lab, narrow)?.as_deref(), Some("`10.1.0.20/32` to group `green`"));
    assert_eq!(explained(&lab, wide)?.as_deref(), Some("`10.1.0.16/28` to group `blue`"));
    let ordinary = explained(&lab, CLIENT_V4)?;
    assert_eq!(ordinary.as_deref(), Some("none, the service's ordinary way"));
    let shown = lab.done(&["service", "show", &web])?.stdout;
    assert!(shown.contains("10.1.0.16/28"), "{shown}");

    lab.done(&["service", "set", &web, &routes("green", "blue")])?;
    flows.push(open(&lab, narrow, &["b1", "b2"])?);
    flows.push(open(&lab, wide, &["b3"])?);
    // A group that takes no new flows is stood in for by the others.
    lab.done(&["backend", "drain", &web, "b3"])?;
    open(&lab, wide, &["b1", "b2"])?;
    let stood_in = "`10.1.0.16/28` to group `green`, none of whose backends takes new flows";
    assert_eq!(explained(&lab, wide)?.as_deref(), Some(stood_in));
    lab.done(&["backend", "ready", &web, "b3"])?;

    lab.done(&["service", "set", &web, "route=[]"])?;
    flows.push(open(&lab, wide, &all)?);
    for mut flows in flows {
        assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 });
    }
    Ok(())
}

#[test]
fn routes_are_in_force_without_an_agent_and_with_the_next() -> Result<()> {
    let lab = Lab::new(2)?;
    let service = Service::new(NAT_V4, Protocol::Tcp, WEB, Mode::Nat).with(&lab.backends);
    let (web, config) = (service.name().to_owned(), lab.config([service]));
    let agent = lab.start_agent(&config)?;
    for backend in ["b1", "b2"] {
        lab.done(&["backend", "set", &web, backend, "--group", backend])?;
    }
    lab.done(&["service", "set", &web, &routes("b1", "b2")])?;
    let narrow = source_addresses(true)[0];
    let mut before = open(&lab, narrow, &["b2"])?;
    agent.kill()?;
    open(&lab, narrow, &["b2"])?;
    let _agent = lab.start_agent(&config)?;
    open(&lab, narrow, &["b2"])?;
    lab.done(&["service", "set", &web, &routes("b2", "b1")])?;
    open(&lab, narrow, &["b1"])?;
    assert_eq!(before.survey(None).kept, FLOWS);
    Ok(())
}

//! The balancer is changed while it serves.

use std::{collections::BTreeMap, time::Duration};

use lb_tests::harness::{
    Agent, Config, DSR_V6, Flows, Lab, Load, Mode, NAT_V4, Protocol, Result, Service, Survey,
    eventually, finish, source_addresses, spread,
};

use super::{WEB, url};

/// How long an order may take to show.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the service at [`NAT_V4`].
const NAME: &str = "nat-tcp-v4-10-80";
/// Live flows.
const FLOWS: usize = 300;

/// Services at all backends: [`NAME`], and one of mode `dsr`.
fn web(lab: &Lab) -> Config {
    let service = |vip, mode| Service::new(vip, Protocol::Tcp, WEB, mode).with(&lab.backends);
    lab.config([service(NAT_V4, Mode::Nat), service(DSR_V6, Mode::Dsr)])
}

/// A lab with [`web`], and its agent.
fn operated(backends: usize) -> Result<(Lab, Agent)> {
    let lab = Lab::new(backends)?;
    let agent = lab.start_agent(&web(&lab))?;
    Ok((lab, agent))
}

/// Connections to [`NAME`].
fn open(lab: &Lab, count: usize) -> Result<Flows> {
    Flows::open(&lab.client, &source_addresses(true), (NAT_V4, WEB).into(), count)
}

/// Where new connections go.
fn takers(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    spread(&lab.client, &url(NAT_V4, WEB, "/"), 60)
}

#[test]
fn weights_set_by_command_are_the_shares_of_new_flows() -> Result<()> {
    let (lab, _agent) = operated(3)?;
    for (backend, weight) in [("b1", "200"), ("b2", "100"), ("b3", "100")] {
        lab.done(&["backend", "set", NAME, backend, "--weight", weight])?;
    }
    let flows = 4000;
    let counts = open(&lab, flows)?;
    // Hashed at random: five standard deviations of that many draws are 0.04.
    let share = |backend: &str| counts.by_backend()[backend] as f64 / flows as f64;
    for (backend, expected) in [("b1", 0.5), ("b2", 0.25), ("b3", 0.25)] {
        assert!((share(backend) - expected).abs() < 0.04, "{:?}", counts.by_backend());
    }
    assert_eq!(lab.backends_by(NAME, "weight")?["b1"], 200);
    assert_eq!(lab.backends_by(NAME, "effective_weight")?["b1"], 200);
    Ok(())
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    let (lab, _agent) = operated(3)?;
    let mut flows = open(&lab, FLOWS)?;
    lab.done(&["backend", "drain", NAME, "b2"])?;
    assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 });
    assert!(!takers(&lab)?.contains_key("b2"));
    assert_eq!(lab.backends_by(NAME, "admin")?["b2"], "drain");
    lab.done(&["backend", "ready", NAME, "b2"])?;
    assert!(takers(&lab)?.contains_key("b2"));
    assert_eq!(flows.survey(None).kept, FLOWS);
    // Maintenance ends what is there, and nothing else.
    let here = flows.by_backend()["b2"];
    lab.done(&["backend", "maint", NAME, "b2"])?;
    let survey = flows.survey(None);
    assert_eq!((survey.kept, survey.moved), (FLOWS - here, 0), "{survey:?}");
    Ok(())
}

#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    let (lab, agent) = operated(2)?;
    let mut flows = open(&lab, 40)?;
    let here = flows.by_backend()["b1"];
    lab.done(&["backend", "drain", NAME, "b1", "--deadline", "1s"])?;
    let listed = || agent.log().lines().filter(|line| line.contains("flow left")).count();
    assert!(eventually(PATIENCE, || listed() == here), "{}", agent.log());
    assert!(agent.log().contains("drain is over"), "{}", agent.log());
    // They are listed just before they end.
    let mut survey = flows.survey(None);
    let ended = || {
        survey = flows.survey(None);
        survey.kept == 40 - here
    };
    assert!(eventually(PATIENCE, ended), "{survey:?}");
    assert_eq!(survey.moved, 0, "{survey:?}");
    Ok(())
}

#[test]
fn draining_every_backend_in_turn_fails_no_request() -> Result<()> {
    let (lab, _agent) = operated(3)?;
    let duration = Duration::from_secs(8);
    let kept = Load { duration, ..Load::new(url(NAT_V4, WEB, "/1k")) }.start(&lab.client)?;
    let closing = Load { duration, close: true, ..Load::new(url(NAT_V4, WEB, "/1k")) };
    let closing = closing.start(&lab.client)?;
    for backend in ["b1", "b2", "b3"] {
        lab.done(&["backend", "drain", NAME, backend])?;
        assert!(!takers(&lab)?.contains_key(backend));
        lab.done(&["backend", "ready", NAME, backend])?;
    }
    for report in [kept.report()?, closing.report()?] {
        assert!(report.is_clean(), "{}", report.text);
    }
    Ok(())
}

#[test]
fn edits_survive_the_agent() -> Result<()> {
    let (lab, agent) = operated(3)?;
    lab.done(&["backend", "set", NAME, "b1", "--weight", "7"])?;
    lab.done(&["backend", "drain", NAME, "b2"])?;
    lab.done(&["backend", "remove", NAME, "b3"])?;
    lab.done(&["firewall", "deny", "192.0.2.0/24"])?;
    agent.kill()?;
    let agent = lab.start_agent(&web(&lab))?;
    let weights = lab.backends_by(NAME, "weight")?;
    assert_eq!(weights, BTreeMap::from([("b1".into(), 7.into()), ("b2".into(), 100.into())]));
    assert_eq!(lab.backends_by(NAME, "admin")?["b2"], "drain");
    assert_eq!(lab.json(&["firewall", "list"])?["deny"][0]["prefix"], "192.0.2.0/24");
    assert_eq!(takers(&lab)?.keys().collect::<Vec<_>>(), ["b1"], "{}", agent.log());
    // The file is all again.
    lab.done(&["reload", "--discard-edits"])?;
    assert_eq!(takers(&lab)?.len(), 3);
    Ok(())
}

#[test]
fn what_is_explained_is_where_the_packet_goes() -> Result<()> {
    let (lab, _agent) = operated(3)?;
    let explain = || lab.json(&["explain", "10.1.0.2:5555", "203.0.113.10:80", "--syn"]);
    let explained = explain()?;
    let answer = |step: &str| -> String {
        let mut steps = explained["steps"].as_array().expect("steps").iter();
        let found = steps.find(|one| one["step"] == step).unwrap_or_else(|| panic!("no {step}"));
        found["answer"].as_str().unwrap().to_owned()
    };
    assert_eq!(answer("service"), NAME);
    assert_eq!(explained["verdict"], "redirect", "{explained}");
    let before = lab.pins().traffic()?;
    assert_eq!(explain()?, explained);
    assert_eq!(lab.pins().traffic()?, before);
    let mut curl = lab.client.command("curl");
    curl.args(["--silent", "--interface", "10.1.0.2", "--local-port", "5555"]);
    let output = finish(curl.arg(url(NAT_V4, WEB, "/")), PATIENCE)?;
    let backend = answer("backend");
    assert!(backend.starts_with(&format!("{} (", output.stdout.trim())), "{backend}");
    Ok(())
}

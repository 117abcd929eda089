//! The balancer is changed while it serves.

use std::{collections::BTreeMap, time::Duration};

use lb_tests::harness::{
    Config, DSR_V6, Flows, Lab, Load, Mode, NAT_V4, Protocol, Result, Service, Survey, eventually,
    finish, source_addresses, spread,
};

use super::{WEB, url};

/// How long an order may take to show.
const PATIENCE: Duration = Duration::from_secs(10);
/// Live flows.
const FLOWS: usize = 300;

fn web(lab: &Lab, lines: &str) -> Config {
    let service =
        |vip, mode| Service::new(vip, Protocol::Tcp, WEB, mode).with(&lab.backends).lines(lines);
    lab.config([service(NAT_V4, Mode::Nat), service(DSR_V6, Mode::Dsr)])
}

/// Name of the service at [`NAT_V4`].
fn name(config: &Config) -> &str {
    config.services[0].name()
}

fn done(lab: &Lab, words: &[&str]) -> Result<String> {
    let output = lab.ask(words)?;
    assert!(output.status.success(), "lb {}: {}{}", words.join(" "), output.stdout, output.stderr);
    Ok(output.stdout)
}

/// Where new connections go.
fn takers(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    spread(&lab.client, &url(NAT_V4, WEB, "/"), 60)
}

/// A field of every backend, by name.
fn backends(lab: &Lab, service: &str, field: &str) -> Result<BTreeMap<String, String>> {
    let list = lab.json(&["backend", "list", service])?;
    let all = list.as_array().expect("a list").iter();
    Ok(all.map(|b| (b["name"].as_str().unwrap().to_owned(), b[field].to_string())).collect())
}

#[test]
fn weights_set_by_command_are_the_shares_of_new_flows() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab, "");
    let _agent = lab.start_agent(&config)?;
    let web = name(&config);
    for (backend, weight) in [("b1", "200"), ("b2", "100"), ("b3", "100")] {
        done(&lab, &["backend", "set", web, backend, "--weight", weight])?;
    }
    let flows = 4000;
    let counts = Flows::open(&lab.client, &source_addresses(true), (NAT_V4, WEB).into(), flows)?;
    let share = |backend: &str| counts.by_backend()[backend] as f64 / flows as f64;
    for (backend, expected) in [("b1", 0.5), ("b2", 0.25), ("b3", 0.25)] {
        assert!((share(backend) - expected).abs() < 0.02, "{:?}", counts.by_backend());
    }
    assert_eq!(backends(&lab, web, "weight")?["b1"], "200");
    assert_eq!(backends(&lab, web, "effective_weight")?["b1"], "200");
    Ok(())
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab, "");
    let _agent = lab.start_agent(&config)?;
    let web = name(&config);
    let to = (NAT_V4, WEB).into();
    let mut flows = Flows::open(&lab.client, &source_addresses(true), to, FLOWS)?;
    done(&lab, &["backend", "drain", web, "b2"])?;
    assert_eq!(flows.survey(None), Survey { kept: FLOWS, moved: 0, broken: 0 });
    assert!(!takers(&lab)?.contains_key("b2"));
    assert_eq!(backends(&lab, web, "admin")?["b2"], "\"drain\"");
    done(&lab, &["backend", "ready", web, "b2"])?;
    assert!(takers(&lab)?.contains_key("b2"));
    assert_eq!(flows.survey(None).kept, FLOWS);
    // Maintenance ends what is there, and nothing else.
    let here = flows.by_backend()["b2"];
    done(&lab, &["backend", "maint", web, "b2"])?;
    let survey = flows.survey(None);
    assert_eq!((survey.kept, survey.moved), (FLOWS - here, 0), "{survey:?}");
    Ok(())
}

#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = web(&lab, "");
    let agent = lab.start_agent(&config)?;
    let web = name(&config);
    let to = (NAT_V4, WEB).into();
    let mut flows = Flows::open(&lab.client, &source_addresses(true), to, 40)?;
    let here = flows.by_backend()["b1"];
    done(&lab, &["backend", "drain", web, "b1", "--deadline", "1s"])?;
    let ended = eventually(PATIENCE, || agent.log().contains("drain is over"));
    assert!(ended, "{}", agent.log());
    let survey = flows.survey(None);
    assert_eq!((survey.kept, survey.moved), (40 - here, 0), "{survey:?}");
    Ok(())
}

#[test]
fn draining_every_backend_in_turn_fails_no_request() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab, "");
    let _agent = lab.start_agent(&config)?;
    let web = name(&config);
    let duration = Duration::from_secs(8);
    let kept = Load { duration, ..Load::new(url(NAT_V4, WEB, "/1k")) }.start(&lab.client)?;
    let closing = Load { duration, close: true, ..Load::new(url(NAT_V4, WEB, "/1k")) };
    let closing = closing.start(&lab.client)?;
    for backend in ["b1", "b2", "b3"] {
        done(&lab, &["backend", "drain", web, backend])?;
        assert!(!takers(&lab)?.contains_key(backend));
        done(&lab, &["backend", "ready", web, backend])?;
    }
    for report in [kept.report()?, closing.report()?] {
        assert!(report.is_clean(), "{}", report.text);
    }
    Ok(())
}

#[test]
fn edits_survive_the_agent() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab, "");
    let agent = lab.start_agent(&config)?;
    let web = name(&config);
    done(&lab, &["backend", "set", web, "b1", "--weight", "7"])?;
    done(&lab, &["backend", "drain", web, "b2"])?;
    done(&lab, &["backend", "remove", web, "b3"])?;
    done(&lab, &["firewall", "deny", "192.0.2.0/24"])?;
    agent.kill()?;
    let agent = lab.start_agent(&config)?;
    let weights = backends(&lab, web, "weight")?;
    assert_eq!(weights, BTreeMap::from([("b1".into(), "7".into()), ("b2".into(), "100".into())]));
    assert_eq!(backends(&lab, web, "admin")?["b2"], "\"drain\"");
    assert_eq!(lab.json(&["firewall", "list"])?["deny"][0]["prefix"], "192.0.2.0/24");
    assert_eq!(takers(&lab)?.keys().collect::<Vec<_>>(), ["b1"], "{}", agent.log());
    // The file is all again.
    done(&lab, &["reload", "--discard-edits"])?;
    assert_eq!(takers(&lab)?.len(), 3);
    Ok(())
}

#[test]
fn what_is_explained_is_where_the_packet_goes() -> Result<()> {
    let lab = Lab::new(3)?;
    let config = web(&lab, "");
    let _agent = lab.start_agent(&config)?;
    let explain = || lab.json(&["explain", "10.1.0.2:5555", "203.0.113.10:80", "--syn"]);
    let explained = explain()?;
    let answer = |step: &str| -> String {
        let mut steps = explained["steps"].as_array().expect("steps").iter();
        let found = steps.find(|one| one["step"] == step).unwrap_or_else(|| panic!("no {step}"));
        found["answer"].as_str().unwrap().to_owned()
    };
    assert_eq!(answer("service"), name(&config));
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

//! `admin.http`: metrics and health over HTTP.

use std::{net::TcpListener, time::Instant};

use lb_tests::harness::{
    Config, Flows, Lab, Load, METRICS, Metrics, Mode, NAT_V4, Output, Protocol, Result, Service,
    eventually, finish, fleet, http_get, source_addresses, spread,
};
use serde_json::Value;

use super::{PATIENCE, URL, WEB, other, web};

/// [`web`], probed, with metrics.
fn measured(lab: &Lab) -> Config {
    let service = Service::new(NAT_V4, Protocol::Tcp, 80, Mode::Nat);
    let health = "[service.health]\nkind = \"tcp\"\ninterval = \"100ms\"";
    with_metrics(lab.config([service.lines(health).with(&lab.backends)]))
}

fn with_metrics(config: Config) -> Config {
    Config { http: Some(METRICS.parse().unwrap()), ..config }
}

/// A counter of `lb stats`, and what it is called in metrics.
const TRAFFIC: [&str; 5] = ["packets", "bytes", "reply_packets", "reply_bytes", "new_flows"];

fn number(value: &Value) -> Option<f64> {
    value.as_u64().map(|number| number as f64)
}

#[test]
fn metrics_are_what_the_commands_show() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&measured(&lab))?;
    let healthy = || {
        let up = lab.backends_by(WEB, "health");
        up.is_ok_and(|up| up.values().all(|health| health == "up"))
    };
    assert!(eventually(PATIENCE, healthy));
    spread(&lab.client, URL, 30)?;
    lab.done(&["backend", "set", WEB, "b2", "--weight", "7"])?;
    lab.refused(1, &["backend", "set", WEB, "b9", "--weight", "7"])?;
    lab.done(&["reload"])?;

    let (stats, status) = (lab.json(&["stats"])?, lab.json(&["status"])?);
    let metrics = Metrics::scrape(&lab.balancer)?;
    let vip = NAT_V4.to_string();
    let service = [("service", WEB), ("vip", &vip)];
    for field in TRAFFIC {
        let name = format!("lb_service_{field}_total");
        assert_eq!(metrics.get(&name, &service), number(&stats["services"][0][field]), "{name}");
        for (index, backend) in ["b1", "b2"].into_iter().enumerate() {
            let name = format!("lb_backend_{field}_total");
            let labels = [("service", WEB), ("backend", backend)];
            let shown = number(&stats["backends"][index][field]);
            assert_eq!(metrics.get(&name, &labels), shown, "{name}");
        }
    }
    for (reason, packets) in stats["drops"].as_object().unwrap() {
        let counted = metrics.get("lb_drops_total", &[("reason", reason)]);
        assert_eq!(counted, number(packets), "{reason}");
    }
    assert!(metrics.get("lb_packets_passed_total", &[]) >= number(&stats["passed"]));
    for (name, labels, expected) in [
        ("lb_generation", &[][..], number(&status["generation"])),
        ("lb_flow_capacity", &[], Some(65_536.0)),
        ("lb_edits_in_force", &[], Some(1.0)),
        ("lb_interface_attached", &[("interface", "l0"), ("mode", "native")], Some(1.0)),
        ("lb_build_info", &[("version", status["version"].as_str().unwrap())], Some(1.0)),
        ("lb_service_backends_up", &service, Some(2.0)),
        ("lb_backend_up", &[("service", WEB), ("backend", "b1")], Some(1.0)),
        ("lb_backend_effective_weight", &[("service", WEB), ("backend", "b2")], Some(7.0)),
        ("lb_edits_total", &[("result", "done")], Some(1.0)),
        ("lb_edits_total", &[("result", "refused")], Some(1.0)),
        ("lb_reloads_total", &[("result", "done")], Some(1.0)),
        ("lb_backend_probes_total", &[("service", WEB), ("result", "failure")], Some(0.0)),
    ] {
        assert_eq!(metrics.get(name, labels), expected, "{name} {labels:?}");
    }
    let probes = metrics.get("lb_backend_probe_seconds_count", &[("service", WEB)]);
    let successes = [("service", WEB), ("result", "success")];
    assert!(probes > Some(1.0) && probes == metrics.get("lb_backend_probes_total", &successes));
    // A single balancer has no pair.
    assert_eq!(metrics.all("lb_ha_role").count(), 0);
    Ok(())
}

#[test]
fn counters_rise_under_load_and_many_may_read_them() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&measured(&lab))?;
    let load = Load::new(URL).start(&lab.client)?;
    let packets = || -> Result<f64> {
        let metrics = Metrics::scrape(&lab.balancer)?;
        let vip = NAT_V4.to_string();
        Ok(metrics.get("lb_service_packets_total", &[("service", WEB), ("vip", &vip)]).unwrap())
    };
    let mut before = packets()?;
    let mut rises = || {
        let now = packets().unwrap();
        assert!(now >= before);
        let rose = now > before;
        before = now;
        rose
    };
    for _ in 0..3 {
        assert!(eventually(PATIENCE, &mut rises));
    }
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(packets)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().unwrap().map(drop))
    })?;
    let report = load.report()?;
    assert!(report.is_clean(), "{}", report.text);
    Ok(())
}

#[test]
fn flows_that_are_reset_are_counted() -> Result<()> {
    let lab = Lab::new(2)?;
    let service = Service::new(NAT_V4, Protocol::Tcp, 80, Mode::Nat);
    let config = lab.config([service.lines("on_down = \"reset\"").with(&lab.backends)]);
    let _agent = lab.start_agent(&with_metrics(config))?;
    let to = (NAT_V4, 80).into();
    let mut flows = Flows::open(&lab.client, &source_addresses(true), to, 40)?;
    let lost = flows.by_backend()["b1"];
    lab.done(&["backend", "maint", WEB, "b1"])?;
    assert_eq!(flows.survey(None).kept, 40 - lost);
    let metrics = Metrics::scrape(&lab.balancer)?;
    let broken = metrics.get("lb_flows_broken_total", &[("cause", "reset")]);
    assert_eq!(broken, number(&lab.json(&["stats"])?["reset"]));
    assert!(broken > Some(0.0) && broken <= Some(lost as f64), "{broken:?} of {lost}");
    Ok(())
}

#[test]
fn health_is_told_until_an_interface_is_gone() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&measured(&lab))?;
    assert_eq!(http_get(&lab.balancer, "/healthz")?, (200, "ok\n".into()));
    assert_eq!(http_get(&lab.balancer, "/v1/status")?.0, 404);
    lab.balancer.ip("link del l0")?;
    let told = (503, "the data plane is not attached to `l0`\n".to_owned());
    assert!(eventually(PATIENCE, || http_get(&lab.balancer, "/healthz").unwrap() == told));
    let metrics = Metrics::scrape(&lab.balancer)?;
    assert_eq!(
        metrics.get("lb_interface_attached", &[("interface", "l0"), ("mode", "")]),
        Some(0.0)
    );
    Ok(())
}

#[test]
fn a_port_in_use_keeps_an_agent_from_starting() -> Result<()> {
    let lab = Lab::new(0)?;
    let _used = lab.balancer.within(|| TcpListener::bind(METRICS))?.unwrap();
    let file = lab.write(&measured(&lab))?;
    let Output { status, stderr, .. } =
        finish(lab.lb().args(["agent", "--config"]).arg(file), PATIENCE)?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let error =
        format!("cannot listen at `{METRICS}` for who reads metrics: Address already in use");
    assert!(stderr.contains(&error) && stderr.contains("\nhint: `admin.http` must"), "{stderr}");
    assert_eq!(lab.pins().names(), [""; 0]);
    Ok(())
}

#[test]
fn the_address_does_not_change_while_the_agent_runs() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&measured(&lab))?;
    lab.write(&Config { http: None, ..measured(&lab) })?;
    let says = lab.refused(64, &["reload"])?;
    assert!(says.contains("`admin.http` cannot change while the agent runs"), "{says}");
    let metrics = Metrics::scrape(&lab.balancer)?;
    assert_eq!(metrics.get("lb_reloads_total", &[("result", "refused")]), Some(1.0));
    let open = Config { http: Some("0.0.0.0:9464".parse().unwrap()), ..web(&lab) };
    let file = other(&lab, &open);
    let checked = finish(lab.lb().arg("check").arg(file), PATIENCE)?;
    assert!(checked.stderr.contains("no loopback address"), "{}", checked.stderr);
    Ok(())
}

#[test]
fn a_thousand_services_are_read_at_once() -> Result<()> {
    let lab = Lab::new(1)?;
    lab.answer_for_fleet()?;
    let _agent = lab.start_agent(&with_metrics(lab.config(fleet(1_000, 10, ""))))?;
    let began = Instant::now();
    let metrics = Metrics::scrape(&lab.balancer)?;
    println!("{} samples of 10,000 backends: {:?}", metrics.len(), began.elapsed());
    assert_eq!(metrics.all("lb_backend_packets_total").count(), 10_000);
    assert_eq!(metrics.all("lb_service_packets_total").count(), 1_000);
    let began = Instant::now();
    lab.json(&["backend", "list"])?;
    println!("`lb backend list`: {:?}", began.elapsed());
    Ok(())
}

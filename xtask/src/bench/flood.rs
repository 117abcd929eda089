//! What floods cost clients beside them: requests per second of wrk, while as much as
//! one processor sends comes to the balancer from addresses that nobody has. The least
//! that it can cost is measured in the same run: a flood from denied sources, which is
//! dropped before anything is looked up.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{
    Config, Flood, FloodKind, Flows, Lab, Load, Mode, NAT_V4, Protocol, Service, Survey,
    eventually, source_addresses,
};

use super::{
    figures::{
        Report,
        Unit::{Number, Percent},
    },
    median,
    os::go_on,
};

/// Backends, each an nginx.
const BACKENDS: usize = 2;
/// Port of the services, and one that none has.
const WEB: u16 = 80;
const NONE: u16 = 81;
/// Connections that are to live on.
const FLOWS: usize = 200;
/// How long it may take until a service takes a flow again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Port of a service that takes one flow only.
const FULL: u16 = 8080;
/// Port of a service that answers SYNs with cookies.
const COOKIES: u16 = 8081;
/// What a flood that is dropped may cost more than one from denied sources, in percent of
/// the requests beside that.
const MORE: Option<f64> = Some(15.0);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    rounds: usize,
    /// Length of one measurement.
    duration: Duration,
}

impl Effort {
    /// For figures to publish.
    pub(super) const FULL: Self = Self { rounds: 5, duration: Duration::from_secs(4) };
    /// For a look.
    pub(super) const QUICK: Self = Self { rounds: 1, duration: Duration::from_secs(2) };
}

/// A flood, and what becomes of it.
struct Case {
    what: &'static str,
    kind: FloodKind,
    to: u16,
    limit: Option<f64>,
}

const CASES: [Case; 6] = [
    Case { what: "datagrams to no service", kind: FloodKind::Udp, to: NONE, limit: MORE },
    Case { what: "fragments", kind: FloodKind::Fragment, to: WEB, limit: MORE },
    Case { what: "SYN to a full service", kind: FloodKind::Syn, to: FULL, limit: MORE },
    // These are answered, or forwarded, which costs what that costs.
    Case { what: "pings", kind: FloodKind::Ping, to: WEB, limit: None },
    Case { what: "SYN answered with cookies", kind: FloodKind::Syn, to: COOKIES, limit: None },
    Case { what: "SYN to the service", kind: FloodKind::Syn, to: WEB, limit: None },
];

/// Measures all of them by turns.
pub(super) fn run(binary: &Path, effort: Effort) -> Result<Report> {
    let lab = Lab::new(BACKENDS)?.with_binary(binary);
    let IpAddr::V4(vip) = NAT_V4 else { unreachable!("it is of IPv4") };
    let service = |port| Service::new(NAT_V4, Protocol::Tcp, port, Mode::Nat);
    let full = service(FULL).lines("max_flows = 1").with(&lab.backends);
    let name = full.name().to_owned();
    let cookies = service(COOKIES).lines("syn_cookies_above = 0").with(&lab.backends);
    let config = lab.config([service(WEB).with(&lab.backends), full, cookies]);
    let firewall = "deny_sources = [\"198.18.0.0/15\"]".into();
    let deny = Config { firewall, ..config.clone() };
    let mut alone = Vec::new();
    let mut least = Vec::new();
    let mut rates: [Vec<f64>; CASES.len()] = Default::default();
    let mut sent = Vec::new();
    for round in 1..=effort.rounds {
        eprintln!("flood: round {round} of {}", effort.rounds);
        let agent = lab.start_agent(&deny)?;
        alone.push(requests(&lab, effort)?);
        let flood = Flood::start(&lab.client, FloodKind::Udp, (vip, NONE))?;
        least.push(requests(&lab, effort)?);
        sent.push(flood.end()? as f64 / effort.duration.as_secs_f64());
        ensure!(agent.terminate()?.success(), "the agent failed");
        let agent = lab.start_agent(&config)?;
        let sources = source_addresses(true);
        let mut flows = Flows::open(&lab.client, &sources, (NAT_V4, WEB).into(), FLOWS)?;
        // The one that it takes, once that of the last round is forgotten.
        lab.done(&["flow", "flush", "--service", &name])?;
        let mut one = None;
        let opened = eventually(PATIENCE, || {
            one = Flows::open(&lab.client, &sources, (NAT_V4, FULL).into(), 1).ok();
            one.is_some()
        });
        ensure!(opened, "`{name}` takes no flow");
        for (case, rates) in CASES.iter().zip(&mut rates) {
            go_on()?;
            let flood = Flood::start(&lab.client, case.kind, (vip, case.to))?;
            rates.push(requests(&lab, effort).with_context(|| case.what)?);
            flood.end()?;
        }
        let kept = Survey { kept: FLOWS, moved: 0, broken: 0 };
        let found = flows.survey(None);
        ensure!(found == kept, "{found:?} of connections that were open, expected {kept:?}");
        ensure!(agent.terminate()?.success(), "the agent failed");
    }
    let mut report = Report::of("floods beside wrk");
    report.add("packets a second of a flood", Number, sent, None);
    report.add("requests a second without one", Number, alone, None);
    let base = median(&mut least);
    report.add("requests a second beside one from denied sources", Number, least, None);
    for (case, rates) in CASES.iter().zip(rates) {
        let falls = rates.into_iter().map(|rate| 100.0 * (1.0 - rate / base)).collect();
        report.add(format!("{}, fewer requests than that", case.what), Percent, falls, case.limit);
    }
    Ok(report)
}

/// Requests a second, none of which fails.
fn requests(lab: &Lab, effort: Effort) -> Result<f64> {
    let load = Load { duration: effort.duration, ..Load::new(format!("http://{NAT_V4}:{WEB}/1k")) };
    let report = load.run(&lab.client)?;
    let errors = report.socket_errors + report.bad_answers;
    ensure!(errors == 0, "{errors} errors, expected none:\n{}", report.text);
    Ok(report.rate)
}

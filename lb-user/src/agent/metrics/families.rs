//! Metrics in the OpenMetrics text format. Names are a contract: they are added,
//! never renamed. Labels are names of the configuration and words of ours, so their
//! values are as many as it has services, backends, interfaces and groups.

mod page;
mod pair;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use self::page::Page;
use super::{Figures, Probes};
use crate::api::{HaStatus, Traffic};

/// What all names begin with.
const PREFIX: &str = "lb";

/// All metrics; of a node of a pair also its own, with the buckets that it has
/// still to tell of.
pub(super) fn encode(
    figures: Figures,
    pair: Option<(HaStatus, usize)>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape { figures, pair }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    figures: Figures,
    pair: Option<(HaStatus, usize)>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        node(&mut page, &self.figures)?;
        orders(&mut page, &self.figures)?;
        services(&mut page, &self.figures)?;
        backends(&mut page, &self.figures)?;
        probes(&mut page, &self.figures)?;
        match &self.pair {
            Some((status, queue)) => pair::encode(&mut page, status, *queue),
            None => Ok(()),
        }
    }
}

/// What is known of the node as a whole.
fn node(page: &mut Page<'_>, Figures { status, stats, .. }: &Figures) -> fmt::Result {
    page.info("build", "the agent", [("version", status.version.as_str())])?;
    page.gauge("agent_uptime_seconds", "since the agent started", status.uptime_s)?;
    page.gauge("generation", "number of the configuration in force", status.generation)?;
    page.gauge("edits_in_force", "edits that the file does not have", status.edits)?;
    let interfaces = status.interfaces.iter().map(|one| {
        let mode = one.xdp_mode.as_deref();
        (
            [("interface", one.name.as_str()), ("mode", mode.unwrap_or(""))],
            u64::from(mode.is_some()),
        )
    });
    page.gauges("interface_attached", "whether the data plane is attached", interfaces)?;
    page.gauge("flows", "live entries of the affinity table", status.flows)?;
    page.gauge("flow_capacity", "flows that the table is rated for", status.flow_capacity)?;
    page.counter("flows_unrecorded", "flows that found no free slot", stats.unrecorded)?;
    let broken = [([("cause", "reset")], stats.reset), ([("cause", "moved")], stats.moved)];
    let help = "TCP flows whose backend serves no more: reset, or given to another one";
    page.counters("flows_broken", help, broken)?;
    let routed = [([("by", "id")], stats.quic_routed), ([("by", "flow")], stats.quic_unrouted)];
    let help = "packets of QUIC services: routed by connection ID, or by addresses and ports";
    page.counters("quic_packets", help, routed)?;
    let cookies = [
        ([("result", "sent")], stats.syn_cookies_sent),
        ([("result", "confirmed")], stats.syn_cookies_confirmed),
    ];
    page.counters("syn_cookies", "SYNs answered with a cookie, and those confirmed", cookies)?;
    let drops = stats.drops.iter().map(|(reason, count)| ([("reason", reason.as_str())], *count));
    page.counters("drops", "packets dropped", drops)?;
    page.counter("packets_passed", "packets left to the kernel", stats.passed)
}

/// What operators ordered.
fn orders(page: &mut Page<'_>, Figures { tally, .. }: &Figures) -> fmt::Result {
    for (name, help, outcomes) in [
        ("reloads", "reloads of a file", tally.reloads),
        ("edits", "edits by command", tally.edits),
    ] {
        let results = [("done", outcomes.done), ("refused", outcomes.refused)];
        page.counters(name, help, results.map(|(result, count)| ([("result", result)], count)))?;
    }
    Ok(())
}

/// How a counter is called, what it means, where it is.
type Counted = (&'static str, &'static str, fn(&Traffic) -> u64);

/// What is counted of services and backends.
const TRAFFIC: [Counted; 5] = [
    ("packets", "packets sent to backends", |traffic| traffic.packets),
    ("bytes", "bytes of frames sent to backends", |traffic| traffic.bytes),
    ("reply_packets", "replies rewritten (mode nat)", |traffic| traffic.reply_packets),
    ("reply_bytes", "bytes of replies rewritten", |traffic| traffic.reply_bytes),
    ("new_flows", "flows entered into the affinity table", |traffic| traffic.new_flows),
];

/// Sums over the backends that a service has.
fn services(page: &mut Page<'_>, figures: &Figures) -> fmt::Result {
    let Figures { services, members, stats, .. } = figures;
    let labels: Vec<_> =
        services.iter().map(|one| (one.name.as_str(), one.vip.to_string())).collect();
    let labels = || labels.iter().map(|(name, vip)| [("service", *name), ("vip", vip.as_str())]);
    for (name, help, count) in TRAFFIC {
        let counts = stats.services.iter().map(count);
        page.counters(&format!("service_{name}"), help, labels().zip(counts))?;
    }
    let (mut all, mut up, mut flows) =
        (vec![0; services.len()], vec![0; services.len()], vec![0; services.len()]);
    for member in members {
        all[member.service] += 1;
        up[member.service] += u64::from(member.up);
        flows[member.service] += member.line.flows;
    }
    let sums: [(_, _, Vec<u64>); 3] = [
        ("service_backends", "backends configured", all),
        ("service_backends_up", "of these, ready and not down", up),
        ("service_flows", "live entries of the affinity table", flows),
    ];
    for (name, help, sums) in sums {
        page.gauges(name, help, labels().zip(sums))?;
    }
    Ok(())
}

fn backends(page: &mut Page<'_>, Figures { members, stats, .. }: &Figures) -> fmt::Result {
    let labels = || {
        members.iter().map(|member| {
            [("service", member.line.service.as_str()), ("backend", member.line.name.as_str())]
        })
    };
    for (name, help, count) in TRAFFIC {
        let counts = stats.backends.iter().map(count);
        page.counters(&format!("backend_{name}"), help, labels().zip(counts))?;
    }
    let lines = || members.iter().map(|member| &member.line);
    let up = members.iter().map(|member| u64::from(member.up));
    page.gauges("backend_up", "whether it is ready and not down", labels().zip(up))?;
    let weights = lines().map(|line| u64::from(line.weight));
    page.gauges("backend_weight", "configured weight", labels().zip(weights))?;
    let effective = lines().map(|line| u64::from(line.effective_weight));
    page.gauges(
        "backend_effective_weight",
        "what the table is built from",
        labels().zip(effective),
    )?;
    let flows = lines().map(|line| line.flows);
    page.gauges("backend_flows", "live entries of the affinity table", labels().zip(flows))?;
    let timed = lines()
        .zip(labels())
        .filter_map(|(line, labels)| Some((labels, line.handshake_us? as f64 / 1e6)));
    page.gauges("backend_handshake_seconds", "smoothed time from SYN to SYN-ACK", timed)
}

/// By service: by backend there would be ten thousands of buckets.
fn probes(page: &mut Page<'_>, Figures { services, .. }: &Figures) -> fmt::Result {
    let probed = || {
        let probed = |one: &'_ super::Service| one.probes.is_some();
        services
            .iter()
            .filter(move |one| probed(one))
            .filter_map(|one| Some(([("service", one.name.as_str())], one.probes.as_ref()?)))
    };
    let seconds = probed().map(|(service, Probes { seconds, .. })| (service, seconds));
    page.histograms("backend_probe_seconds", "how long successful probes took", seconds)?;
    let results = probed().flat_map(|([service], probes)| {
        let Probes { successes, failures, inconclusive, .. } = *probes;
        let results =
            [("success", successes), ("failure", failures), ("inconclusive", inconclusive)];
        results.map(|(result, count)| ([service, ("result", result)], count))
    });
    page.counters("backend_probes", "probes by how they ended", results)
}

//! What a packet costs more where its flow is told to a peer: a service of the
//! pair's group beside one that is in none, in the same data plane and by turns.

use std::net::IpAddr;

use anyhow::Result;

use super::{
    Effort,
    load::Source,
    sync::{ALONE, OF_PAIR},
    table::Table,
};
use crate::bench::{
    figures::{Report, Unit::Nanoseconds},
    median,
    os::{go_on, stay_on_this_cpu},
};

/// Flows of a measurement.
const FLOWS: u32 = 128_000;
/// Measurements for each span of the effort.
const TURNS: usize = 5;
/// What packets of the pair's may take, as a multiple of those of others.
const TIMES: f64 = 1.1;

/// Measurements of one VIP, in nanoseconds per packet.
struct Costs {
    vip: IpAddr,
    name: &'static str,
    new: Vec<f64>,
    established: Vec<f64>,
}

/// Measures both by turns. To be called in the namespace of `source`.
pub(super) fn measure(
    source: &mut Source,
    table: &mut Table,
    effort: Effort,
    report: &mut Report,
) -> Result<()> {
    stay_on_this_cpu()?;
    let mut both = [(ALONE, "in no group"), (OF_PAIR, "of the pair")].map(|(vip, name)| Costs {
        vip,
        name,
        new: Vec::new(),
        established: Vec::new(),
    });
    for _ in 0..TURNS * effort.spans {
        for Costs { vip, new, established, .. } in &mut both {
            go_on()?;
            let (vip, flows) = (*vip, 0..FLOWS);
            table.clear();
            let idle = source.idle(vip, flows.clone(), FLOWS)?;
            new.push(source.establish(vip, flows.clone())? - idle);
            let idle = source.idle(vip, flows.clone(), effort.packets)?;
            established.push(source.visit(vip, flows, effort.packets)? - idle);
        }
    }
    let mut limits = [None; 2];
    for Costs { name, mut new, mut established, .. } in both {
        let next = [median(&mut new), median(&mut established)].map(|ns| Some(ns * TIMES));
        report.add(format!("packet of a new flow, {name}"), Nanoseconds, new, limits[0]);
        let what = format!("packet of an established flow, {name}");
        report.add(what, Nanoseconds, established, limits[1]);
        limits = next;
    }
    Ok(())
}

//! What readers of the admin socket see: put together at one moment, without
//! the affinity table, which is counted beside the controller.

use std::{io, time::Duration};

use lb_common::stats::{BackendStats, Counter};

use super::state::State;
use crate::{
    api::{self, Traffic},
    config::render,
    core::{
        health::Tracker,
        model::{Model, Service},
        plan::{BackendId, Snapshot, identity::BackendIdentity, ids::present_backends},
        weight::{AdminState, Health},
    },
};

/// A backend and what is known of it.
#[derive(Debug)]
pub struct Member {
    /// Its id, by which flows name it.
    pub(super) id: BackendId,
    /// Position of its service in the model.
    pub service: usize,
    /// What was counted.
    pub(super) stats: BackendStats,
    /// Whether neither an order, nor what it reports, nor its health keeps new
    /// flows from it.
    pub up: bool,
    /// Whether its service has as many flows as it may.
    pub(super) full: bool,
    /// Its line; `flows` is to be filled in.
    pub line: api::Backend,
}

/// All backends in the order of the configuration, or those of one service;
/// `outline` is of the same moment.
pub(super) fn members(
    state: &State,
    outline: &Snapshot,
    only: Option<&str>,
) -> io::Result<Vec<Member>> {
    let ids = present_backends(outline);
    let mut members = Vec::new();
    let services = state.model.services.iter().enumerate();
    for (index, service) in services.filter(|(_, s)| only.is_none_or(|name| s.name == name)) {
        for backend in &service.backends {
            let identity = BackendIdentity::of(service, backend);
            // Until the plan that brings it is carried out it has no id.
            let id = ids.get(&identity).copied().unwrap_or(0);
            let stats = state.data_plane.tables.kernel.stats(id)?;
            let account = state.fleet.backend(&identity);
            let admin = account.map_or(AdminState::Ready, |account| account.admin);
            let deadline = account.and_then(|account| account.deadline);
            let tracker = account.map(|account| account.tracker);
            let handshake = account.and_then(|account| account.handshake);
            let health = tracker.map_or(Health::Unknown, Tracker::health);
            let reported = tracker.and_then(Tracker::report).and_then(|report| report.admin);
            let ready = admin.max(reported.unwrap_or_default()) == AdminState::Ready;
            let standing = state.fleet.standings().of(&identity, backend.weight);
            let line = api::Backend {
                service: service.name.clone(),
                name: backend.name.clone(),
                address: backend.address,
                port: identity.effective_port(),
                weight: backend.weight,
                effective_weight: standing.weight,
                admin: admin_word(admin).to_owned(),
                deadline_s: deadline.map(|at| at.saturating_sub(unix_now())),
                health: health_word(health).to_owned(),
                reason: tracker.map_or("", Tracker::reason).to_owned(),
                zone: backend.zone.clone(),
                group: backend.group.clone(),
                backup: backend.backup,
                flows: 0,
                packets: stats.packets,
                bytes: stats.bytes,
                latency_us: tracker.and_then(Tracker::latency).map(micros),
                handshake_us: handshake.map(micros),
            };
            let up = ready && health != Health::Down;
            let entry = outline.backends.get(&id).map(|entry| entry.service);
            let entry = entry.and_then(|service| outline.services.get(&service));
            let full = entry.is_some_and(|entry| entry.full_until != 0);
            members.push(Member { id, service: index, stats, up, full, line });
        }
    }
    Ok(members)
}

/// The line of a service with these members.
pub(super) fn service(service: &Service, members: &[&Member]) -> api::Service {
    let sum = |of: fn(&api::Backend) -> u64| members.iter().map(|member| of(&member.line)).sum();
    api::Service {
        name: service.name.clone(),
        vip: service.vip,
        protocol: render::protocol(service.protocol).to_owned(),
        port: render::ports(&service.ports),
        mode: render::mode(service.mode).to_owned(),
        policy: render::policy(service.policy).to_owned(),
        affinity: render::affinity(service.affinity).to_owned(),
        backends: service.backends.len() as u64,
        up: members.iter().filter(|member| member.up).count() as u64,
        flows: sum(|line| line.flows),
        max_flows: service.max_flows.into(),
        full: members.iter().any(|member| member.full),
        packets: sum(|line| line.packets),
        bytes: sum(|line| line.bytes),
    }
}

/// The lines of all services.
pub(super) fn services(model: &Model, members: &[Member]) -> Vec<api::Service> {
    let mut of_service: Vec<Vec<&Member>> = vec![Vec::new(); model.services.len()];
    members.iter().for_each(|member| of_service[member.service].push(member));
    model.services.iter().zip(of_service).map(|(s, members)| service(s, &members)).collect()
}

/// Fills in live flows, counted by backend id.
pub(super) fn fill_in(members: &mut [Member], counts: &[u32]) {
    for member in members {
        member.line.flows = counts.get(usize::from(member.id)).copied().unwrap_or(0).into();
    }
}

/// Live flows of all these backends.
pub(super) fn flows(members: &[Member]) -> u64 {
    members.iter().map(|member| member.line.flows).sum()
}

/// Everything that is counted: of these backends, and by number of the counter.
pub(super) fn stats(model: &Model, members: &[Member], counters: &[u64]) -> api::Stats {
    let services = &model.services;
    let mut sums = vec![BackendStats::ZERO; services.len()];
    for member in members {
        add(&mut sums[member.service], &member.stats);
    }
    let of_services = services.iter().zip(&sums);
    let services = of_services.map(|(service, sum)| traffic(&service.name, None, sum)).collect();
    let of_member = |member: &Member| {
        traffic(&member.line.service, Some(member.line.name.clone()), &member.stats)
    };
    let backends = members.iter().map(of_member).collect();
    let counted = |counter: Counter| counters.get(counter as usize).copied().unwrap_or(0);
    let drops = Counter::ALL.iter().filter(|counter| counter.is_drop());
    let drops = drops.map(|&counter| (counter.name().to_owned(), counted(counter)));
    api::Stats {
        services,
        backends,
        drops: drops.collect(),
        passed: counted(Counter::Passed),
        unrecorded: counted(Counter::Unrecorded),
        reset: counted(Counter::Reset),
        moved: counted(Counter::Moved),
        quic_routed: counted(Counter::QuicRouted),
        quic_unrouted: counted(Counter::QuicUnrouted),
        syn_cookies_sent: counted(Counter::SynCookieSent),
        syn_cookies_confirmed: counted(Counter::SynCookieConfirmed),
    }
}

fn add(sum: &mut BackendStats, one: &BackendStats) {
    sum.packets += one.packets;
    sum.bytes += one.bytes;
    sum.reply_packets += one.reply_packets;
    sum.reply_bytes += one.reply_bytes;
    sum.flows += one.flows;
}

fn traffic(service: &str, backend: Option<String>, stats: &BackendStats) -> Traffic {
    Traffic {
        service: service.to_owned(),
        backend,
        packets: stats.packets,
        bytes: stats.bytes,
        reply_packets: stats.reply_packets,
        reply_bytes: stats.reply_bytes,
        new_flows: stats.flows,
    }
}

/// Seconds since 1970; 0 where the clock is set before.
pub(super) fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

const fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

const fn admin_word(admin: AdminState) -> &'static str {
    match admin {
        AdminState::Ready => "ready",
        AdminState::Drain => "drain",
        AdminState::Maint => "maint",
    }
}

const fn health_word(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "down",
    }
}

#[cfg(test)]
impl Member {
    /// One that is up, of the first service.
    pub(in crate::agent) fn sample(line: api::Backend) -> Self {
        Self { id: 1, service: 0, stats: BackendStats::ZERO, up: true, full: false, line }
    }
}

//! Why a packet goes where it goes: a synthetic packet through the loaded
//! program, told step by step.

mod frame;

use std::net::IpAddr;

use axum::http::StatusCode;
use ipnet::IpNet;
use lb_common::{addr, hash, stats::Counter};

use self::frame::{Probe, destination, next_hop};
use super::{Error, state::State};
use crate::{
    agent::admin::Refused,
    api::{self, Step},
    core::{
        model::{Affinity, Backend, Protocol, Service},
        plan::{
            BackendId, ServiceId,
            identity::{BackendIdentity, ServiceIdentity},
            tables::ordinary_blocks,
        },
        route::groups,
    },
    dataplane::explain::{Entry, Lookup, Trace, Verdict},
    sys::link,
};

impl State {
    /// Answers `lb explain`. Nothing is sent, recorded or counted.
    pub(super) async fn explain(
        &mut self,
        question: &api::Question,
    ) -> Result<api::Explanation, Refused> {
        let probe = Probe::new(question)?;
        let name = question.interface.as_ref().unwrap_or(&self.model.node.interfaces[0]);
        if !self.model.node.interfaces.contains(name) {
            let error = format!("`{name}` is none of `node.interfaces`");
            return Err(Refused::new(StatusCode::NOT_FOUND, error));
        }
        let interface = link::by_name(name).await.map_err(Error::from)?;
        let frame = probe.frame();
        let trace = self.data_plane.explain(&frame, interface.index).map_err(Error::Maps)?;
        Ok(self.tell(&probe, &frame, &trace))
    }

    fn tell(&self, probe: &Probe, sent: &[u8], trace: &Trace) -> api::Explanation {
        let mut steps = Vec::new();
        let mut step = |step: &str, answer: String| {
            steps.push(Step { step: step.to_owned(), answer });
        };
        let (verdict, reason) = verdict(&trace.verdict);
        let denied = &self.model.firewall.deny_sources;
        let denying = denied.iter().filter(|net| net.contains(&probe.client.ip()));
        match denying.max_by_key(|net| net.prefix_len()) {
            Some(net) => step("policy", format!("{} is denied by `{net}`", probe.client.ip())),
            None => step("policy", format!("{} is not denied", probe.client.ip())),
        }
        let service = trace.service.and_then(|id| self.service_of(id));
        step("service", service.map_or("none".to_owned(), |service| service.name.clone()));
        if let Some(service) = service.filter(|service| !service.allow_sources.is_empty())
            && !trace.reply
        {
            step("sources", sources(service, probe.client.ip()));
        }
        let unseen = [Counter::NotActive, Counter::SourceNotAllowed, Counter::SourceRate];
        let looked_up = !unseen.map(|why| Verdict::Drop(Some(why))).contains(&trace.verdict);
        if let Some(service) = service.filter(|_| looked_up && !trace.reply) {
            step("affinity", self.affinity(service, trace));
        }
        if let (Some(service), Some(id)) = (service, trace.service)
            && looked_up
            && !trace.reply
            && let Some(cookies) = self.cookies(service, id, probe)
        {
            step("cookies", cookies);
        }
        if let (Some(service), Some(lookup)) = (service, &trace.lookup)
            && lookup.table.routes() != 0
            && !lookup.table.is_none()
        {
            step("route", self.route(service, lookup, probe.client.ip()));
        }
        if let Some(lookup) = &trace.lookup {
            step("table", self.lookup(lookup));
        }
        if let Some(id) = trace.backend {
            step("backend", self.name(id));
        }
        if let (Some(before), Some(after)) = (destination(sent), destination(&trace.frame))
            && before != after
        {
            step("rewrite", format!("destination {before} -> {after}"));
        }
        if trace.binds
            && let Some(id) = trace.backend
        {
            step("rewrite", self.rewrites(id));
        }
        step("egress", self.egress(trace));
        api::Explanation { steps, verdict: verdict.to_owned(), reason }
    }

    /// Of a packet in mode `fullnat`, which takes its port only when it is sent.
    fn rewrites(&self, backend: BackendId) -> String {
        let entry = self.data_plane.tables.backends.read(backend.into());
        let address = addr::from_bytes(entry.addr);
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
        let source = self.model.node.nat_sources.iter().find(of_family);
        let source = source.map_or("nowhere".to_owned(), ToString::to_string);
        format!("destination {address}, source the flow's port at {source}, or a free one")
    }

    fn affinity(&self, service: &Service, trace: &Trace) -> String {
        if service.affinity == Affinity::None {
            return "none: every datagram goes by the table".to_owned();
        }
        let recorded = if trace.recorded { ", would be recorded" } else { "" };
        match trace.entry {
            None => format!("unknown flow{recorded}"),
            Some(Entry { backend, state, left, live }) => {
                let state =
                    state.map_or("?".to_owned(), |state| format!("{state:?}").to_lowercase());
                let life = if live { format!("{left} s left") } else { "not obeyed".to_owned() };
                format!("{state} at {}, {life}{recorded}", self.name(backend))
            }
        }
    }

    /// What SYN cookies have to do with a client's connection, if the service has them, or
    /// had them.
    fn cookies(&self, service: &Service, id: ServiceId, probe: &Probe) -> Option<String> {
        let entry = self.data_plane.tables.service(id).filter(|entry| entry.syn_rate != 0)?;
        let client = probe.client.ip();
        let words = match client {
            IpAddr::V4(v4) => [u64::from(addr::v4_word(v4)), 0],
            IpAddr::V6(_) => addr::words(addr::to_bytes(client)),
        };
        let [from, to] = [probe.client.port(), probe.vip.port()].map(u16::to_be);
        let changes = &self.data_plane.changes;
        let found = changes.connection(words, hash::ports(from, to), entry.salt);
        let known = match found {
            Ok(Some(value)) if value.is_opening() => {
                "opened by one, the backend has not answered yet"
            }
            Ok(Some(_)) => "opened by one, its packets are translated",
            Ok(None) => "not opened by one",
            Err(_) => "the data plane's time is not told",
        };
        let rate = match service.syn_cookies_above {
            Some(rate) => format!("SYNs above {rate} a second are answered with one"),
            None => "off, connections that they opened go on".to_owned(),
        };
        Some(format!("{known}; {rate}"))
    }

    /// The group is the program's answer, the prefix the configuration's.
    fn route(&self, service: &Service, lookup: &Lookup, client: IpAddr) -> String {
        let block = lookup.slot / lookup.table.slots();
        let number = block.checked_sub(ordinary_blocks(service).into());
        let group = number.and_then(|number| groups(service).into_iter().nth(number as usize));
        let prefixes = service.routes.iter().flat_map(|route| &route.from);
        let matching = prefixes.filter(|net| net.contains(&client));
        let (Some(group), Some(net)) = (group, matching.max_by_key(|net| net.prefix_len())) else {
            return "none, the service's ordinary way".to_owned();
        };
        let chosen = lookup.current.and_then(|id| self.backend_of(id));
        let within = chosen.is_none_or(|backend| backend.group.as_deref() == Some(group));
        let but = if within { "" } else { ", none of whose backends takes new flows" };
        format!("`{net}` to group `{group}`{but}")
    }

    fn lookup(&self, lookup: &Lookup) -> String {
        let name = |id: Option<BackendId>| id.map_or("nobody".to_owned(), |id| self.name(id));
        let size = lookup.table.slots() * lookup.table.blocks();
        let current = name(lookup.current);
        let which = if lookup.previous_table == lookup.table {
            current
        } else if lookup.from_previous {
            format!("{} by the previous table, {current} by the current one", name(lookup.previous))
        } else {
            format!("{current} by the current table, {} by the previous one", name(lookup.previous))
        };
        format!("slot {} of {size}: {which}", lookup.slot)
    }

    fn egress(&self, trace: &Trace) -> String {
        let way = match trace.verdict {
            Verdict::Pass(_) => return "the kernel".to_owned(),
            Verdict::Drop(_) => return "nowhere".to_owned(),
            Verdict::Transmit(_) => "the interface it came in by".to_owned(),
            Verdict::Redirect(index) => self.interface_name(index),
        };
        match next_hop(&trace.frame) {
            Some(mac) => format!("{way}, to {mac}"),
            None => way,
        }
    }

    fn interface_name(&self, index: u32) -> String {
        let name = self.attached.iter().find(|(_, attached)| **attached == index);
        name.map_or_else(|| format!("interface {index}"), |(name, _)| name.clone())
    }

    fn service_of(&self, id: ServiceId) -> Option<&Service> {
        let who = ServiceIdentity::read(&self.data_plane.tables.service(id)?);
        self.model.services.iter().find(|service| ServiceIdentity::of(service) == who)
    }

    /// What the configuration has of a backend.
    fn backend_of(&self, id: BackendId) -> Option<&Backend> {
        let entry = self.data_plane.tables.backends.read(id.into());
        let service = self.service_of(entry.service)?;
        let who = BackendIdentity::read(&entry, ServiceIdentity::of(service));
        service.backends.iter().find(|backend| BackendIdentity::of(service, backend) == who)
    }

    /// "name (address)".
    fn name(&self, id: BackendId) -> String {
        let entry = self.data_plane.tables.backends.read(id.into());
        let address = addr::from_bytes(entry.addr);
        match self.backend_of(id) {
            Some(backend) => format!("{} ({address})", backend.name),
            None => format!("a backend that left ({address})"),
        }
    }
}

/// Whether a service is for a client, by the configuration.
fn sources(service: &Service, client: IpAddr) -> String {
    let matching = service.allow_sources.iter().filter(|net| net.contains(&client));
    match matching.max_by_key(|net| net.prefix_len()) {
        Some(net) => format!("{client} is allowed by `{net}`"),
        None => format!("{client} is not allowed"),
    }
}

/// Word and reason of a verdict.
fn verdict(verdict: &Verdict) -> (&'static str, Option<String>) {
    let (word, counter) = match verdict {
        Verdict::Pass(counter) => ("pass", *counter),
        Verdict::Drop(counter) => ("drop", *counter),
        Verdict::Transmit(counter) => ("transmit", *counter),
        Verdict::Redirect(_) => ("redirect", None),
    };
    (word, counter.map(|counter| counter.name().to_owned()))
}

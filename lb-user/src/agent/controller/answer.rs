//! Answers the admin socket.

use std::sync::{Arc, atomic::Ordering};

use axum::http::StatusCode;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot, watch},
    task::spawn_blocking,
};

use super::{
    Error,
    flows::Flows,
    outlook::Prospect,
    state::State,
    view::{self, Member},
};
use crate::{
    agent::{
        admin::{Call, Refused, Reply, Request},
        ha,
    },
    api::{self, FlowFilter},
    config::render,
    core::{
        model::{NewFlows, Service},
        nexthop::Network,
        plan::identity::ServiceIdentity,
    },
};

/// Walks through the affinity table at a time: each takes a core while it lasts.
pub(super) const SCANS: usize = 2;

/// Tells what became of a change to who ordered it, unless that one has gone.
fn to(reply: oneshot::Sender<Reply>) -> impl FnOnce(Result<api::Done, Refused>) {
    move |done| drop(reply.send(json(done)))
}

impl State {
    /// Answers a call; where the affinity table must be searched, a thread
    /// does it, and the controller goes on.
    pub(super) async fn answer(&mut self, call: Call, network: &mut watch::Receiver<Arc<Network>>) {
        let Call { request, peer, reply } = call;
        if reply.is_closed() {
            return tracing::debug!(?request, "who asked has gone");
        }
        let now = match request {
            Request::Edit(change) => {
                let done = self.edit(change, peer, network).await;
                self.tally.edits.add(&done);
                return self.finish(done, to(reply));
            }
            Request::Reload(order) => {
                let done = self.reload(&order, peer, network).await;
                self.finish(done, to(reply));
                return self.give_back_memory();
            }
            Request::Confirm => {
                let done = self.confirm().await;
                return self.finish(done, to(reply));
            }
            Request::ClearConflicts => {
                let done = self.clear_conflicts().await;
                return self.finish(done, to(reply));
            }
            Request::Conflicts => json(self.conflicts()),
            Request::Firewall => json(Ok(self.firewall())),
            Request::Stats => {
                json(self.members(None).and_then(|(members, _)| self.stats(&members)))
            }
            Request::Explain(question) => json(self.explain(&question).await),
            Request::Status => return self.later(reply, None, Self::status),
            Request::Ha => return self.ask_pair(reply, async |pair| pair.status().await),
            Request::Resync => {
                return self.ask_pair(reply, async |pair| {
                    pair.resync();
                    pair.status().await
                });
            }
            Request::Failover(order) => {
                let api::FailoverOrder { group, force } = order;
                return self.ask_pair(reply, async move |pair| {
                    let groups = pair.fail_over(group, force).await?;
                    Ok(api::FailedOver { groups })
                });
            }
            Request::Services => {
                return self.later(reply, None, |state| {
                    let model = state.model.clone();
                    Ok(move |members: Vec<Member>, _: &Flows| view::services(&model, &members))
                });
            }
            Request::Service(name) => {
                let only = Some(name.clone());
                return self.later(reply, only.as_deref(), |state| state.detail(&name));
            }
            Request::Backends(service) => {
                return self.later(reply, service.as_deref(), |state| {
                    state.check_service(service.as_deref())?;
                    Ok(|members: Vec<Member>, _: &Flows| {
                        members.into_iter().map(|member| member.line).collect::<Vec<_>>()
                    })
                });
            }
            Request::Plan(file) => {
                return match self.prospect(file) {
                    Ok((turn, prospect, flows)) => self.scan(reply, move || {
                        let _turn = turn;
                        prospect.outlook(&flows.by_backend())
                    }),
                    Err(refused) => drop(reply.send(Err(refused))),
                };
            }
            Request::Flows(filter, limit) => {
                return self.search(reply, filter, move |flows, filter| flows.list(filter, limit));
            }
            Request::CountFlows(filter) => {
                return self.search(reply, filter, |flows, filter| api::FlowCount {
                    flows: flows.count(filter),
                });
            }
            Request::FlushFlows(filter) => {
                return self.search(reply, filter, |flows, filter| api::FlowCount {
                    flows: flows.flush(filter),
                });
            }
        };
        // Who asked may have gone.
        let _ = reply.send(now);
    }

    /// Finishes an answer that needs the members and their flows beside the
    /// controller. `prepare` takes from the state what the answer needs.
    fn later<T, F>(
        &mut self,
        reply: oneshot::Sender<Reply>,
        only: Option<&str>,
        prepare: impl FnOnce(&Self) -> Result<F, Refused>,
    ) where
        T: Serialize,
        F: FnOnce(Vec<Member>, &Flows) -> T + Send + 'static,
    {
        let prepared = prepare(self).and_then(|finish| Ok((finish, self.members(only)?)));
        let (finish, (mut members, flows)) = match prepared {
            Ok(prepared) => prepared,
            Err(refused) => return drop(reply.send(Err(refused))),
        };
        self.scan(reply, move || {
            view::fill_in(&mut members, &flows.by_backend());
            Ok(finish(members, &flows))
        });
    }

    /// What a plan is made from. That is much: there is one at a time.
    fn prospect(
        &mut self,
        file: api::FileText,
    ) -> Result<(OwnedSemaphorePermit, Prospect, Flows), Refused> {
        let turn = Arc::clone(&self.plans).try_acquire_owned().map_err(|_| {
            let error = "another plan is being made";
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, error).hint("try again in a moment")
        })?;
        let prospect = Prospect::new(self, file)?;
        Ok((turn, prospect, self.members(None)?.1))
    }

    /// Searches the affinity table beside the controller.
    fn search<T: Serialize>(
        &mut self,
        reply: oneshot::Sender<Reply>,
        filter: FlowFilter,
        search: impl FnOnce(&Flows, &FlowFilter) -> T + Send + 'static,
    ) {
        let checked = self.check_filter(&filter);
        let flows = checked.and_then(|()| Ok(self.members(None)?.1));
        match flows {
            Ok(flows) => self.scan(reply, move || Ok(search(&flows, &filter))),
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    /// Has the pair's thread answer.
    fn ask_pair<T, F>(
        &self,
        reply: oneshot::Sender<Reply>,
        ask: impl FnOnce(ha::Asking) -> F + Send + 'static,
    ) where
        T: Serialize,
        F: Future<Output = Result<T, ha::Failover>> + Send,
    {
        let Some(pair) = self.ha.as_ref().map(ha::Member::asking) else {
            let error = "this node has no peer: it is a single balancer";
            let refused = Refused::new(StatusCode::CONFLICT, error);
            return drop(reply.send(Err(refused.hint("`[ha]` makes it one of a pair"))));
        };
        tokio::spawn(async move { reply.send(json(ask(pair).await.map_err(Refused::from))) });
    }

    /// Has a thread make an answer that takes a walk through the affinity
    /// table, unless by its turn who asked has gone.
    fn scan<T: Serialize>(
        &self,
        reply: oneshot::Sender<Reply>,
        answer: impl FnOnce() -> Result<T, Refused> + Send + 'static,
    ) {
        self.beside(reply, move || json(answer()));
    }

    /// The same for an answer that is no JSON.
    pub(super) fn beside<T: Send + 'static>(
        &self,
        reply: oneshot::Sender<T>,
        answer: impl FnOnce() -> T + Send + 'static,
    ) {
        let (scans, spent) = (Arc::clone(&self.scans), Arc::clone(&self.spent));
        tokio::spawn(async move {
            let _turn = scans.acquire_owned().await;
            if !reply.is_closed() {
                // Its thread ends with the answer.
                let _ = spawn_blocking(move || drop(reply.send(answer()))).await;
                spent.store(true, Ordering::Relaxed);
            }
        });
    }

    pub(super) fn members(&mut self, only: Option<&str>) -> Result<(Vec<Member>, Flows), Refused> {
        let now = self.data_plane.now().map_err(Error::from)?;
        let outline = self.data_plane.tables.outline();
        let members = view::members(self, &outline, only).map_err(refused)?;
        let flows = Flows::new(self, &outline, &members, now);
        Ok((members, flows))
    }

    fn check_service(&self, name: Option<&str>) -> Result<(), Refused> {
        let known = |name| self.model.services.iter().any(|service| service.name == name);
        match name.filter(|name| !known(*name)) {
            None => Ok(()),
            Some(name) => Err(no_service(name)),
        }
    }

    /// The affinity table tells clients of IPv4 and of services with one port
    /// only: the keys of other flows are hashes.
    fn check_filter(&self, filter: &FlowFilter) -> Result<(), Refused> {
        let name = filter.service.as_deref();
        self.check_service(name)?;
        if let Some(backend) = &filter.backend {
            let mut services = self.model.services.iter();
            let has = |service: &Service| service.backends.iter().any(|one| one.name == *backend);
            if !services.any(|one| name.is_none_or(|name| one.name == name) && has(one)) {
                let error = match name {
                    Some(name) => format!("service `{name}` has no backend `{backend}`"),
                    None => format!("no service has a backend `{backend}`"),
                };
                return Err(
                    Refused::new(StatusCode::NOT_FOUND, error).hint("`lb backend list` shows all")
                );
            }
        }
        let Some(client) = filter.client else { return Ok(()) };
        let service = self.model.services.iter().find(|service| name == Some(&service.name));
        let many = service.filter(|service| ServiceIdentity::of(service).single_port().is_none());
        let error = match many {
            _ if client.is_ipv6() => "flows of IPv6 are not told apart by client".to_owned(),
            Some(many) => format!(
                "flows of service `{}`, which has several ports, are not told apart by client",
                many.name
            ),
            None => return Ok(()),
        };
        Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error)
            .hint("ask by `--service` or `--backend`; `lb explain` tells a packet's backend"))
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of several preparations of an answer")]
    fn status(&self) -> Result<impl FnOnce(Vec<Member>, &Flows) -> api::Status + use<>, Refused> {
        let status = self.outline_status();
        Ok(move |members: Vec<Member>, _: &Flows| api::Status {
            flows: view::flows(&members),
            ..status
        })
    }

    /// The status without the flows.
    pub(super) fn outline_status(&self) -> api::Status {
        api::Status {
            node: self.model.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.generation(),
            uptime_s: self.now().as_secs(),
            interfaces: self.interfaces(),
            flows: 0,
            flow_capacity: self.model.node.flows.into(),
            edits: self.origin.edits.len() as u64,
            confirm_s: self.unconfirmed.as_ref().map(|reload| {
                reload.until.saturating_duration_since(tokio::time::Instant::now()).as_secs()
            }),
            ha: self.ha.as_ref().map(ha::Member::summary),
        }
    }

    /// All counters; `members` are of the same moment.
    pub(super) fn stats(&self, members: &[Member]) -> Result<api::Stats, Refused> {
        let counters = self.data_plane.tables.kernel.counters().map_err(refused)?;
        Ok(view::stats(&self.model, members, &counters))
    }

    fn detail(
        &self,
        name: &str,
    ) -> Result<impl FnOnce(Vec<Member>, &Flows) -> api::ServiceDetail + use<>, Refused> {
        let service = self.model.services.iter().find(|service| service.name == name);
        let service = service.ok_or_else(|| no_service(name))?.clone();
        let edited = self.origin.edits.services.contains_key(name);
        Ok(move |members: Vec<Member>, _: &Flows| {
            let line = view::service(&service, &members.iter().collect::<Vec<_>>());
            api::ServiceDetail {
                service: line,
                members: members.into_iter().map(|member| member.line).collect(),
                config: render::service(&service),
                edited,
            }
        })
    }

    fn interfaces(&self) -> Vec<api::Interface> {
        let interface = |name: &String| api::Interface {
            name: name.clone(),
            xdp_mode: self.modes.get(name).map(ToString::to_string),
        };
        self.model.node.interfaces.iter().map(interface).collect()
    }

    fn firewall(&self) -> api::Firewall {
        let firewall = &self.model.firewall;
        let left = |prefix| {
            let until = self.origin.edits.firewall.deny.get(prefix)?.until?;
            Some(until.saturating_sub(view::unix_now()))
        };
        let denied = |prefix| api::Denied { prefix: format!("{prefix}"), left_s: left(prefix) };
        let limit = |limit: NewFlows| api::NewFlows { rate: limit.rate, burst: limit.burst };
        api::Firewall {
            new_flows_per_source: firewall.new_flows_per_source.map(limit),
            host: render::host(firewall.guard_host).to_owned(),
            allow: firewall.allow.iter().map(render::port_rule).collect(),
            deny: firewall.deny_sources.iter().map(denied).collect(),
        }
    }
}

impl From<ha::Failover> for Refused {
    fn from(refusal: ha::Failover) -> Self {
        let status = match refusal {
            ha::Failover::NoGroup => StatusCode::NOT_FOUND,
            ha::Failover::NotActive
            | ha::Failover::NoPeer
            | ha::Failover::NotTold
            | ha::Failover::NotAgreed
            | ha::Failover::NotTaken
            | ha::Failover::Pending => StatusCode::CONFLICT,
            ha::Failover::Gone => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string()).hint("`lb ha status` shows groups and peer")
    }
}

pub(super) fn json(answer: Result<impl Serialize, Refused>) -> Reply {
    let value = serde_json::to_value(answer?);
    value.map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn refused(error: std::io::Error) -> Refused {
    Error::Maps(error).into()
}

fn no_service(name: &str) -> Refused {
    Refused::new(StatusCode::NOT_FOUND, format!("no service `{name}`"))
        .hint("`lb service list` shows all")
}

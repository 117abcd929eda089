//! Answers the admin socket.

use std::sync::{Arc, atomic::Ordering};

use axum::http::StatusCode;
use serde::Serialize;
use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
};

use super::{
    Error,
    flows::Flows,
    state::State,
    view::{self, Member},
};
use crate::{
    agent::admin::{Call, Refused, Reply, Request},
    api::{self, FlowFilter},
    config::render,
    core::nexthop::Network,
};

/// Walks through the affinity table at a time: each takes a core while it lasts.
pub(super) const SCANS: usize = 2;

impl State {
    /// Answers a call; where the affinity table must be searched, a thread
    /// does it, and the controller goes on.
    pub(super) async fn answer(&mut self, call: Call, network: &mut watch::Receiver<Arc<Network>>) {
        let Call { request, peer, reply } = call;
        if reply.is_closed() {
            return tracing::debug!(?request, "who asked has gone");
        }
        let now = match request {
            Request::Edit(change) => json(self.edit(change, peer, network).await),
            Request::Reload(order) => json(self.reload_file(&order, peer, network).await),
            Request::Confirm => json(self.confirm()),
            Request::Firewall => json(Ok(self.firewall())),
            Request::Stats => json(view::stats(self).map_err(refused)),
            Request::Explain(question) => json(self.explain(&question).await),
            Request::Status => return self.later(reply, None, Self::status),
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
                return self.later(reply, None, |state| {
                    let outlook = state.outlook(&file)?;
                    Ok(|_: Vec<Member>, flows: &Flows| outlook.with_flows(&flows.by_backend()))
                });
            }
            Request::Flows(filter) => {
                return self.search(reply, filter, Flows::list);
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
            finish(members, &flows)
        });
    }

    /// Searches the affinity table beside the controller.
    fn search<T: Serialize>(
        &mut self,
        reply: oneshot::Sender<Reply>,
        filter: FlowFilter,
        search: impl FnOnce(&Flows, &FlowFilter) -> T + Send + 'static,
    ) {
        let checked = self.check_service(filter.service.as_deref());
        let flows = checked.and_then(|()| Ok(self.members(None)?.1));
        match flows {
            Ok(flows) => self.scan(reply, move || search(&flows, &filter)),
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    /// Has a thread make an answer that takes a walk through the affinity
    /// table, unless by its turn who asked has gone.
    fn scan<T: Serialize>(
        &self,
        reply: oneshot::Sender<Reply>,
        answer: impl FnOnce() -> T + Send + 'static,
    ) {
        let (scans, spent) = (Arc::clone(&self.scans), Arc::clone(&self.spent));
        tokio::spawn(async move {
            let _turn = scans.acquire_owned().await;
            if !reply.is_closed() {
                // Its thread ends with the answer.
                let _ = spawn_blocking(move || reply.send(json(Ok(answer())))).await;
                spent.store(true, Ordering::Relaxed);
            }
        });
    }

    fn members(&mut self, only: Option<&str>) -> Result<(Vec<Member>, Flows), Refused> {
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

    #[expect(clippy::unnecessary_wraps, reason = "one of several preparations of an answer")]
    fn status(&self) -> Result<impl FnOnce(Vec<Member>, &Flows) -> api::Status + use<>, Refused> {
        let status = api::Status {
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
            ha: None,
        };
        Ok(move |members: Vec<Member>, _: &Flows| api::Status {
            flows: members.iter().map(|member| member.line.flows).sum(),
            ..status
        })
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
        api::Firewall {
            host: if firewall.guard_host { "drop" } else { "pass" }.to_owned(),
            allow: firewall.allow.iter().map(render::port_rule).collect(),
            deny: firewall.deny_sources.iter().map(denied).collect(),
        }
    }
}

fn json(answer: Result<impl Serialize, Refused>) -> Reply {
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

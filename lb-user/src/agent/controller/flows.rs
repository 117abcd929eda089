//! Flows by service, backend and client: `/v1/flows`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use lb_common::flow::{Bucket, FlowState, FlowValue, Timeouts};

use super::{state::State, view::Member};
use crate::{
    api::{self, FlowFilter},
    core::{
        model::Affinity,
        plan::{BackendId, Snapshot},
    },
    dataplane::{
        flows::{Entry, Keys},
        mmap::Mapped,
    },
};

/// What names the entries of the affinity table. It belongs to one moment, and
/// can be used beside the controller.
pub(super) struct Flows {
    table: Arc<Mapped<Bucket>>,
    /// The data plane's second.
    now: u16,
    keys: Keys,
    backends: BTreeMap<BackendId, Named>,
}

struct Named {
    service: String,
    backend: String,
    timeouts: Timeouts,
    affinity: Affinity,
}

impl Flows {
    /// The flows of these backends at `now`.
    pub(super) fn new(state: &State, outline: &Snapshot, members: &[Member], now: u16) -> Self {
        let named = |member: &Member| {
            let service = &state.model.services[member.service];
            let named = Named {
                service: member.line.service.clone(),
                backend: member.line.name.clone(),
                timeouts: service.timeouts,
                affinity: service.affinity,
            };
            (member.id, named)
        };
        Self {
            table: Arc::clone(&state.data_plane.tables.flows),
            now,
            keys: Keys::of(outline),
            backends: members.iter().map(named).collect(),
        }
    }

    /// Flows that match, at most `limit`.
    pub(super) fn list(&self, filter: &FlowFilter, limit: usize) -> Vec<api::Flow> {
        let named = self.table.live(self.now).filter_map(|entry| self.describe(entry));
        named.filter(|flow| matches(flow, filter)).take(limit).collect()
    }

    /// How many flows match.
    pub(super) fn count(&self, filter: &FlowFilter) -> u64 {
        let named = self.table.live(self.now).filter_map(|entry| self.describe(entry));
        named.filter(|flow| matches(flow, filter)).count() as u64
    }

    /// Clears the flows that match; returns how many.
    pub(super) fn flush(&self, filter: &FlowFilter) -> u64 {
        let spent = |key, value: FlowValue| {
            let flow = self.describe(Entry { key, value });
            value.left(self.now) >= 0 && flow.is_some_and(|flow| matches(&flow, filter))
        };
        self.table.clear(0..self.table.entries(), spent).into()
    }

    /// Live flows by backend id.
    pub(super) fn by_backend(&self) -> Vec<u32> {
        self.table.count(self.now, &self.keys)
    }

    /// How many flows each of these backends has, and some of them.
    pub(super) fn left(
        &self,
        backends: &BTreeSet<BackendId>,
        most: usize,
    ) -> BTreeMap<BackendId, (u64, Vec<api::Flow>)> {
        let mut left: BTreeMap<_, _> = backends.iter().map(|&id| (id, (0, Vec::new()))).collect();
        for entry in self.table.live(self.now) {
            if let Some((count, flows)) = left.get_mut(&entry.value.backend())
                && self.keys.is_flow(&entry)
            {
                *count += 1;
                if flows.len() < most {
                    flows.extend(self.describe(entry));
                }
            }
        }
        left
    }

    fn describe(&self, entry: Entry) -> Option<api::Flow> {
        let Entry { key, value } = entry;
        let named = self.backends.get(&value.backend()).filter(|_| self.keys.is_flow(&entry))?;
        let (client, port) = if self.keys.are_exact(value.backend()) {
            (Some(Ipv4Addr::from((key as u32).to_ne_bytes()).into()), (key >> 32) as u16)
        } else {
            (None, 0)
        };
        let has_port = client.is_some() && named.affinity != Affinity::Client;
        let idle = i32::from(named.timeouts.of(value.state())) - i32::from(value.left(self.now));
        Some(api::Flow {
            service: named.service.clone(),
            client,
            client_port: has_port.then(|| u16::from_be(port)),
            backend: named.backend.clone(),
            state: state_word(value.state()).to_owned(),
            idle_s: u64::try_from(idle).unwrap_or(0),
        })
    }
}

fn matches(flow: &api::Flow, filter: &FlowFilter) -> bool {
    filter.service.as_ref().is_none_or(|service| *service == flow.service)
        && filter.backend.as_ref().is_none_or(|backend| *backend == flow.backend)
        && filter.client.is_none_or(|client| flow.client == Some(client))
}

const fn state_word(state: u8) -> &'static str {
    if state == FlowState::Established as u8 {
        "established"
    } else if state == FlowState::Closing as u8 {
        "closing"
    } else {
        "embryonic"
    }
}

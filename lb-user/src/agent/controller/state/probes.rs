//! Whom to probe, and for which address.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::probe;

use super::State;
use crate::{
    agent::probe::Target,
    core::{
        model::{Backend, Service, health::Probe},
        plan::{
            identity::{BackendIdentity, ServiceIdentity},
            ids::present_services,
        },
    },
};

impl State {
    /// Has the backends of the configuration in force probed.
    pub(super) fn probe_backends(&mut self) {
        self.rewrite_probes();
        let ids = if self.probing_vips {
            present_services(&self.data_plane.tables.outline())
        } else {
            BTreeMap::new()
        };
        let probed = self.model.services.iter().filter(|s| s.health.probe != Probe::None);
        let counted: BTreeSet<_> = probed.clone().map(ServiceIdentity::of).collect();
        self.tally.probes.retain(|service, _| counted.contains(service));
        let targets = probed.flat_map(|service| {
            let id = ids.get(&ServiceIdentity::of(service));
            let mark = id.filter(|_| service.is_probed_for_vip()).map_or(0, |&id| probe::mark(id));
            service.backends.iter().map(move |backend| target(service, backend, mark))
        });
        self.prober.set(targets.collect());
    }

    /// Follows interfaces that came or went, and tries again what failed.
    pub(super) fn look_after_probes(&mut self) {
        let before = self.probing_vips;
        self.rewrite_probes();
        if self.probing_vips != before {
            self.probe_backends();
        }
    }

    /// Has the packets of probes rewritten, if there are probes for a VIP.
    /// Where that fails these go to the backends' own addresses: that finds out
    /// a backend that is dead, and takes none down for a fault of ours.
    fn rewrite_probes(&mut self) {
        let wanted = self.model.services.iter().any(Service::is_probed_for_vip);
        let present = self.attached.iter().filter(|(name, _)| !self.missing.contains(*name));
        let interfaces = present.filter(|_| wanted).map(|(name, &index)| (name.as_str(), index));
        let done = self.data_plane.rewrite_probes(&interfaces.collect());
        self.probing_vips = wanted && done.is_ok();
        self.rewriting.report(
            done.map_err(Into::into),
            "probes of services in mode `dsr` go to the backends' own addresses, so that one \
             without the VIP is not found out",
        );
    }
}

fn target(service: &Service, backend: &Backend, mark: u32) -> Target {
    let key = BackendIdentity::of(service, backend);
    Target {
        key,
        address: backend.address,
        port: service.health.port.or(key.effective_port()),
        health: service.health.clone(),
        name: format!("{}/{}", service.name, backend.name),
        mark,
    }
}

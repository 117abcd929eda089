//! Which services have as many flows as they may (`service.max_flows`).

use super::{
    model::{Model, Service},
    plan::{
        ServiceId, Snapshot,
        identity::ServiceIdentity,
        ids::{present_backends, present_services},
    },
};

/// How far a service with a quota has used it up.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'m> {
    /// The service.
    pub service: &'m Service,
    /// Its id.
    pub id: ServiceId,
    /// Live flows of its backends.
    pub flows: u64,
}

impl Usage<'_> {
    /// Whether it may begin no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flows >= self.service.max_flows.into()
    }
}

/// All services with a quota that are in force; `flows` are live ones by backend id.
#[must_use]
pub fn usage<'m>(model: &'m Model, snapshot: &Snapshot, flows: &[u32]) -> Vec<Usage<'m>> {
    let (ids, backends) = (present_services(snapshot), present_backends(snapshot));
    let limited = model.services.iter().filter(|service| service.max_flows > 0);
    let usage = limited.filter_map(|service| {
        let who = ServiceIdentity::of(service);
        let own = backends.iter().filter(|(backend, _)| backend.service == who);
        let count = |id: u16| u64::from(flows.get(usize::from(id)).copied().unwrap_or(0));
        let flows = own.map(|(_, &id)| count(id)).sum();
        Some(Usage { service, id: *ids.get(&who)?, flows })
    });
    usage.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            model::{
                Mode, Protocol,
                sample::{backend, model, service},
            },
            nexthop::Network,
            plan::{self, Host},
            weight::Standings,
        },
        dataplane::fake,
    };

    #[test]
    fn the_flows_of_all_backends_of_a_service_count() {
        let mut tables = fake::tables(64).unwrap();
        let services = [("192.0.2.1", 5), ("192.0.2.2", 0), ("192.0.2.3", 5)];
        let services = services.map(|(vip, max_flows)| {
            let mut service = service(vip, (80, 80), Protocol::Tcp, Mode::Dsr);
            service.max_flows = max_flows;
            service.backends = [1, 2].map(|last| backend([10, 0, 0, last].into(), None, 1)).into();
            service
        });
        let model = model(services.to_vec());
        let host = Host {
            attached: [].into(),
            ephemeral: 1..=2,
            merges: false,
            quic_keys: Default::default(),
        };
        assert!(usage(&model, &tables.snapshot().unwrap(), &[9; 9]).is_empty());
        let snapshot = tables.snapshot().unwrap();
        let (standings, network) = (Standings::default(), Network::default());
        let plan = plan::plan(&model, &standings, &network, &snapshot, &host).unwrap();
        tables.carry_out(&plan.operations).unwrap();
        let outline = tables.outline();
        let of = |vip: &str| -> Vec<u16> {
            let backends = present_backends(&outline).into_iter();
            let vip = lb_common::addr::to_bytes(vip.parse().unwrap());
            backends.filter(|(who, _)| who.service.vip == vip).map(|(_, id)| id).collect()
        };
        let mut counts = vec![0; 16];
        for (vip, flows) in [("192.0.2.1", [2, 3]), ("192.0.2.2", [9, 9]), ("192.0.2.3", [4, 0])] {
            for (id, flows) in of(vip).into_iter().zip(flows) {
                counts[usize::from(id)] = flows;
            }
        }
        let usage = usage(&model, &outline, &counts);
        let usage: Vec<_> = usage.iter().map(|u| (u.service.vip, u.flows, u.is_full())).collect();
        let vip = |last| std::net::IpAddr::from([192, 0, 2, last]);
        assert_eq!(usage, [(vip(1), 5, true), (vip(3), 4, false)]);
    }
}

//! Answers who reads metrics.

use tokio::sync::oneshot;

use super::{flows::Flows, state::State, view};
use crate::{
    agent::{
        admin::Refused,
        ha,
        metrics::{Ask, Figures, Health, Service},
    },
    core::{model, plan::identity::ServiceIdentity},
};

impl State {
    /// Answers; the affinity table is walked through beside the controller.
    pub(super) fn answer_reader(&mut self, ask: Ask) {
        match ask {
            // Who asked may have gone.
            Ask::Health(reply) => drop(reply.send(self.health())),
            Ask::Figures(reply) if reply.is_closed() => {}
            Ask::Figures(reply) => self.tell_figures(reply),
        }
    }

    fn health(&self) -> Health {
        let interfaces = self.model.node.interfaces.iter();
        let away = interfaces.filter(|name| !self.modes.contains_key(*name)).cloned();
        Health { away: away.collect(), role: self.ha.as_ref().map(|pair| pair.summary().role) }
    }

    fn tell_figures(&mut self, reply: oneshot::Sender<Result<Figures, String>>) {
        match self.figures() {
            Ok((mut figures, flows)) => self.beside(reply, move || {
                view::fill_in(&mut figures.members, &flows.by_backend());
                figures.status.flows = view::flows(&figures.members);
                Ok(figures)
            }),
            Err(refused) => drop(reply.send(Err(refused.refusal.error))),
        }
    }

    /// All but the numbers of flows, which the second gives.
    fn figures(&mut self) -> Result<(Figures, Flows), Refused> {
        let (members, flows) = self.members(None)?;
        let figures = Figures {
            status: self.outline_status(),
            services: self.model.services.iter().map(|one| self.probed(one)).collect(),
            stats: self.stats(&members)?,
            members,
            tally: self.tally.clone(),
            pair: self.ha.as_ref().map(ha::Member::asking),
        };
        Ok((figures, flows))
    }

    fn probed(&self, service: &model::Service) -> Service {
        Service {
            name: service.name.clone(),
            vip: service.vip,
            probes: self.tally.probes.get(&ServiceIdentity::of(service)).cloned(),
        }
    }
}

//! What is in force, and how it becomes something else.

use lb_common::table::TableRef;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    super::{Error, chain},
    REST, RETIRE, RETRY, State,
};
use crate::{
    agent::quic,
    core::{
        model::Model,
        plan::{
            self, Operation, Plan, ServiceId, Snapshot,
            reweigh::{Room, reweigh},
        },
        sync::Names,
        weight::Standings,
    },
};

impl State {
    /// Makes `model` the generation in force.
    pub(super) async fn publish(&mut self, model: &Model) -> Result<(), Error> {
        let before = std::mem::take(&mut self.quic_keys);
        let keys = quic::read(model, &before);
        let published = match keys {
            Ok(keys) => {
                self.quic_keys = keys;
                self.publish_with_keys(model).await
            }
            Err(error) => Err(error.into()),
        };
        if published.is_err() {
            self.quic_keys = before;
        }
        published
    }

    async fn publish_with_keys(&mut self, model: &Model) -> Result<(), Error> {
        let plan = match self.plan(model) {
            Err(Error::Capacity(error)) if error.passes() && self.retire_previous() => {
                // Packets may still look into what is free now.
                sleep(REST).await;
                self.plan(model)
            }
            plan => plan,
        }?;
        self.rest().await;
        self.carry_out(&plan)?;
        self.torn = false;
        self.published = Instant::now();
        // Whatever changed before is in the new bank.
        self.fleet.take_changes();
        self.unweighed.clear();
        self.follow_routes();
        self.complain_of_unattached(plan);
        if model.ha.is_some() {
            self.names.send_replace(Names::of(&self.outline()).into());
        }
        Ok(())
    }

    fn plan(&self, model: &Model) -> Result<Plan, Error> {
        self.plan_for(model, self.fleet.standings(), &self.snapshot()?)
    }

    /// What a plan starts from.
    pub(in super::super) fn snapshot(&self) -> Result<Snapshot, Error> {
        let snapshot = self.data_plane.tables.snapshot().map_err(Error::Maps)?;
        Ok(Snapshot { resting: self.resting(), ..snapshot })
    }

    fn resting(&self) -> Vec<TableRef> {
        let resting = self.resting.iter().filter(|(_, since)| since.elapsed() < REST);
        resting.map(|(table, _)| *table).collect()
    }

    /// The plan from a snapshot to a configuration with these standings.
    pub(in super::super) fn plan_for(
        &self,
        model: &Model,
        standings: &Standings,
        snapshot: &Snapshot,
    ) -> Result<Plan, Error> {
        Ok(plan::plan(model, standings, &self.network, snapshot, &self.host()?)?)
    }

    /// Puts changed weights in force, in place; `numbered`: as a generation of
    /// its own. Where nothing changed, no map is touched.
    pub(in super::super) async fn reweigh(&mut self, numbered: bool) -> Result<(), Error> {
        let own = self.fleet.take_changes();
        let mut changed = own.clone();
        if self.unweighed_since.elapsed() >= RETRY {
            changed.append(&mut self.unweighed);
        }
        if changed.is_empty() && !numbered {
            return Ok(());
        }
        let mut before = self.outline();
        let weigh = |state: &Self, outline: &Snapshot, room| {
            reweigh(&state.model, state.fleet.standings(), &changed, outline, room)
        };
        let (mut plan, mut left) = weigh(self, &before, Room::Beside);
        if !left.is_empty() {
            if self.retire_previous() {
                sleep(REST).await;
                before = self.outline();
            }
            (plan, left) = weigh(self, &before, Room::InPlace);
        }
        if numbered {
            plan.operations.push(Operation::Number(self.generation() + 1));
        }
        // What is left of earlier changes is no reason to refuse this one.
        let refused = left.iter().find(|(who, _)| numbered && own.contains(who));
        if let Some((_, error)) = refused {
            let error = error.clone().into();
            self.unweighed.append(&mut changed);
            return Err(error);
        }
        self.rest().await;
        if let Err(error) = self.carry_out(&plan) {
            self.unweighed.append(&mut changed);
            return Err(error);
        }
        self.resting.retain(|(_, since)| since.elapsed() < REST);
        let now = Instant::now();
        self.resting.extend(plan::reweigh::freed(&plan, &before).map(|place| (place, now)));
        if !left.is_empty() {
            self.unweighed.extend(left.keys().copied());
            self.unweighed_since = now;
        }
        match left.pop_first() {
            Some((_, error)) if !numbered => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn outline(&self) -> Snapshot {
        Snapshot { resting: self.resting(), ..self.data_plane.tables.outline() }
    }

    /// Publishes what is to be in force, where that failed before or a change
    /// stopped half-way.
    pub(in super::super) async fn mend(&mut self) -> Result<(), Error> {
        if !self.torn {
            return Ok(());
        }
        let model = self.model.clone();
        self.publish(&model).await
    }

    /// Waits until no packet can still be reading what the last change of
    /// banks, or of previous tables, made free.
    async fn rest(&self) {
        sleep_until(self.published.max(self.retired) + REST).await;
    }

    /// Retires previous tables once the flows that began under them have been
    /// recorded, or are over.
    pub(in super::super) fn look_after_tables(&mut self) {
        let quiet = self.tables_changed.extract_if(.., |_, changed| changed.elapsed() >= RETIRE);
        let quiet: Vec<_> = quiet.map(|(service, _)| service).collect();
        if !quiet.is_empty() {
            self.retire(quiet);
        }
    }

    /// Retires all previous tables, since there is no room: whether there were
    /// any.
    fn retire_previous(&mut self) -> bool {
        let services = std::mem::take(&mut self.tables_changed);
        self.retire(services.into_keys().collect())
    }

    /// Whether there was a previous table to retire.
    fn retire(&mut self, services: Vec<ServiceId>) -> bool {
        let retired = self.data_plane.tables.retire_previous(services);
        tracing::debug!(retired, "retired previous tables");
        if retired > 0 {
            self.retired = Instant::now();
        }
        retired > 0
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) -> Result<(), Error> {
        self.data_plane.load_for(&plan.operations)?;
        let tables = &mut self.data_plane.tables;
        let before = tables.services_of(tables.config.read(0).active & 1);
        if let Err(error) = tables.carry_out(&plan.operations) {
            self.torn = true;
            return Err(Error::Maps(error));
        }
        let now = Instant::now();
        self.tables_changed.extend(plan.changed_tables(&before).map(|service| (service, now)));
        Ok(())
    }

    /// Says which backends cannot be reached, once.
    pub(super) fn complain_of_unattached(&mut self, plan: Plan) {
        for (backend, ifindex) in plan.unattached.difference(&self.unattached) {
            tracing::warn!(
                %backend, ifindex,
                "the way to this backend is by an interface that `node.interfaces` does not name, or \
                 by a bridge that never heard it"
            );
        }
        self.unattached = plan.unattached;
    }

    /// Has packets to clients go by what is known of the network now.
    pub(super) fn follow_routes(&mut self) {
        let attached = |ifindex: u32| self.attached.values().any(|index| *index == ifindex);
        let vlans = self.network.leaving(attached).collect();
        if let Err(error) = self.data_plane.set_vlans(&vlans) {
            tracing::error!(error = chain(&error), "clients in VLANs are left to the kernel");
        }
        let stations = self.network.stations(attached);
        if let Err(error) = self.data_plane.set_stations(&stations) {
            tracing::error!(error = chain(&error), "packets behind bridges are left to the kernel");
        }
        let epoch = self.epoch_base.wrapping_add(self.network.epoch);
        self.data_plane.tables.set_route_epoch(epoch);
    }

    /// Number of the generation in force.
    pub(in super::super) fn generation(&self) -> u64 {
        let config = self.data_plane.tables.config.read(0);
        config.generations[(config.active & 1) as usize].number
    }
}

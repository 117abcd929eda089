//! What is in force, and how it becomes something else.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep, sleep_until};

use super::{super::Error, REST, RETIRE, State};
use crate::core::{
    model::Model,
    plan::{
        self, CapacityError, Operation, Plan, Snapshot, identity::ServiceIdentity, reweigh::reweigh,
    },
    weight::Standings,
};

impl State {
    /// Makes `model` the generation in force.
    pub(super) async fn publish(&mut self, model: &Model) -> Result<(), Error> {
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
        self.published = Instant::now();
        // Whatever changed before is in the new bank.
        self.fleet.take_changes();
        self.unweighed.clear();
        self.set_route_epoch();
        self.complain_of_unattached(plan);
        Ok(())
    }

    fn plan(&self, model: &Model) -> Result<Plan, Error> {
        let snapshot = self.data_plane.tables.snapshot().map_err(Error::Maps)?;
        self.plan_for(model, self.fleet.standings(), &snapshot)
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
        let mut changed = self.fleet.take_changes();
        changed.append(&mut self.unweighed);
        if changed.is_empty() && !numbered {
            return Ok(());
        }
        let plan = match self.reweigh_plan(&changed) {
            Err(Error::Capacity(CapacityError::Tables(_))) if self.retire_previous() => {
                sleep(REST).await;
                self.reweigh_plan(&changed)
            }
            plan => plan,
        };
        let done = match plan {
            Ok(mut plan) => {
                if numbered {
                    plan.operations.push(Operation::Number(self.generation() + 1));
                }
                self.rest().await;
                self.carry_out(&plan)
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.unweighed = changed;
        }
        done
    }

    fn reweigh_plan(&mut self, changed: &BTreeSet<ServiceIdentity>) -> Result<Plan, Error> {
        self.resting.retain(|(_, since)| since.elapsed() < REST);
        let resting: Vec<_> = self.resting.iter().map(|(place, _)| *place).collect();
        let snapshot = self.data_plane.tables.outline();
        let plan = reweigh(&self.model, self.fleet.standings(), changed, &snapshot, &resting)?;
        let now = Instant::now();
        self.resting.extend(plan::reweigh::freed(&plan, &snapshot).map(|place| (place, now)));
        Ok(plan)
    }

    /// Waits until no packet can still be reading what the last change of
    /// banks, or of previous tables, made free.
    async fn rest(&self) {
        sleep_until(self.published.max(self.retired) + REST).await;
    }

    /// Retires previous tables once the flows that began under them have been
    /// recorded, or are over.
    pub(in super::super) fn look_after_tables(&mut self) {
        if self.tables_changed.is_some_and(|changed| changed.elapsed() >= RETIRE) {
            self.retire_previous();
        }
    }

    /// Whether there was a previous table to retire.
    fn retire_previous(&mut self) -> bool {
        self.tables_changed = None;
        let retired = self.data_plane.tables.retire_previous();
        tracing::debug!(retired, "retired previous tables");
        if retired > 0 {
            self.retired = Instant::now();
        }
        retired > 0
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) -> Result<(), Error> {
        self.data_plane.tables.carry_out(&plan.operations).map_err(Error::Maps)?;
        let changes =
            |op: &Operation| matches!(op, Operation::WriteTable(..) | Operation::WriteRoutes(..));
        if plan.operations.iter().any(changes) {
            self.tables_changed = Some(Instant::now());
        }
        Ok(())
    }

    /// Says which backends cannot be reached, once.
    pub(super) fn complain_of_unattached(&mut self, plan: Plan) {
        for (backend, ifindex) in plan.unattached.difference(&self.unattached) {
            tracing::warn!(
                %backend, ifindex,
                "the way to this backend is by an interface that `node.interfaces` does not name"
            );
        }
        self.unattached = plan.unattached;
    }

    pub(super) fn set_route_epoch(&self) {
        let epoch = self.epoch_base.wrapping_add(self.network.epoch);
        self.data_plane.tables.set_route_epoch(epoch);
    }

    /// Number of the generation in force.
    pub(in super::super) fn generation(&self) -> u64 {
        let config = self.data_plane.tables.config.read(0);
        config.generations[(config.active & 1) as usize].number
    }
}

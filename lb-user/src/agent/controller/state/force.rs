//! Another configuration, put in force whole or not at all.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::watch;

use super::{
    super::{Error, chain},
    State, backend_addresses,
    interfaces::{by_name, look_up},
};
use crate::{
    config::{Loaded, overlay::EditError},
    core::{edit::Edits, fleet::Fleet, model::Model, nexthop::Network},
};

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Direction {
    /// Somebody asked for it: what it names must be there.
    Onward,
    /// It was in force before: interfaces that went away since are awaited.
    Back,
}

/// What a configuration is made of.
#[derive(Clone, Debug)]
pub(in super::super) struct Origin {
    /// The file.
    pub(in super::super) file: Arc<Loaded>,
    /// What the admin socket made of it.
    pub(in super::super) edits: Edits,
}

impl Origin {
    /// The model that they make together.
    pub(in super::super) fn model(&self) -> Result<Model, EditError> {
        self.edits.apply(&self.file.model).map_err(EditError::Invalid)
    }
}

impl State {
    /// Puts a configuration in force, whole or not at all: in place where only
    /// weights differ, or what they follow from. What is refused leaves what
    /// was known of the backends, and ordered, as it was.
    pub(in super::super) async fn put_in_force(
        &mut self,
        model: Model,
        origin: Origin,
        direction: Direction,
        network: &mut watch::Receiver<Arc<Network>>,
    ) -> Result<(), Error> {
        self.check_fixed(&model)?;
        let fleet = self.fleet_for(&model, &origin.edits);
        let fleet = mem::replace(&mut self.fleet, fleet);
        let origin = mem::replace(&mut self.origin, origin);
        let done = if model.has_shape_of(&self.model) {
            let before = mem::replace(&mut self.model, model);
            let done = self.reweigh(true).await;
            if done.is_err() {
                self.model = before;
            }
            done
        } else {
            self.rebuild(model, direction, network).await
        };
        if done.is_err() {
            (self.fleet, self.origin) = (fleet, origin);
            if let Err(error) = self.mend().await {
                tracing::error!(error = chain(&error), "cannot undo the change yet");
            }
        }
        self.probe_backends();
        self.spent.store(true, Ordering::Relaxed);
        done
    }

    /// The fleet as it is with another configuration.
    pub(in super::super) fn fleet_for(&self, model: &Model, edits: &Edits) -> Fleet {
        let mut fleet = self.fleet.clone();
        fleet.configure(model, &|service, backend| edits.admin(service, backend), self.now());
        fleet
    }

    /// Builds and publishes a new generation.
    async fn rebuild(
        &mut self,
        model: Model,
        direction: Direction,
        network: &mut watch::Receiver<Arc<Network>>,
    ) -> Result<(), Error> {
        let known = match direction {
            Direction::Onward => &self.model,
            Direction::Back => &model,
        };
        let interfaces = look_up(&model.node, &known.node.interfaces).await?;
        let new: Vec<_> = interfaces
            .iter()
            .filter(|interface| !self.data_plane.serves(interface, model.node.xdp_mode))
            .cloned()
            .collect();
        let before = self.attached.clone();
        let attachments = self.attach(&new, model.node.xdp_mode).await?;
        self.attached = by_name(&interfaces);
        // One in force that is away is no reason for others to wait.
        let new = &backend_addresses(&model) - &backend_addresses(&self.model);
        self.resolve_backends(&model, &new, network).await;
        match self.publish(&model).await {
            Ok(()) => {
                self.missing.retain(|name| model.node.interfaces.contains(name));
                self.model = model;
                self.watch_backends();
                self.detach_others();
                self.announce(&attachments, "configuration in force");
                if let Err(error) = self.follow_next_hops() {
                    tracing::warn!(%error, "next hops are not up to date");
                }
                Ok(())
            }
            Err(error) => {
                self.attached = before;
                self.watch_backends();
                self.data_plane.take_back(&attachments).await?;
                Err(error)
            }
        }
    }

    fn check_fixed(&self, model: &Model) -> Result<(), Error> {
        let config = self.data_plane.tables.config.read(0);
        let (old, node) = (&self.model.node, &model.node);
        if model.admin.socket != self.model.admin.socket {
            return Err(Error::Started("admin.socket"));
        }
        if model.admin.group != self.model.admin.group {
            return Err(Error::Started("admin.group"));
        }
        if model.admin.http != self.model.admin.http {
            return Err(Error::Started("admin.http"));
        }
        if node.state_dir != old.state_dir {
            return Err(Error::Started("node.state_dir"));
        }
        if model.ha != self.model.ha {
            return Err(Error::Started("ha"));
        }
        if model.ha.is_some() && node.name != old.name {
            return Err(Error::Started("node.name"));
        }
        if node.pin_dir != old.pin_dir {
            return Err(Error::Fixed("node.pin_dir"));
        }
        if lb_common::limits::flow_buckets(node.flows) != config.flow_mask + 1 {
            return Err(Error::Fixed("node.flows"));
        }
        if node.hash_seed.is_some_and(|seed| seed != config.slot_seed) {
            return Err(Error::Fixed("node.hash_seed"));
        }
        Ok(())
    }
}

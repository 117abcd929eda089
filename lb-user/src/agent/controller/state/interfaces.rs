//! Interfaces come and go; the data plane stays attached to those that are
//! configured.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{Error, chain},
    State,
};
use crate::{
    core::model::{Node, XdpMode},
    dataplane::attach::{self, Attachment},
    sys::link::{self, Interface},
};

impl State {
    /// Attaches again where an interface went away and came back. One that
    /// makes trouble keeps no other from it.
    pub(in super::super) async fn look_after_interfaces(&mut self) -> Result<(), Error> {
        let (mut changed, mut troubles) = (false, Vec::new());
        for name in self.model.node.interfaces.clone() {
            match self.look_after(&name).await {
                Ok(attached) => changed |= attached,
                Err(error) => troubles.push(chain(&error)),
            }
        }
        self.look_after_probes();
        if changed {
            self.detach_others();
            self.follow(self.network.clone()).await?;
        }
        if troubles.is_empty() { Ok(()) } else { Err(Error::Interfaces(troubles.join("; "))) }
    }

    /// Says whether the interface had to be attached to.
    async fn look_after(&mut self, name: &str) -> Result<bool, Error> {
        let interface = match link::by_name(name).await {
            Ok(interface) => interface,
            Err(link::Error::NoSuchName(_)) => {
                self.modes.remove(name);
                if self.missing.insert(name.to_owned()) {
                    tracing::warn!(interface = name, "the interface is gone, waiting for it");
                }
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(xdp) = &interface.xdp {
            self.modes.insert(name.to_owned(), xdp.mode);
        }
        let known = self.attached.get(name) == Some(&interface.index);
        if known && self.data_plane.serves(&interface, self.model.node.xdp_mode) {
            // It may be a part of something only since.
            attach::check_whole(&interface).await?;
            return Ok(false);
        }
        let attached = self.attach_again(interface).await;
        if attached.is_err() {
            self.modes.remove(name);
        }
        attached.map(|()| true)
    }

    async fn attach_again(&mut self, interface: Interface) -> Result<(), Error> {
        let mode = self.model.node.xdp_mode;
        let attachments = self.attach(std::slice::from_ref(&interface), mode).await?;
        self.missing.remove(&interface.name);
        for Attachment { interface, ifindex, mode, .. } in attachments {
            tracing::info!(interface, ifindex, mode = mode.map(display), "attached again");
        }
        Ok(())
    }

    /// Attaches to more interfaces. The packet path learns first what of their bridges: what
    /// is for others must pass from the first frame on.
    pub(super) async fn attach(
        &mut self,
        interfaces: &[Interface],
        mode: XdpMode,
    ) -> Result<Vec<Attachment>, Error> {
        let before = self.attached.clone();
        self.attached.extend(by_name(interfaces));
        self.follow_routes();
        match self.data_plane.attach(interfaces, mode).await {
            Ok(attachments) => {
                self.note_modes(&attachments);
                Ok(attachments)
            }
            Err(error) => {
                self.attached = before;
                self.follow_routes();
                Err(error.into())
            }
        }
    }

    /// Detaches from every interface that is not to be attached. What is in
    /// force does not depend on it, so a failure is only told.
    pub(super) fn detach_others(&mut self) {
        let keep: BTreeSet<_> = self.attached.values().copied().collect();
        let links = self.data_plane.links().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "cannot look for links to detach");
            Vec::new()
        });
        for ifindex in links.into_iter().filter(|ifindex| !keep.contains(ifindex)) {
            match self.data_plane.detach(ifindex) {
                Ok(()) => tracing::info!(ifindex, "detached"),
                Err(error) => {
                    tracing::error!(ifindex, error = chain(&error), "cannot detach");
                }
            }
        }
    }
}

/// The interfaces to attach to; those of `awaited` may be away.
pub(super) async fn look_up(node: &Node, awaited: &[String]) -> Result<Vec<Interface>, Error> {
    let mut interfaces = Vec::new();
    for name in &node.interfaces {
        match link::by_name(name).await {
            Err(link::Error::NoSuchName(_)) if awaited.contains(name) => {}
            found => interfaces.push(found?),
        }
    }
    Ok(interfaces)
}

pub(super) fn by_name(interfaces: &[Interface]) -> BTreeMap<String, u32> {
    interfaces.iter().map(|interface| (interface.name.clone(), interface.index)).collect()
}

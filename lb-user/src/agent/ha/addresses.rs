//! The addresses of groups follow the roles: held while this node serves, with
//! a lifetime, so that they go if the agent does; announced when they come.
//!
//! Every turn looks at the interfaces and at all addresses of the host, and does
//! what is missing. So it does not matter what happened in between, or what an
//! earlier run left behind.

mod links;
mod moving;

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::sleep_until};

use self::{
    links::Links,
    moving::{Moving, Turn},
};
use crate::{
    agent::controller::chain,
    core::model::ha::Ha,
    sys::{
        address::{self, Addresses},
        link,
    },
};

/// How often addresses are held for longer, and how often all is looked at if
/// nothing is told.
const RENEWAL: Duration = Duration::from_secs(1);

/// Nobody can keep the addresses of the groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else gave this host one of them, or there is no netlink.
    #[error(transparent)]
    Address(#[from] address::Error),
    /// There is no netlink.
    #[error(transparent)]
    Link(#[from] link::Error),
}

/// Whether this node serves a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) active: bool,
    /// When it began, or a peer that served as well stopped.
    pub(super) since: Duration,
}

/// How it is with the addresses of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether this node can serve them, as far as is known.
    pub(super) fit: bool,
    /// Whether any may be here.
    pub(super) held: bool,
    /// What is wrong, if anything; that alone does not make it unfit.
    pub(super) trouble: Option<String>,
}

/// Keeps addresses where they belong.
pub(super) struct Keeper {
    addresses: Addresses,
    links: Links,
    groups: Vec<Moving>,
    started: Instant,
    /// When the next renewal is due.
    renewal: Duration,
    kept: watch::Sender<Vec<Kept>>,
}

impl Keeper {
    /// Makes sure that no address of the groups is here, but for those that an
    /// earlier run of the agent held.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn begin(ha: &Ha, started: Instant) -> Result<Self, Error> {
        let (mut addresses, links) = (Addresses::open()?, Links::open(&ha.groups)?);
        let present = addresses.present().await?;
        for one in ha.groups.iter().flat_map(|group| &group.addresses) {
            addresses.refuse_foreign(&present, one.address).await?;
        }
        // An earlier run may have left any.
        let unknown = Kept { fit: true, held: true, trouble: None };
        Ok(Self {
            addresses,
            links,
            groups: ha.groups.iter().cloned().map(Moving::new).collect(),
            started,
            renewal: Duration::ZERO,
            kept: watch::Sender::new(vec![unknown; ha.groups.len()]),
        })
    }

    /// How it is with each group, by position.
    pub(super) fn kept(&self) -> watch::Receiver<Vec<Kept>> {
        self.kept.subscribe()
    }

    /// Follows until nobody tells any more; then nothing is held.
    pub(super) async fn run(mut self, mut serving: watch::Receiver<Vec<Serving>>) {
        let mut wake = Instant::now();
        loop {
            let goes_on = tokio::select! {
                changed = serving.changed() => changed.is_ok(),
                () = self.links.changed() => true,
                () = sleep_until(wake.into()) => true,
            };
            let mut wanted = serving.borrow_and_update().clone();
            wanted.iter_mut().for_each(|serving| serving.active &= goes_on);
            wake = self.started + self.turn(&wanted).await;
            if !goes_on {
                return;
            }
        }
    }

    /// Does what is missing; when to look again.
    async fn turn(&mut self, wanted: &[Serving]) -> Duration {
        let now = self.started.elapsed();
        let renews = now >= self.renewal;
        if renews {
            self.renewal = now + RENEWAL;
        }
        self.links.look(now).await;
        let mut kept = self.kept.borrow().clone();
        kept.iter_mut().zip(wanted).for_each(|(kept, serving)| kept.held |= serving.active);
        self.publish(kept);
        let mut next = self.renewal;
        // Frames need no address here, but neighbours to send them.
        for (moving, serving) in self.groups.iter_mut().zip(wanted) {
            if serving.active {
                next = next.min(moving.announce(&self.links, serving.since, now).await);
            }
        }
        let present = self.addresses.present().await.map_err(|error| chain(&error));
        let mut kept = Vec::new();
        for (moving, &Serving { active, .. }) in self.groups.iter_mut().zip(wanted) {
            let turn = Turn { links: &self.links, present: present.as_ref(), active, renews, now };
            kept.push(moving.keep(&mut self.addresses, &turn).await);
        }
        self.tell(&kept);
        self.publish(kept);
        next
    }

    fn publish(&self, new: Vec<Kept>) {
        self.kept.send_if_modified(|kept| {
            let changed = *kept != new;
            *kept = new;
            changed
        });
    }

    /// Tells of trouble when it begins, changes or ends.
    fn tell(&self, new: &[Kept]) {
        for ((moving, old), new) in self.groups.iter().zip(&*self.kept.borrow()).zip(new) {
            let (group, fit) = (moving.name(), new.fit);
            match &new.trouble {
                _ if (&old.trouble, old.fit) == (&new.trouble, fit) => {}
                Some(trouble) => tracing::error!(group, fit, trouble, "trouble with addresses"),
                None => tracing::info!(group, "no more trouble with addresses"),
            }
        }
    }
}

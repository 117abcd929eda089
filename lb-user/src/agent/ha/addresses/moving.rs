//! A group whose addresses come and go.

use std::{net::IpAddr, time::Duration};

use tokio::task::yield_now;

use super::{Kept, links::Links};
use crate::{
    agent::controller::chain,
    core::{
        ha::announce::{self, VALID},
        model::ha::{Group, GroupAddress},
    },
    sys::{
        address::{Addresses, Present},
        announce::announce,
    },
};

/// How long a group is left to the peer after its addresses could not be held
/// here: nothing tells whether they could be now but to try.
const PENANCE: Duration = Duration::from_secs(60);

/// A group.
pub(super) struct Moving {
    group: Group,
    /// When it was announced last.
    announced: Option<Duration>,
    /// What the announcement met.
    unannounced: Option<String>,
    /// What the kernel did not do.
    failure: Option<Failure>,
}

/// Since when something fails, and until when it did at least.
struct Failure {
    first: Duration,
    last: Duration,
}

/// What a group goes by.
pub(super) struct Turn<'t> {
    pub(super) links: &'t Links,
    /// The host's addresses, or why they are not known.
    pub(super) present: Result<&'t Present, &'t String>,
    /// Whether this node serves the group.
    pub(super) active: bool,
    /// Whether what is held is to be held for longer.
    pub(super) renews: bool,
    pub(super) now: Duration,
}

/// What came of the addresses.
#[derive(Default)]
struct Placed {
    /// What the kernel did not do.
    failed: Option<String>,
    /// What somebody else did.
    foreign: Option<String>,
}

impl Moving {
    pub(super) fn new(group: Group) -> Self {
        Self { group, announced: None, unannounced: None, failure: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.group.name
    }

    /// Announces the addresses if that is due; when it is due next.
    pub(super) async fn announce(
        &mut self,
        links: &Links,
        since: Duration,
        now: Duration,
    ) -> Duration {
        let since = since.max(links.since(&self.group));
        let times = announce::due(since, self.announced, now);
        if times > 0 {
            self.announced = Some(now);
            self.unannounced = self.send(links, times).await.err();
        }
        announce::next(since, self.announced)
    }

    async fn send(&self, links: &Links, times: u32) -> Result<(), String> {
        let mut result = Ok(());
        // Once everywhere first: frames of a flow cross more than one interface.
        for _ in 0..times {
            for (name, interface) in links.connected(&self.group) {
                let here = |one: &&GroupAddress| one.interface == *name;
                let here = self.group.addresses.iter().filter(here);
                let addresses: Vec<IpAddr> = here.map(|one| one.address).collect();
                let sent = announce(interface, &addresses).map_err(|error| chain(&error));
                result = result.and(sent);
            }
            // Many addresses take a while, and heartbeats are due.
            yield_now().await;
        }
        result
    }

    /// Has the addresses here, or not; how it is then.
    pub(super) async fn keep(&mut self, addresses: &mut Addresses, turn: &Turn<'_>) -> Kept {
        let Placed { failed, foreign } = match turn.present {
            Ok(present) => self.place(addresses, present, turn).await,
            Err(error) => Placed { failed: Some(error.clone()), foreign: None },
        };
        self.remember(failed.is_some(), turn);
        if !turn.active {
            self.unannounced = None;
        }
        let unfit = turn.links.trouble(&self.group);
        // The kernel may refuse once what it does when it is asked again.
        let fails = self.failure.as_ref().is_some_and(|failure| failure.last > failure.first);
        let left = || fails.then(|| "its addresses could not be held here lately".to_owned());
        Kept {
            fit: unfit.is_none() && !fails,
            held: turn.active || failed.is_some(),
            trouble: unfit
                .or(failed)
                .or(foreign)
                .or_else(|| self.unannounced.clone())
                .or_else(left),
        }
    }

    async fn place(&self, addresses: &mut Addresses, present: &Present, turn: &Turn<'_>) -> Placed {
        let mut placed = Placed::default();
        for GroupAddress { address, interface } in &self.group.addresses {
            let foreign = addresses.refuse_foreign(present, *address).await;
            let is_foreign = foreign.is_err();
            placed.foreign = placed.foreign.or(foreign.err().map(|error| chain(&error)));
            let done = match turn.links.get(interface) {
                _ if !turn.active => addresses.release(present, *address).await,
                // It is the operator's, who is told.
                _ if is_foreign => Ok(()),
                Some(interface) if turn.renews || !present.is_held(interface, *address) => {
                    addresses.hold(interface, *address, VALID).await
                }
                _ => Ok(()),
            };
            placed.failed = placed.failed.or(done.err().map(|error| chain(&error)));
        }
        placed
    }

    /// Keeps in mind whether the addresses can be had here.
    fn remember(&mut self, failed: bool, turn: &Turn<'_>) {
        let now = turn.now;
        if failed {
            let first = self.failure.as_ref().map_or(now, |failure| failure.first);
            self.failure = Some(Failure { first, last: now });
        } else {
            // Who stands by holds nothing, which never fails.
            self.failure = self.failure.take().filter(|failure| {
                !turn.active && failure.last > failure.first && now < failure.last + PENANCE
            });
        }
    }
}

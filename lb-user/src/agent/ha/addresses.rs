//! The addresses of groups follow the roles: held while this node serves, with
//! a lifetime, so that they go if the agent does; announced when they come.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::{sync::watch, time::sleep_until};

use crate::{
    agent::controller::chain,
    core::{
        ha::announce,
        model::ha::{Group, Ha},
    },
    sys::{
        address::{self, Addresses},
        announce::announce,
    },
};

/// How long an address stays without the agent.
const VALID: Duration = Duration::from_secs(3);
/// How often that is renewed.
const RENEWAL: Duration = Duration::from_secs(1);

/// Whether this node serves a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) active: bool,
    /// When it began, or a peer that served as well stopped.
    pub(super) since: Duration,
}

/// Keeps addresses where they belong.
pub(super) struct Keeper {
    addresses: Addresses,
    groups: Vec<Group>,
    started: Instant,
    /// When each group was announced last.
    announced: Vec<Option<Duration>>,
    /// What could not be done last, of each group.
    troubles: Vec<Option<String>>,
}

impl Keeper {
    /// Makes sure that no address of the groups is here, but for those that an
    /// earlier run of the agent held.
    ///
    /// # Errors
    /// Somebody else gave this host one of them, or there is no netlink.
    pub(super) async fn begin(ha: &Ha, started: Instant) -> Result<Self, address::Error> {
        let mut addresses = Addresses::open()?;
        let all = ha.groups.iter().flat_map(|group| &group.addresses);
        let all: Vec<_> = all.map(|one| one.address.addr()).collect();
        addresses.refuse_foreign(&all).await?;
        let (announced, troubles) = (vec![None; ha.groups.len()], vec![None; ha.groups.len()]);
        Ok(Self { addresses, groups: ha.groups.clone(), started, announced, troubles })
    }

    /// Follows until nobody tells any more; then nothing is held.
    pub(super) async fn run(mut self, mut serving: watch::Receiver<Vec<Serving>>) {
        // An earlier run may have left any.
        let mut here = vec![true; self.groups.len()];
        let mut wake = Instant::now();
        loop {
            let goes_on = tokio::select! {
                changed = serving.changed() => changed.is_ok(),
                () = sleep_until(wake.into()) => true,
            };
            let now = self.started.elapsed();
            wake = self.started + now + RENEWAL;
            let wanted = serving.borrow_and_update().clone();
            for (index, wanted) in wanted.into_iter().enumerate() {
                if goes_on && wanted.active {
                    // Frames need no address here, but neighbours to send them.
                    wake = wake.min(self.started + self.announce(index, wanted.since, now).await);
                    self.hold(index).await;
                    here[index] = true;
                } else if here[index] {
                    self.release(index).await;
                    here[index] = false;
                }
            }
            if !goes_on {
                return;
            }
        }
    }

    async fn hold(&mut self, index: usize) {
        let mut trouble = None;
        for one in &self.groups[index].addresses {
            if let Err(error) = self.addresses.hold(&one.interface, one.address, VALID).await {
                trouble = Some(chain(&error));
            }
        }
        self.tell(index, trouble);
    }

    async fn release(&mut self, index: usize) {
        let mut trouble = None;
        for one in &self.groups[index].addresses {
            if let Err(error) = self.addresses.release(&one.interface, one.address).await {
                trouble = Some(chain(&error));
            }
        }
        self.tell(index, trouble);
    }

    /// Announces a group's addresses if that is due; when it is due next.
    async fn announce(&mut self, index: usize, since: Duration, now: Duration) -> Duration {
        let times = announce::due(since, self.announced[index], now);
        if times > 0 {
            self.announced[index] = Some(now);
            let trouble = self.send(index, times).await;
            if trouble.is_some() {
                self.tell(index, trouble);
            }
        }
        announce::next(since, self.announced[index])
    }

    async fn send(&self, index: usize, times: u32) -> Option<String> {
        let group = &self.groups[index].addresses;
        let mut interfaces: Vec<_> = group.iter().map(|one| &*one.interface).collect();
        interfaces.sort_unstable();
        interfaces.dedup();
        let mut trouble = None;
        // Once everywhere first: frames of a flow cross more than one interface.
        for _ in 0..times {
            for interface in &interfaces {
                let here = group.iter().filter(|one| one.interface == *interface);
                let addresses: Vec<_> = here.map(|one| IpNet::addr(&one.address)).collect();
                if let Err(error) = announce(interface, &addresses).await {
                    trouble = Some(chain(&error));
                }
            }
        }
        trouble
    }

    /// Tells of trouble when it begins or changes.
    fn tell(&mut self, index: usize, trouble: Option<String>) {
        let group = &self.groups[index].name;
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.troubles[index]) {
            tracing::error!(group, error, "the addresses do not follow");
        }
        self.troubles[index] = trouble;
    }
}

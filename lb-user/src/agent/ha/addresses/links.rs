//! The interfaces that have the groups' addresses: how each is, and since when.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    agent::controller::chain,
    core::model::ha::Group,
    sys::link::{self, Interface, Monitor},
};

/// All of them, as they were when they were looked at last.
pub(super) struct Links {
    monitor: Monitor,
    links: BTreeMap<String, Link>,
}

/// An interface.
struct Link {
    /// `Err`: what is wrong.
    found: Result<Interface, String>,
    /// When it came, got another Ethernet address or number, or carrier anew:
    /// neighbours and switches may not know where addresses are.
    since: Duration,
}

impl Links {
    /// Those of all groups; nothing is known of them before [`Self::look`].
    ///
    /// # Errors
    /// There is no netlink.
    pub(super) fn open(groups: &[Group]) -> Result<Self, link::Error> {
        let unknown = || Link { found: Err(String::new()), since: Duration::ZERO };
        let addresses = groups.iter().flat_map(|group| &group.addresses);
        let links = addresses.map(|one| (one.interface.clone(), unknown())).collect();
        Ok(Self { monitor: Monitor::open()?, links })
    }

    /// Waits until one may have changed. May be cancelled.
    pub(super) async fn changed(&mut self) {
        self.monitor.changed().await;
    }

    /// Looks at all of them.
    pub(super) async fn look(&mut self, now: Duration) {
        for (name, link) in &mut self.links {
            link.learn(self.monitor.look(name).await.map_err(|error| chain(&error)), now);
        }
    }

    /// The interface of this name, if it is there, with carrier or not.
    pub(super) fn get(&self, name: &str) -> Option<&Interface> {
        self.links.get(name)?.found.as_ref().ok()
    }

    /// Since when all interfaces of a group are the ones that they are.
    pub(super) fn since(&self, group: &Group) -> Duration {
        self.of(group).map(|(_, link)| link.since).max().unwrap_or_default()
    }

    /// Those of a group that can send, by the names that the group has for them.
    pub(super) fn connected<'l>(
        &'l self,
        group: &'l Group,
    ) -> impl Iterator<Item = (&'l String, &'l Interface)> {
        self.of(group)
            .filter_map(|(name, link)| Some((name, link.found.as_ref().ok()?)))
            .filter(|(_, found)| found.carrier)
    }

    /// Why a group cannot be served by these interfaces.
    pub(super) fn trouble(&self, group: &Group) -> Option<String> {
        self.of(group).find_map(|(name, link)| match &link.found {
            Err(error) => Some(error.clone()),
            Ok(found) if !found.up => Some(format!("interface `{name}` is down")),
            Ok(found) if !found.carrier => Some(format!("interface `{name}` has no carrier")),
            Ok(_) => None,
        })
    }

    /// Those of a group, each once.
    fn of<'l>(&'l self, group: &'l Group) -> impl Iterator<Item = (&'l String, &'l Link)> {
        let has = |name: &str| group.addresses.iter().any(|one| one.interface == name);
        self.links.iter().filter(move |(name, _)| has(name))
    }
}

impl Link {
    fn learn(&mut self, found: Result<Interface, String>, now: Duration) {
        if identity(&found) != identity(&self.found) {
            self.since = now;
        }
        self.found = found;
    }
}

/// What neighbours know an interface by, and how often it was connected; `None`:
/// it is not.
fn identity(found: &Result<Interface, String>) -> Option<(u32, Option<[u8; 6]>, u32)> {
    let connected = found.as_ref().ok().filter(|found| found.carrier)?;
    Some((connected.index, connected.mac, connected.carrier_ups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_another_if_its_neighbours_may_not_know_it() {
        let missing = Err(String::from("interface `l0` does not exist"));
        let l0 = Interface {
            index: 2,
            name: "l0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: true,
            carrier_ups: 1,
            xdp: None,
            part_of: None,
            filters_vlans: false,
        };
        let became = |change: &dyn Fn(&mut Interface)| {
            let mut other = l0.clone();
            change(&mut other);
            other
        };
        let since = |before: &Result<Interface, String>, after: Interface| {
            let mut link = Link { found: before.clone(), since: Duration::ZERO };
            link.learn(Ok(after), Duration::from_secs(1));
            link.since.as_secs()
        };
        assert_eq!(since(&missing, l0.clone()), 1);
        let l0 = &Ok(l0.clone());
        assert_eq!(since(l0, became(&|_| {})), 0);
        assert_eq!(since(l0, became(&|other| other.mtu = 9000)), 0);
        assert_eq!(since(l0, became(&|other| other.index = 3)), 1);
        assert_eq!(since(l0, became(&|other| other.mac = Some([2, 0, 0, 0, 0, 2]))), 1);
        // So quickly that it was never seen without.
        assert_eq!(since(l0, became(&|other| other.carrier_ups = 2)), 1);
        let unplugged = Ok(became(&|other| other.carrier = false));
        assert_eq!(since(&unplugged, became(&|other| other.carrier_ups = 2)), 1);
    }
}

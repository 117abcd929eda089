//! Next hops as the data plane needs them, and how they follow from what the
//! kernel knows: links, addresses, routes and neighbours.
//!
//! [`Facts`] are fed one by one, from dumps and from events alike; they work
//! out which next hops that changes and whether the change can make a next hop
//! that the packet path remembers wrong ([`Network::epoch`]).

mod leaving;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::nexthop::vlan;

pub use self::leaving::{Bridges, Leaving, Place, Port, Station, Vlan};

/// A resolved next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface the kernel would send the frame by: a VLAN's, a bridge, or the one that it
    /// leaves by indeed.
    pub ifindex: u32,
    /// Ethernet address of the next hop.
    pub destination: [u8; 6],
    /// Ethernet address of that interface.
    pub source: [u8; 6],
    /// Bytes of the longest IP packet that goes this way; 0: not known.
    pub mtu: u32,
    /// What becomes of the frame's VLAN tag, one of [`vlan`]. Which, and whether it leaves
    /// by another interface, depends on what the data plane is attached to: see
    /// [`Network::vlans`].
    pub vlan: u16,
}

/// What is known of the network around the host, kept current from netlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Next hop towards each watched address; absent: not resolved.
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    /// The host's own addresses, sorted, each once.
    pub host_addresses: Vec<IpAddr>,
    /// Interfaces of VLANs, and those that carry them, by index.
    pub vlans: BTreeMap<u32, Leaving>,
    /// Bridges, and what is behind their ports.
    pub bridges: Arc<Bridges>,
    /// Counts changes that can make a remembered next hop wrong: of routes,
    /// links, own addresses, and of a neighbour's Ethernet address (another
    /// one, or none any more). A neighbour seen for the first time is not
    /// counted. Wraps.
    pub epoch: u32,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its Ethernet address; `None`: it does not carry Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Up, with carrier.
    pub up: bool,
    /// Bytes of the longest IP packet that it carries; 0: not known.
    pub mtu: u32,
    /// The VLAN that it is, if it is one (IEEE 802.1Q).
    pub vlan: Option<Vlan>,
    /// What it is to a bridge, if it is a port of one (IEEE 802.1D).
    pub port: Option<Port>,
}

/// Whom a frame is given to: where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Interface the neighbour is on.
    pub ifindex: u32,
    /// The gateway; without one, the destination itself.
    pub address: IpAddr,
}

/// Where the kernel sends packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whom it gives them to.
    pub hop: Hop,
    /// Bytes of the longest, where an operator, or a router on the way, said so.
    pub mtu: Option<u32>,
}

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address, if the entry is in a state to be used.
    pub mac: Option<[u8; 6]>,
    /// Somebody else answers for the entry (an operator, a routing daemon, the
    /// interface itself): it is used as it is, never asked for.
    pub fixed: bool,
    /// The kernel keeps the entry resolved by itself.
    pub managed: bool,
    /// The entry was made by us.
    pub ours: bool,
}

/// How soon a change has to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody is misled: within a second or so.
    Later,
    /// A next hop in use changed.
    Now,
}

/// All that is known, and what of it is not published yet.
#[derive(Debug, Default)]
pub struct Facts {
    links: HashMap<u32, Link>,
    addresses: BTreeSet<(IpAddr, u32)>,
    neighbours: HashMap<Hop, Neighbour>,
    /// Where each watched address is routed; `None`: nowhere, or not looked up yet.
    routes: BTreeMap<IpAddr, Option<Route>>,
    /// Bytes of the longest packet that goes the whole way to a watched address, where a
    /// router on it said so.
    carried: BTreeMap<IpAddr, u32>,
    /// The watched addresses behind each hop in use.
    users: BTreeMap<Hop, BTreeSet<IpAddr>>,
    /// Entries made by us, in use or not.
    ours: BTreeSet<Hop>,
    /// Hops in use that the kernel does not keep resolved (yet).
    unsettled: BTreeSet<Hop>,
    /// Hops in use that were never asked for.
    unasked: BTreeSet<Hop>,
    /// Neighbours that a bridge lost sight of, in use or not.
    lost: BTreeSet<Hop>,
    bridges: Arc<Bridges>,
    next_hops: BTreeMap<IpAddr, NextHop>,
    epoch: u32,
    moved: bool,
    urgency: Option<Urgency>,
}

impl Facts {
    /// Replaces the watched addresses; returns those whose route is to be
    /// looked up.
    pub fn watch(&mut self, wanted: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> =
            self.routes.keys().filter(|a| !wanted.contains(a)).copied().collect();
        for address in gone {
            self.set_route(address, None);
            self.routes.remove(&address);
            self.carried.remove(&address);
        }
        let new: Vec<IpAddr> =
            wanted.iter().filter(|a| !self.routes.contains_key(a)).copied().collect();
        self.routes.extend(new.iter().map(|address| (*address, None)));
        new
    }

    /// The watched addresses.
    pub fn watched(&self) -> impl Iterator<Item = IpAddr> {
        self.routes.keys().copied()
    }

    /// The watched addresses inside `prefix`: the ones that a change of a route
    /// to `prefix` can concern.
    pub fn watched_in(&self, prefix: IpNet) -> impl Iterator<Item = IpAddr> {
        self.routes.range(prefix.network()..=prefix.broadcast()).map(|(address, _)| *address)
    }

    /// Says where a watched address is routed; `None`: nowhere that a frame
    /// could be sent to. Other addresses are ignored.
    pub fn set_route(&mut self, address: IpAddr, route: Option<Route>) {
        let Some(known) = self.routes.get_mut(&address) else { return };
        let old = mem::replace(known, route);
        if old == route {
            return;
        }
        let [old, hop] = [old, route].map(|route| route.map(|route| route.hop));
        if old == hop {
            return self.derive(address);
        }
        if let Some(old) = old
            && let Some(users) = self.users.get_mut(&old)
        {
            users.remove(&address);
            if users.is_empty() {
                self.users.remove(&old);
                self.settle(old);
            }
        }
        if let Some(hop) = hop {
            let users = self.users.entry(hop).or_default();
            let first = users.is_empty();
            users.insert(address);
            if first {
                self.settle(hop);
                if self.unsettled.contains(&hop) {
                    self.unasked.insert(hop);
                }
            }
        }
        self.derive(address);
    }

    /// Bytes of the longest packet that is known to go to a watched address whose next
    /// hop is resolved; 0: not known.
    #[must_use]
    pub fn mtu(&self, address: IpAddr) -> Option<u32> {
        self.next_hops.get(&address).map(|hop| hop.mtu)
    }

    /// Says what the whole way to a watched address carries; `None`: that is not known
    /// any more. Other addresses are ignored.
    pub fn set_carried(&mut self, address: IpAddr, mtu: Option<u32>) {
        match mtu.filter(|_| self.routes.contains_key(&address)) {
            Some(mtu) => self.carried.insert(address, mtu),
            None => self.carried.remove(&address),
        };
        self.derive(address);
    }

    /// Says that routes changed, no matter which.
    pub fn routes_changed(&mut self) {
        self.move_on(Urgency::Now);
    }

    /// Learns of an interface, or that it is gone; returns whether that is new.
    pub fn set_link(&mut self, ifindex: u32, link: Option<Link>) -> bool {
        let old = match link {
            Some(link) => self.links.insert(ifindex, link),
            None => self.links.remove(&ifindex),
        };
        if old == link {
            return false;
        }
        if link.is_none() {
            // Indices are used again: what was known of this one must not
            // meet its successor.
            self.addresses.retain(|(_, index)| *index != ifindex);
            let gone: Vec<Hop> =
                self.neighbours.keys().filter(|hop| hop.ifindex == ifindex).copied().collect();
            for hop in gone {
                self.set_neighbour(hop, None);
            }
        }
        self.move_on(Urgency::Now);
        let ports = [old, link].map(|link| link.and_then(|link| link.port));
        self.set_port(ifindex, ports[1]);
        let concerned = ports.into_iter().flatten().map(|port| port.bridge).chain([ifindex]);
        let hops: Vec<Hop> = concerned.flat_map(|on| self.used_on(on)).collect();
        for hop in hops {
            self.refresh(hop);
        }
        true
    }

    /// The hops in use on an interface.
    fn used_on(&self, ifindex: u32) -> Vec<Hop> {
        let lowest = Hop { ifindex, address: Ipv4Addr::UNSPECIFIED.into() };
        let hops = self.users.range(lowest..).map(|(hop, _)| *hop);
        hops.take_while(|hop| hop.ifindex == ifindex).collect()
    }

    /// Learns of all interfaces; returns whether any of that is new.
    pub fn set_links(&mut self, links: &HashMap<u32, Link>) -> bool {
        let gone: Vec<u32> =
            self.links.keys().filter(|index| !links.contains_key(index)).copied().collect();
        let mut new = false;
        for index in gone {
            new |= self.set_link(index, None);
        }
        for (index, link) in links {
            new |= self.set_link(*index, Some(*link));
        }
        new
    }

    /// Learns that interface `ifindex` has `address`, or has it no more;
    /// returns whether that is new.
    pub fn set_address(&mut self, address: IpAddr, ifindex: u32, present: bool) -> bool {
        let new = if present {
            self.addresses.insert((address, ifindex))
        } else {
            self.addresses.remove(&(address, ifindex))
        };
        if new {
            self.move_on(Urgency::Now);
        }
        new
    }

    /// Learns of all own addresses; returns whether any of that is new.
    pub fn set_addresses(&mut self, addresses: BTreeSet<(IpAddr, u32)>) -> bool {
        let new = self.addresses != addresses;
        if new {
            self.addresses = addresses;
            self.move_on(Urgency::Now);
        }
        new
    }

    /// Learns of an entry of the neighbour table, or that it is gone.
    pub fn set_neighbour(&mut self, hop: Hop, neighbour: Option<Neighbour>) {
        let old = match neighbour {
            Some(neighbour) => self.neighbours.insert(hop, neighbour),
            None => self.neighbours.remove(&hop),
        };
        if old == neighbour {
            return;
        }
        if neighbour.is_some_and(|neighbour| neighbour.ours) {
            self.ours.insert(hop);
        } else {
            self.ours.remove(&hop);
        }
        let old_mac = old.and_then(|neighbour| neighbour.mac);
        let mac = neighbour.and_then(|neighbour| neighbour.mac);
        if old_mac.is_some() && old_mac != mac {
            // To send to a neighbour that went away harms nobody for a while.
            self.move_on(if mac.is_some() { Urgency::Now } else { Urgency::Later });
        }
        if let Some(old_mac) = old_mac.filter(|_| old_mac != mac) {
            self.forget_port(Station { bridge: hop.ifindex, mac: old_mac });
        }
        self.refresh(hop);
    }

    /// Learns of the whole neighbour table.
    pub fn set_neighbours(&mut self, neighbours: &HashMap<Hop, Neighbour>) {
        let gone: Vec<Hop> =
            self.neighbours.keys().filter(|hop| !neighbours.contains_key(hop)).copied().collect();
        for hop in gone {
            self.set_neighbour(hop, None);
        }
        for (hop, neighbour) in neighbours {
            self.set_neighbour(*hop, Some(*neighbour));
        }
    }

    /// What is known of a neighbour.
    #[must_use]
    pub fn neighbour(&self, hop: Hop) -> Option<Neighbour> {
        self.neighbours.get(&hop).copied()
    }

    /// Whether watched addresses are behind `hop`.
    #[must_use]
    pub fn in_use(&self, hop: Hop) -> bool {
        self.users.contains_key(&hop)
    }

    /// Takes up to `most` hops that came into use and have to be asked for.
    pub fn take_unasked(&mut self, most: usize) -> Vec<Hop> {
        take_some(&mut self.unasked, most)
    }

    /// Whether [`Self::take_unasked`] has something to give.
    #[must_use]
    pub fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Up to `most` hops in use that have to be asked for again, the first of
    /// them the one after `cursor`, going round.
    #[must_use]
    pub fn unsettled(&self, cursor: Option<Hop>, most: usize) -> Vec<Hop> {
        let Some(cursor) = cursor else {
            return self.unsettled.iter().take(most).copied().collect();
        };
        let after = self.unsettled.iter().skip_while(|hop| **hop <= cursor);
        let before = self.unsettled.iter().take_while(|hop| **hop <= cursor);
        after.chain(before).take(most).copied().collect()
    }

    /// Whether [`Self::unsettled`] has something to give.
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Entries made by us that are not in use any more.
    #[must_use]
    pub fn unused(&self) -> Vec<Hop> {
        self.ours.iter().filter(|hop| !self.users.contains_key(hop)).copied().collect()
    }

    /// How soon [`Self::publish`] should be called; `None`: nothing changed.
    #[must_use]
    pub fn urgency(&self) -> Option<Urgency> {
        self.urgency
    }

    /// The network as known now, if it changed since the last call.
    pub fn publish(&mut self) -> Option<Network> {
        self.urgency.take()?;
        if mem::take(&mut self.moved) {
            self.epoch = self.epoch.wrapping_add(1);
        }
        let mut host_addresses: Vec<IpAddr> =
            self.addresses.iter().map(|(address, _)| *address).collect();
        host_addresses.dedup();
        let leaving = |index: &u32| Some((*index, self.leaving(*index)?));
        let vlans = self.links.keys().filter_map(leaving).collect();
        let (next_hops, epoch) = (self.next_hops.clone(), self.epoch);
        let bridges = Arc::clone(&self.bridges);
        Some(Network { next_hops, host_addresses, vlans, bridges, epoch })
    }

    fn move_on(&mut self, urgency: Urgency) {
        self.moved = true;
        self.urgency = self.urgency.max(Some(urgency));
    }

    /// Works out again what follows from a hop's link and neighbour.
    fn refresh(&mut self, hop: Hop) {
        self.settle(hop);
        for address in self.users.get(&hop).cloned().unwrap_or_default() {
            self.derive(address);
        }
    }

    /// Works out whether the kernel has to be asked for `hop`.
    fn settle(&mut self, hop: Hop) {
        let reachable =
            self.links.get(&hop.ifindex).is_some_and(|link| link.up && link.mac.is_some());
        let settled = self.neighbours.get(&hop).is_some_and(|neighbour| {
            neighbour.fixed || (neighbour.managed && neighbour.mac.is_some())
        });
        let settled = settled && !self.is_astray(hop);
        if reachable && !settled && self.users.contains_key(&hop) {
            self.unsettled.insert(hop);
        } else {
            self.unsettled.remove(&hop);
            self.unasked.remove(&hop);
        }
    }

    /// Works out the next hop towards a watched address.
    fn derive(&mut self, address: IpAddr) {
        let next_hop = self.routes.get(&address).copied().flatten().and_then(|route| {
            let Route { hop, mtu } = route;
            let link = self.links.get(&hop.ifindex).filter(|link| link.up)?;
            let carried = self.carried.get(&address).copied();
            let known = [(link.mtu != 0).then_some(link.mtu), mtu, carried];
            Some(NextHop {
                ifindex: hop.ifindex,
                vlan: vlan::KEPT,
                destination: self.neighbours.get(&hop)?.mac?,
                source: link.mac?,
                mtu: known.into_iter().flatten().min().unwrap_or_default(),
            })
        });
        let old = match next_hop {
            Some(next_hop) => self.next_hops.insert(address, next_hop),
            None => self.next_hops.remove(&address),
        };
        if old != next_hop {
            self.urgency = Some(Urgency::Now);
        }
    }
}

/// Takes up to `most` of these.
fn take_some(hops: &mut BTreeSet<Hop>, most: usize) -> Vec<Hop> {
    let some: Vec<Hop> = hops.iter().take(most).copied().collect();
    for hop in &some {
        hops.remove(hop);
    }
    some
}

#[cfg(test)]
mod tests;

//! By which interface a frame leaves that the kernel would send by another one: of VLANs
//! (IEEE 802.1Q) the one that carries them, of a bridge (IEEE 802.1D) the port that its
//! next hop is behind.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{bridge, nexthop::vlan};

use super::{Facts, Hop, Link, Network, Urgency};

/// A VLAN on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that carries it.
    pub on: u32,
    /// Its number, 1 to 4094.
    pub number: u16,
}

/// How frames leave that the kernel would send by an interface of VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The interface.
    pub ifindex: u32,
    /// See [`super::NextHop::vlan`].
    pub vlan: u16,
}

/// An Ethernet address, as a bridge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Station {
    /// The bridge.
    pub bridge: u32,
    /// The address.
    pub mac: [u8; 6],
}

/// Where a bridge gives frames for a station to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This port.
    Port(u32),
    /// The host itself.
    Host,
}

/// What is known of bridges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridges {
    /// The bridge of each port.
    pub ports: BTreeMap<u32, u32>,
    /// Whom they heard where.
    pub stations: BTreeMap<Station, Place>,
}

impl Bridges {
    /// Whether an interface is a bridge with ports.
    #[must_use]
    pub fn is_bridge(&self, ifindex: u32) -> bool {
        self.ports.values().any(|bridge| *bridge == ifindex)
    }

    /// The port of a bridge that a station is behind, if it was heard.
    #[must_use]
    pub fn port_to(&self, station: Station) -> Option<u32> {
        match self.stations.get(&station) {
            Some(Place::Port(port)) => Some(*port),
            _ => None,
        }
    }
}

impl Network {
    /// How frames leave, with these interfaces attached, that the kernel would send by the
    /// interface of a VLAN, or by one that carries some. One that is attached itself has
    /// frames without its tag.
    pub fn leaving(&self, attached: impl Fn(u32) -> bool) -> impl Iterator<Item = (u32, Leaving)> {
        let ways = self.vlans.iter().map(|(index, leaving)| (*index, *leaving));
        ways.filter(move |(index, leaving)| {
            attached(leaving.ifindex) && (*index == leaving.ifindex || !attached(*index))
        })
    }

    /// What the data plane is to know of bridges, with these interfaces attached; in the order
    /// of importance: ports, and what is for the host; then whom frames can be sent to.
    pub fn stations(&self, attached: impl Fn(u32) -> bool) -> Vec<(bridge::Station, u32)> {
        let Bridges { ports, stations } = &*self.bridges;
        let ports: Vec<_> = ports.iter().filter(|(port, _)| attached(**port)).collect();
        let hosts = |of: u32| {
            let here = stations.iter().filter(move |(station, _)| station.bridge == of);
            here.filter(|(_, place)| **place == Place::Host).map(|(station, _)| station.mac)
        };
        let own = ports.iter().flat_map(|&(&port, &bridge)| {
            hosts(bridge).map(move |mac| (bridge::Station::new(port, mac), bridge))
        });
        let heard = stations.iter().filter_map(|(station, place)| match place {
            Place::Port(port) if attached(*port) => {
                Some((bridge::Station::new(station.bridge, station.mac), *port))
            }
            _ => None,
        });
        let bridges = ports.iter().map(|&(&port, &bridge)| (bridge::Station::port(port), bridge));
        bridges.chain(own).chain(heard).collect()
    }
}

impl Facts {
    /// How a frame leaves that the kernel would send by this interface: with the tag of
    /// its VLAN by the one that carries it, or without one by an interface that carries
    /// others. `None`: VLANs have nothing to do with it.
    pub(super) fn leaving(&self, ifindex: u32) -> Option<Leaving> {
        let vlan = |index: u32| self.links.get(&index).and_then(|link| link.vlan);
        match vlan(ifindex) {
            // A VLAN in a VLAN is left to the kernel.
            Some(Vlan { on, .. }) if vlan(on).is_some() => None,
            Some(Vlan { on, number }) => Some(Leaving { ifindex: on, vlan: number }),
            None => {
                let on_it = |link: &Link| link.vlan.is_some_and(|vlan| vlan.on == ifindex);
                self.links.values().any(on_it).then_some(Leaving { ifindex, vlan: vlan::NONE })
            }
        }
    }

    /// Learns of what bridge an interface is a port.
    pub(super) fn set_port(&mut self, ifindex: u32, bridge: Option<u32>) {
        if self.bridges.ports.get(&ifindex) == bridge.as_ref() {
            return;
        }
        let ports = &mut Arc::make_mut(&mut self.bridges).ports;
        match bridge {
            Some(bridge) => ports.insert(ifindex, bridge),
            None => ports.remove(&ifindex),
        };
    }

    /// Learns where a bridge gives frames for a station to; `None`: to all its ports.
    pub fn set_station(&mut self, station: Station, place: Option<Place>) {
        let old = self.bridges.stations.get(&station).copied();
        if old == place {
            return;
        }
        let stations = &mut Arc::make_mut(&mut self.bridges).stations;
        match place {
            Some(place) => stations.insert(station, place),
            None => stations.remove(&station),
        };
        if old.is_some() && place.is_some() {
            // What is remembered of it leads to where it was.
            self.move_on(Urgency::Now);
        }
        let used = self.used_on(station.bridge);
        let behind = |hop: &Hop| {
            hop.ifindex == station.bridge
                && self.neighbours.get(hop).is_some_and(|known| known.mac == Some(station.mac))
        };
        let used: Vec<_> = used.into_iter().filter(behind).collect();
        let lost: Vec<_> = match place {
            Some(_) => Vec::new(),
            None => self.neighbours.keys().filter(|hop| behind(hop)).copied().collect(),
        };
        let now = !used.is_empty() || place == Some(Place::Host);
        self.urgency = self.urgency.max(Some(if now { Urgency::Now } else { Urgency::Later }));
        for hop in used {
            self.settle(hop);
        }
        // Who is heard again is found again: packets are not to go to all ports for long.
        let astray: Vec<_> = lost.into_iter().filter(|hop| self.is_astray(*hop)).collect();
        self.unasked.extend(astray);
    }

    /// Learns of all stations that bridges know.
    pub fn set_stations(&mut self, stations: &BTreeMap<Station, Place>) {
        let known = Arc::clone(&self.bridges);
        for station in known.stations.keys().filter(|station| !stations.contains_key(station)) {
            self.set_station(*station, None);
        }
        for (station, place) in stations {
            self.set_station(*station, Some(*place));
        }
    }

    /// Whether a bridge does not know by which port a neighbour is reached that is known
    /// otherwise. It hears him when he answers.
    #[must_use]
    pub fn is_astray(&self, hop: Hop) -> bool {
        let known = self.neighbours.get(&hop).filter(|neighbour| !neighbour.fixed);
        let Some(mac) = known.and_then(|neighbour| neighbour.mac) else { return false };
        let station = Station { bridge: hop.ifindex, mac };
        self.bridges.is_bridge(hop.ifindex) && !self.bridges.stations.contains_key(&station)
    }
}

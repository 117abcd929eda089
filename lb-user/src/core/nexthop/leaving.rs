//! By which interface a frame leaves that the kernel would send by another one: of VLANs
//! (IEEE 802.1Q) the one that carries them, of a bridge (IEEE 802.1D) the port that its
//! next hop is behind.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{bridge, nexthop::vlan};

use super::{Facts, Hop, Link, Neighbour, Network, Urgency, take_some};

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

/// A port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The bridge.
    pub bridge: u32,
    /// Frames come in and leave by it. One that does not is kept by the spanning tree
    /// protocol: another one leads to the same stations (IEEE 802.1D, section 8.4).
    pub forwards: bool,
}

/// What is known of bridges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridges {
    /// The bridges' ports, by index.
    pub ports: BTreeMap<u32, Port>,
    /// Whom they heard where.
    pub stations: BTreeMap<Station, Place>,
    /// Ports that neighbours were behind whom their bridge forgot.
    pub forgotten: BTreeMap<Station, u32>,
}

impl Bridges {
    /// Whether an interface is a bridge with ports.
    #[must_use]
    pub fn is_bridge(&self, ifindex: u32) -> bool {
        self.ports.values().any(|port| port.bridge == ifindex)
    }

    /// The port of a bridge that a station is behind, if it was ever heard.
    #[must_use]
    pub fn port_to(&self, station: Station) -> Option<u32> {
        let port = match self.stations.get(&station) {
            Some(Place::Port(port)) => *port,
            Some(Place::Host) => return None,
            None => *self.forgotten.get(&station)?,
        };
        let forwards = |port: &Port| port.forwards && port.bridge == station.bridge;
        self.ports.get(&port).is_some_and(forwards).then_some(port)
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

    /// What the data plane is to know of bridges, with these interfaces attached, in the order
    /// in which it should learn it: what is for the host, ports, whom frames can be sent to.
    /// By a port that does not forward nothing comes in that is for the host.
    pub fn stations(&self, attached: impl Fn(u32) -> bool) -> Vec<(bridge::Station, u32)> {
        let Bridges { ports, stations, forgotten } = &*self.bridges;
        let ports: Vec<_> = ports.iter().filter(|(port, _)| attached(**port)).collect();
        let hosts = |of: u32| {
            let here = stations.iter().filter(move |(station, _)| station.bridge == of);
            here.filter(|(_, place)| **place == Place::Host).map(|(station, _)| station.mac)
        };
        let forwarding = ports.iter().filter(|(_, port)| port.forwards);
        let own = forwarding.flat_map(|&(&index, &Port { bridge, .. })| {
            hosts(bridge).map(move |mac| (bridge::Station::new(index, mac), bridge))
        });
        let heard = forgotten.keys().chain(stations.keys()).filter_map(|station| {
            let port = self.bridges.port_to(*station).filter(|port| attached(*port))?;
            Some((bridge::Station::new(station.bridge, station.mac), port))
        });
        let bridges =
            ports.iter().map(|&(&index, port)| (bridge::Station::port(index), port.bridge));
        own.chain(bridges).chain(heard).collect()
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

    /// Learns of what bridge an interface is a port, if it is one of one.
    pub(super) fn set_port(&mut self, ifindex: u32, port: Option<Port>) {
        if self.bridges.ports.get(&ifindex) == port.as_ref() {
            return;
        }
        let bridges = Arc::make_mut(&mut self.bridges);
        match port {
            Some(port) => drop(bridges.ports.insert(ifindex, port)),
            None => {
                bridges.ports.remove(&ifindex);
                bridges.forgotten.retain(|_, port| *port != ifindex);
            }
        }
        self.move_on(Urgency::Now);
    }

    /// Learns whether a port of a bridge forwards.
    pub fn set_forwarding(&mut self, ifindex: u32, forwards: bool) {
        let known = self.links.get_mut(&ifindex).and_then(|link| link.port.as_mut());
        if let Some(port) = known {
            port.forwards = forwards;
            let port = *port;
            self.set_port(ifindex, Some(port));
        }
    }

    /// Learns where a bridge gives frames for a station to; `None`: to all its ports. A
    /// neighbour is taken to be where he was until he is heard elsewhere, and is asked for.
    pub fn set_station(&mut self, station: Station, place: Option<Place>) {
        let old = self.bridges.stations.get(&station).copied();
        if old == place {
            return;
        }
        let hops: Vec<_> = self.neighbours_of(station).collect();
        let bridges = Arc::make_mut(&mut self.bridges);
        let forgotten = bridges.forgotten.remove(&station);
        match (old, place) {
            (_, Some(place)) => drop(bridges.stations.insert(station, place)),
            (Some(Place::Port(port)), None) if !hops.is_empty() => {
                bridges.stations.remove(&station);
                bridges.forgotten.insert(station, port);
            }
            (_, None) => drop(bridges.stations.remove(&station)),
        }
        let before = old.or(forgotten.map(Place::Port));
        let moved = place.is_some() && before.is_some() && before != place;
        if place == Some(Place::Host) || moved && !hops.is_empty() {
            // What is remembered of it leads to where it was.
            self.move_on(Urgency::Now);
        }
        let waited = place.is_some() && before.is_none();
        let now = waited && hops.iter().any(|hop| self.in_use(*hop));
        self.urgency = self.urgency.max(Some(if now { Urgency::Now } else { Urgency::Later }));
        for hop in hops {
            self.settle(hop);
            if self.is_astray(hop) {
                self.lost.insert(hop);
            }
        }
    }

    /// The neighbours that a station is: of either family, and more addresses of one.
    fn neighbours_of(&self, station: Station) -> impl Iterator<Item = Hop> {
        let is_he = move |(hop, known): &(&Hop, &Neighbour)| {
            hop.ifindex == station.bridge && known.mac == Some(station.mac)
        };
        self.neighbours.iter().filter(is_he).map(|(hop, _)| *hop)
    }

    /// Forgets where a station was that is nobody's whom the kernel knows.
    pub(super) fn forget_port(&mut self, station: Station) {
        let forgotten = self.bridges.forgotten.contains_key(&station);
        if forgotten && self.neighbours_of(station).next().is_none() {
            Arc::make_mut(&mut self.bridges).forgotten.remove(&station);
            self.urgency = self.urgency.max(Some(Urgency::Later));
        }
    }

    /// Takes up to `most` hops that a bridge lost sight of.
    pub fn take_lost(&mut self, most: usize) -> Vec<Hop> {
        take_some(&mut self.lost, most)
    }

    /// Whether [`Self::take_lost`] has something to give.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
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

//! The kernel's messages as facts.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::{
    packet_core::Nla as _,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{
            BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
            InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
            LinkProtoInfoBridge, VlanProtocol,
        },
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol,
            RouteType, RouteVia,
        },
    },
};

use crate::core::nexthop::{Hop, Link, Neighbour, Place, Port, Route, Station, Vlan};

/// Marks neighbour entries and addresses as made by us (`NDA_PROTOCOL`,
/// `IFA_PROTO`): not assigned to any routing daemon in `rtnetlink.h`.
pub(in crate::sys) const OUR_PROTOCOL: u8 = 76;

/// `IFLA_BRPORT_STATE` of `linux/if_link.h`, which the packet crate does not know there.
const BRIDGE_PORT_STATE: u16 = 1;

/// What a message from the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sys) enum Event {
    /// An interface is like this now; `None`: it is gone.
    Link(u32, Option<Link>),
    /// An interface has an address, or has it no more.
    Address(IpAddr, u32, bool),
    /// A neighbour is like this now; `None`: it is gone.
    Neighbour(Hop, Option<Neighbour>),
    /// A port of a bridge forwards, or does no more.
    Port(u32, bool),
    /// A bridge gives frames for a station there now; `None`: to all its ports.
    Station(Station, Option<Place>),
    /// A route to this prefix came, changed or went.
    Route(IpNet),
    /// Something that any route may depend on changed.
    Routes,
}

/// Reads a message; `None`: it says nothing of interest.
pub(super) fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => {
            if let Some(port) = port(message) {
                return Some(port);
            }
            link(message).map(|(index, link)| Event::Link(index, Some(link)))
        }
        RouteNetlinkMessage::DelLink(message) => {
            link(message).map(|(index, _)| Event::Link(index, None))
        }
        RouteNetlinkMessage::NewAddress(message) => {
            address(message).map(|(address, index)| Event::Address(address, index, true))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            address(message).map(|(address, index)| Event::Address(address, index, false))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            if let Some((station, place)) = station(message) {
                return Some(Event::Station(station, Some(place)));
            }
            neighbour(message).map(|(hop, neighbour)| Event::Neighbour(hop, Some(neighbour)))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            if let Some((station, _)) = station(message) {
                return Some(Event::Station(station, None));
            }
            neighbour(message).map(|(hop, _)| Event::Neighbour(hop, None))
        }
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            prefix(message).map(Event::Route)
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::Routes),
        _ => None,
    }
}

/// An interface and its index.
pub(super) fn link(message: &LinkMessage) -> Option<(u32, Link)> {
    let header = &message.header;
    // A bridge's messages about its ports come as AF_BRIDGE: there a deletion
    // means that the port left the bridge.
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let up = header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let mtu = mtu.unwrap_or_default();
    let bridge = master(message).filter(|(_, kind)| *kind == InfoPortKind::Bridge);
    let port = bridge.map(|(bridge, _)| Port { bridge, forwards: forwards(message) });
    Some((header.index, Link { mac: mac(message), up, mtu, vlan: vlan(message), port }))
}

/// Whether a port of a bridge is in a state to forward; if it does not say, it is.
fn forwards(message: &LinkMessage) -> bool {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let of_port = infos.flatten().filter_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
        _ => None,
    });
    of_port.flatten().all(|info| match info {
        InfoBridgePort::State(state) => *state == BridgePortState::Forwarding,
        _ => true,
    })
}

/// What a bridge tells of a port: whether it forwards. `None`: it tells something else.
fn port(message: &LinkMessage) -> Option<Event> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Bridge {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::ProtoInfoBridge(infos) => infos.iter().find_map(|info| match info {
            LinkProtoInfoBridge::Other(info) if info.kind() == BRIDGE_PORT_STATE => {
                let mut value = [0];
                (info.value_len() == 1).then(|| info.emit_value(&mut value))?;
                let forwards = BridgePortState::from(value[0]) == BridgePortState::Forwarding;
                Some(Event::Port(header.index, forwards))
            }
            _ => None,
        }),
        _ => None,
    })
}

/// The interface that an interface is a part of, and what kind of part it is.
pub(in crate::sys) fn master(message: &LinkMessage) -> Option<(u32, InfoPortKind)> {
    let (mut master, mut kind) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::PortKind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((master?, kind?))
}

/// The VLAN that an interface is. One of a provider (IEEE 802.1ad) is left to the kernel.
fn vlan(message: &LinkMessage) -> Option<Vlan> {
    let (mut on, mut is_vlan, mut number, mut customer) = (None, false, None, true);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => on = Some(*index),
            // The index is one of another namespace.
            LinkAttribute::LinkNetNsId(_) => return None,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => is_vlan = *kind == InfoKind::Vlan,
                        LinkInfo::Data(InfoData::Vlan(data)) => {
                            for info in data {
                                match info {
                                    InfoVlan::Id(id) => number = Some(*id),
                                    InfoVlan::Protocol(kind) => {
                                        customer = *kind == VlanProtocol::Ieee8021Q;
                                    }
                                    _ => {}
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (is_vlan && customer).then_some(Vlan { on: on?, number: number? })
}

/// The Ethernet address of an interface, if it carries Ethernet.
pub(in crate::sys) fn mac(message: &LinkMessage) -> Option<[u8; 6]> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// An own address and the index of its interface.
pub(in crate::sys) fn address(message: &AddressMessage) -> Option<(IpAddr, u32)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the other end.
            AddressAttribute::Local(address) => {
                found = Some(*address);
                break;
            }
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    Some((found?, message.header.index))
}

/// An entry of the neighbour table.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(Hop, Neighbour)> {
    let header = &message.header;
    // Bridges report what they learnt, and proxies whom they answer for, by
    // the same message.
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    let mut managed = false;
    let mut protocol = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::from(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::from(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            NeighbourAttribute::Protocol(number) => protocol = Some(*number),
            _ => {}
        }
    }
    let usable = matches!(
        header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let fixed = matches!(header.state, NeighbourState::Permanent | NeighbourState::Noarp)
        || header.flags.contains(NeighbourFlags::ExtLearned);
    let ours = managed && protocol == Some(RouteProtocol::Other(OUR_PROTOCOL));
    let mac = mac.filter(|mac| usable && *mac != [0; 6]);
    let hop = Hop { ifindex: header.ifindex, address: address? };
    Some((hop, Neighbour { mac, fixed, managed, ours }))
}

/// Where a bridge gives frames for a station to. What it knows of a VLAN of its own is left to
/// the kernel.
pub(super) fn station(message: &NeighbourMessage) -> Option<(Station, Place)> {
    let header = &message.header;
    if header.family != AddressFamily::Bridge || header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let (mut bridge, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Controller(index) => bridge = Some(*index),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Vlan(_) => return None,
            _ => {}
        }
    }
    // `fdb_to_nud` of net/bridge/br_fdb.c.
    let local = header.state == NeighbourState::Permanent;
    let place = if local { Place::Host } else { Place::Port(header.ifindex) };
    Some((Station { bridge: bridge?, mac: mac? }, place))
}

/// The prefix that a change of a route concerns.
fn prefix(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    // Not a route but what was made of one for a single destination.
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let all_zero = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    IpNet::new(destination.unwrap_or(all_zero), header.destination_prefix_length).ok()
}

/// Where the answer to a lookup of `destination` says a frame goes.
pub(super) fn route(message: &RouteMessage, destination: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut ifindex = None;
    let mut address = destination;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => address = ip(gateway)?,
            RouteAttribute::Via(RouteVia::Inet(gateway)) => address = IpAddr::from(*gateway),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = IpAddr::from(*gateway),
            // The frame would have to be wrapped: the kernel can, we do not.
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    Some(Route { hop: Hop { ifindex: ifindex?, address }, mtu })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::from(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

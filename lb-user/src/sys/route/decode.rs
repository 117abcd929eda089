//! The kernel's messages as facts.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage, VlanProtocol,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol,
        RouteType, RouteVia,
    },
};

use crate::core::nexthop::{Hop, Link, Neighbour, Place, Route, Station, Vlan};

/// Marks neighbour entries and addresses as made by us (`NDA_PROTOCOL`,
/// `IFA_PROTO`): not assigned to any routing daemon in `rtnetlink.h`.
pub(in crate::sys) const OUR_PROTOCOL: u8 = 76;

/// What a message from the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sys) enum Event {
    /// An interface is like this now; `None`: it is gone.
    Link(u32, Option<Link>),
    /// An interface has an address, or has it no more.
    Address(IpAddr, u32, bool),
    /// A neighbour is like this now; `None`: it is gone.
    Neighbour(Hop, Option<Neighbour>),
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
    let bridge = bridge.map(|(bridge, _)| bridge);
    Some((header.index, Link { mac: mac(message), up, mtu, vlan: vlan(message), bridge }))
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
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_vlan_says_what_carries_it() {
        let link_of = |infos: Vec<LinkInfo>| {
            let mut message = LinkMessage::default();
            message.header.index = 9;
            message.attributes = vec![LinkAttribute::Link(3), LinkAttribute::LinkInfo(infos)];
            link(&message).unwrap().1.vlan
        };
        let vlan = |protocol| {
            let data = vec![InfoVlan::Id(20), InfoVlan::Protocol(protocol)];
            vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(data))]
        };
        assert_eq!(link_of(vlan(VlanProtocol::Ieee8021Q)), Some(Vlan { on: 3, number: 20 }));
        assert_eq!(link_of(vlan(VlanProtocol::Ieee8021Ad)), None);
        // The other end of a pair has an index, too.
        assert_eq!(link_of(vec![LinkInfo::Kind(InfoKind::Veth)]), None);
        assert_eq!(link_of(Vec::new()), None);
    }

    fn neighbour_message(state: NeighbourState) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 7;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
        ];
        message
    }

    fn route_message(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    #[test]
    fn states_with_a_valid_address_are_usable() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, None, Permanent, Probe, Reachable, Stale,
        };
        for state in [Reachable, Stale, Delay, Probe, Permanent, Noarp] {
            let (hop, neighbour) = neighbour(&neighbour_message(state)).unwrap();
            assert_eq!(hop, Hop { ifindex: 7, address: [10, 0, 0, 1].into() });
            assert_eq!(neighbour.mac, Some(MAC), "{state}");
            assert_eq!(neighbour.fixed, matches!(state, Permanent | Noarp), "{state}");
        }
        for state in [Incomplete, Failed, None] {
            assert_eq!(
                neighbour(&neighbour_message(state)).unwrap().1.mac,
                Option::None,
                "{state}"
            );
        }
    }

    #[test]
    fn only_managed_entries_with_our_mark_are_ours() {
        let mut message = neighbour_message(NeighbourState::Stale);
        let mark = NeighbourAttribute::Protocol(RouteProtocol::Other(OUR_PROTOCOL));
        message.attributes.push(mark);
        assert!(!neighbour(&message).unwrap().1.ours);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        assert!(neighbour(&message).unwrap().1.ours);
        message.attributes.retain(|a| !matches!(a, NeighbourAttribute::Protocol(_)));
        assert!(neighbour(&message).unwrap().1.managed);
        assert!(!neighbour(&message).unwrap().1.ours);
    }

    #[test]
    fn entries_of_bridges_and_proxies_are_no_neighbours() {
        let mut bridge = neighbour_message(NeighbourState::Reachable);
        bridge.header.family = AddressFamily::Bridge;
        assert_eq!(neighbour(&bridge), None);
        let mut proxy = neighbour_message(NeighbourState::Reachable);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbour(&proxy), None);
    }

    #[test]
    fn a_bridge_says_whom_it_heard_where() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = 7;
        message.header.state = NeighbourState::Reachable;
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(MAC.to_vec())];
        // What a card hears for (`NTF_SELF`) says no bridge.
        assert_eq!(station(&message), None);
        message.attributes.push(NeighbourAttribute::Controller(5));
        let at = Station { bridge: 5, mac: MAC };
        assert_eq!(station(&message), Some((at, Place::Port(7))));
        let event_of = |message| event(&RouteNetlinkMessage::DelNeighbour(message));
        assert_eq!(event_of(message.clone()), Some(Event::Station(at, None)));
        message.header.state = NeighbourState::Permanent;
        assert_eq!(station(&message), Some((at, Place::Host)));
        message.attributes.push(NeighbourAttribute::Vlan(1));
        assert_eq!(station(&message), None);
    }

    #[test]
    fn a_port_says_of_which_bridge() {
        let bridge_of = |kind| {
            let mut message = LinkMessage::default();
            let infos = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::PortKind(kind)];
            message.attributes = vec![LinkAttribute::Controller(5), LinkAttribute::LinkInfo(infos)];
            link(&message).unwrap().1.bridge
        };
        assert_eq!(bridge_of(InfoPortKind::Bridge), Some(5));
        assert_eq!(bridge_of(InfoPortKind::Bond), None);
    }

    #[test]
    fn port_that_leaves_a_bridge_is_no_deleted_interface() {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = 7;
        assert_eq!(event(&RouteNetlinkMessage::DelLink(message.clone())), None);
        message.header.interface_family = AddressFamily::Unspec;
        let gone = Some(Event::Link(7, None));
        assert_eq!(event(&RouteNetlinkMessage::DelLink(message)), gone);
    }

    #[test]
    fn gateway_of_either_family_is_the_hop() {
        let to = IpAddr::from([192, 0, 2, 1]);
        let hop_of = |attribute| {
            let message =
                route_message(RouteType::Unicast, vec![RouteAttribute::Oif(3), attribute]);
            route(&message, to).map(|route| route.hop)
        };
        let gateway = IpAddr::from([10, 0, 0, 254]);
        let v4 = RouteAttribute::Gateway(RouteAddress::from(gateway));
        assert_eq!(hop_of(v4), Some(Hop { ifindex: 3, address: gateway }));
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let via = RouteAttribute::Via(RouteVia::from(gateway));
        assert_eq!(hop_of(via), Some(Hop { ifindex: 3, address: gateway }));
        let wrapped = RouteAttribute::Encap(Vec::new());
        assert_eq!(hop_of(wrapped), None);
        assert_eq!(hop_of(RouteAttribute::Priority(1)), Some(Hop { ifindex: 3, address: to }));
    }

    #[test]
    fn what_a_route_carries_is_among_its_metrics() {
        let mtu_of = |attributes| {
            let message = route_message(RouteType::Unicast, attributes);
            route(&message, [192, 0, 2, 1].into()).map(|route| route.mtu)
        };
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]);
        assert_eq!(mtu_of(vec![RouteAttribute::Oif(3), metrics]), Some(Some(1400)));
        assert_eq!(mtu_of(vec![RouteAttribute::Oif(3)]), Some(None));
    }

    #[test]
    fn routes_that_lead_nowhere_have_no_hop() {
        for kind in
            [RouteType::Local, RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit]
        {
            let message = route_message(kind, vec![RouteAttribute::Oif(1)]);
            assert_eq!(route(&message, [192, 0, 2, 1].into()), None, "{kind:?}");
        }
    }

    #[test]
    fn route_without_destination_concerns_everything_of_its_family() {
        let message = route_message(RouteType::Unicast, Vec::new());
        assert_eq!(prefix(&message), Some("0.0.0.0/0".parse().unwrap()));
        let mut cached = message;
        cached.header.flags = RouteFlags::Cloned;
        assert_eq!(prefix(&cached), None);
    }

    #[test]
    fn own_address_on_a_point_to_point_link_is_the_local_one() {
        let mut message = AddressMessage::default();
        message.header.index = 4;
        let [local, peer] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        message.attributes = vec![AddressAttribute::Address(peer)];
        assert_eq!(address(&message), Some((peer, 4)));
        message.attributes.push(AddressAttribute::Local(local));
        assert_eq!(address(&message), Some((local, 4)));
    }
}

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
        assert_eq!(neighbour(&neighbour_message(state)).unwrap().1.mac, Option::None, "{state}");
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
        link(&message).unwrap().1.port
    };
    assert_eq!(bridge_of(InfoPortKind::Bridge), Some(Port { bridge: 5, forwards: true }));
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
        let message = route_message(RouteType::Unicast, vec![RouteAttribute::Oif(3), attribute]);
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

use super::*;

const LAN: u32 = 2;
const WAN: u32 = 3;
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An Ethernet interface that is no part of another.
const LINK: Link = Link { mac: Some(LAN_MAC), up: true, mtu: 1500, vlan: None, port: None };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(ifindex: u32, address: &str) -> Hop {
    Hop { ifindex, address: ip(address) }
}

fn route(ifindex: u32, address: &str) -> Route {
    Route { hop: hop(ifindex, address), mtu: None }
}

fn wanted(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| ip(address)).collect()
}

fn managed(mac: [u8; 6]) -> Neighbour {
    Neighbour { mac: Some(mac), managed: true, ours: true, fixed: false }
}

/// Two Ethernet interfaces; 10.0.0.1 watched and on link, nothing left to publish.
fn lan() -> Facts {
    let mut facts = Facts::default();
    facts.set_link(LAN, Some(LINK));
    facts.set_link(WAN, Some(Link { mac: Some(WAN_MAC), ..LINK }));
    assert_eq!(facts.watch(&wanted(&["10.0.0.1"])), [ip("10.0.0.1")]);
    facts.set_route(ip("10.0.0.1"), Some(route(LAN, "10.0.0.1")));
    facts.publish();
    facts
}

fn resolved() -> (Facts, Network) {
    let mut facts = lan();
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(managed(MAC)));
    let network = facts.publish().unwrap();
    (facts, network)
}

#[test]
fn next_hop_is_neighbour_on_its_interface() {
    let (_, network) = resolved();
    let next_hop = NextHop { ifindex: LAN, destination: MAC, source: LAN_MAC, mtu: 1500, vlan: 0 };
    assert_eq!(network.next_hops, BTreeMap::from([(ip("10.0.0.1"), next_hop)]));
}

#[test]
fn addresses_behind_one_gateway_share_its_neighbour() {
    let mut facts = lan();
    facts.watch(&wanted(&["192.0.2.1", "192.0.2.2"]));
    for address in ["192.0.2.1", "192.0.2.2"] {
        facts.set_route(ip(address), Some(route(WAN, "fe80::1")));
    }
    assert_eq!(facts.take_unasked(10), [hop(WAN, "fe80::1")]);
    facts.set_neighbour(hop(WAN, "fe80::1"), Some(managed(MAC)));
    let network = facts.publish().unwrap();
    assert_eq!(network.next_hops.len(), 2);
    assert!(network.next_hops.values().all(|next| next.ifindex == WAN && next.source == WAN_MAC));
}

#[test]
fn the_way_carries_what_its_link_and_its_route_carry() {
    let (mut facts, _) = resolved();
    let mut mtu_with = |link, route| {
        facts.set_link(LAN, Some(Link { mtu: link, ..LINK }));
        facts.set_route(ip("10.0.0.1"), Some(Route { hop: hop(LAN, "10.0.0.1"), mtu: route }));
        facts.publish().map(|network| network.next_hops[&ip("10.0.0.1")].mtu)
    };
    assert_eq!(mtu_with(9000, None), Some(9000));
    assert_eq!(mtu_with(9000, Some(1400)), Some(1400));
    assert_eq!(mtu_with(9000, Some(1400)), None);
    assert_eq!(mtu_with(1280, Some(1400)), Some(1280));
}

#[test]
fn first_sight_of_a_neighbour_keeps_the_epoch() {
    let mut facts = lan();
    facts.routes_changed();
    let before = facts.publish().unwrap();
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(managed(MAC)));
    assert_eq!(facts.publish().unwrap().epoch, before.epoch);
}

#[test]
fn same_address_in_another_state_changes_nothing() {
    let (mut facts, _) = resolved();
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(managed(MAC)));
    assert_eq!(facts.publish(), None);
    let unmanaged = Neighbour { managed: false, ..managed(MAC) };
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(unmanaged));
    assert_eq!(facts.publish(), None);
}

#[test]
fn another_ethernet_address_is_a_new_epoch_at_once() {
    let (mut facts, before) = resolved();
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(managed(OTHER_MAC)));
    assert_eq!(facts.urgency(), Some(Urgency::Now));
    let after = facts.publish().unwrap();
    assert_eq!(after.next_hops[&ip("10.0.0.1")].destination, OTHER_MAC);
    assert_eq!(after.epoch, before.epoch + 1);
}

#[test]
fn failed_neighbour_takes_the_next_hop_away() {
    let (mut facts, before) = resolved();
    let failed = Neighbour { mac: None, ..managed(MAC) };
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(failed));
    let after = facts.publish().unwrap();
    assert!(after.next_hops.is_empty());
    assert_eq!(after.epoch, before.epoch + 1);
    assert_eq!(facts.unsettled(None, 10), [hop(LAN, "10.0.0.1")]);
}

#[test]
fn client_that_goes_away_may_wait() {
    let (mut facts, before) = resolved();
    facts.set_neighbour(hop(LAN, "10.0.0.77"), Some(managed(OTHER_MAC)));
    assert_eq!(facts.urgency(), None);
    facts.set_neighbour(hop(LAN, "10.0.0.77"), None);
    assert_eq!(facts.urgency(), Some(Urgency::Later));
    assert_eq!(facts.publish().unwrap().epoch, before.epoch + 1);
}

#[test]
fn client_that_changes_its_ethernet_address_is_a_new_epoch_at_once() {
    let (mut facts, before) = resolved();
    facts.set_neighbour(hop(LAN, "10.0.0.77"), Some(managed(MAC)));
    facts.set_neighbour(hop(LAN, "10.0.0.77"), Some(managed(OTHER_MAC)));
    assert_eq!(facts.urgency(), Some(Urgency::Now));
    assert_eq!(facts.publish().unwrap().epoch, before.epoch + 1);
}

#[test]
fn down_or_without_ethernet_is_unresolved() {
    for link in [Some(Link { up: false, ..LINK }), Some(Link { mac: None, ..LINK }), None] {
        let (mut facts, before) = resolved();
        assert!(facts.set_link(LAN, link));
        let after = facts.publish().unwrap();
        assert!(after.next_hops.is_empty(), "{link:?}");
        assert_eq!(after.epoch, before.epoch + 1, "{link:?}");
        assert!(!facts.has_unsettled(), "{link:?}: nobody to ask");
    }
}

#[test]
fn link_that_comes_up_is_asked_again() {
    let (mut facts, _) = resolved();
    facts.set_link(LAN, Some(Link { up: false, ..LINK }));
    facts.set_neighbour(hop(LAN, "10.0.0.1"), None);
    facts.set_link(LAN, Some(LINK));
    assert_eq!(facts.unsettled(None, 10), [hop(LAN, "10.0.0.1")]);
}

#[test]
fn new_source_address_of_the_interface_reaches_the_next_hop() {
    let (mut facts, _) = resolved();
    facts.set_link(LAN, Some(Link { mac: Some(OTHER_MAC), ..LINK }));
    assert_eq!(facts.publish().unwrap().next_hops[&ip("10.0.0.1")].source, OTHER_MAC);
}

#[test]
fn deleted_interface_takes_all_it_had_along() {
    let (mut facts, _) = resolved();
    facts.set_address(ip("10.0.0.9"), LAN, true);
    facts.set_link(LAN, None);
    assert_eq!(facts.neighbour(hop(LAN, "10.0.0.1")), None);
    assert!(facts.publish().unwrap().host_addresses.is_empty());
}

#[test]
fn route_moved_to_another_interface_asks_there_and_releases_here() {
    let (mut facts, _) = resolved();
    facts.set_route(ip("10.0.0.1"), Some(route(WAN, "10.0.0.1")));
    assert!(facts.publish().unwrap().next_hops.is_empty());
    assert_eq!(facts.take_unasked(10), [hop(WAN, "10.0.0.1")]);
    assert_eq!(facts.unused(), [hop(LAN, "10.0.0.1")]);
}

#[test]
fn unwatched_address_is_forgotten_and_its_entry_unused() {
    let (mut facts, before) = resolved();
    assert!(facts.watch(&BTreeSet::new()).is_empty());
    let after = facts.publish().unwrap();
    assert!(after.next_hops.is_empty());
    assert_eq!(after.epoch, before.epoch, "nothing moved");
    assert_eq!(facts.unused(), [hop(LAN, "10.0.0.1")]);
    assert!(!facts.has_unsettled());
}

#[test]
fn entries_of_others_are_never_asked_for_nor_released() {
    let mut facts = lan();
    let fixed = Neighbour { mac: Some(MAC), fixed: true, ..Neighbour::default() };
    facts.set_neighbour(hop(LAN, "10.0.0.1"), Some(fixed));
    assert!(!facts.has_unasked() && !facts.has_unsettled());
    facts.watch(&BTreeSet::new());
    assert!(facts.unused().is_empty());
}

#[test]
fn only_watched_addresses_inside_a_prefix_are_affected() {
    let mut facts = Facts::default();
    facts.watch(&wanted(&["10.0.0.1", "10.0.1.0", "10.0.1.255", "10.0.2.0", "2001:db8::1"]));
    let inside = |prefix: &str| facts.watched_in(prefix.parse().unwrap()).collect::<Vec<_>>();
    assert_eq!(inside("10.0.1.0/24"), [ip("10.0.1.0"), ip("10.0.1.255")]);
    assert_eq!(inside("0.0.0.0/0").len(), 4);
    assert_eq!(inside("::/0"), [ip("2001:db8::1")]);
}

#[test]
fn asking_again_goes_round() {
    let mut facts = lan();
    facts.watch(&wanted(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    for address in ["10.0.0.2", "10.0.0.3"] {
        facts.set_route(ip(address), Some(route(LAN, address)));
    }
    let first = facts.unsettled(None, 2);
    assert_eq!(first, [hop(LAN, "10.0.0.1"), hop(LAN, "10.0.0.2")]);
    let second = facts.unsettled(first.last().copied(), 2);
    assert_eq!(second, [hop(LAN, "10.0.0.3"), hop(LAN, "10.0.0.1")]);
}

#[test]
fn host_addresses_are_sorted_and_each_once() {
    let mut facts = lan();
    for (address, ifindex) in [("fe80::1", LAN), ("10.0.0.9", LAN), ("fe80::1", WAN)] {
        assert!(facts.set_address(ip(address), ifindex, true));
    }
    assert_eq!(facts.publish().unwrap().host_addresses, [ip("10.0.0.9"), ip("fe80::1")]);
    assert!(facts.set_address(ip("fe80::1"), WAN, false));
    assert_eq!(facts.publish().unwrap().host_addresses, [ip("10.0.0.9"), ip("fe80::1")]);
    assert!(!facts.set_address(ip("fe80::1"), WAN, false));
    assert_eq!(facts.publish(), None);
}

#[test]
fn whole_tables_learn_the_same_as_single_events() {
    let (mut facts, _) = resolved();
    let neighbours = HashMap::from([(hop(LAN, "10.0.0.2"), managed(MAC))]);
    facts.set_neighbours(&neighbours);
    assert!(facts.publish().unwrap().next_hops.is_empty());
    assert!(facts.set_links(&HashMap::new()));
    assert_eq!(facts.neighbour(hop(LAN, "10.0.0.2")), None);
    assert!(!facts.set_links(&HashMap::new()));
}

#[test]
fn what_a_router_says_of_the_way_counts_until_it_is_forgotten() {
    let address = ip("10.0.0.1");
    let (mut facts, _) = resolved();
    for (carried, mtu) in [(Some(1400), 1400), (Some(1300), 1300), (Some(9000), 1500), (None, 1500)]
    {
        facts.set_carried(address, carried);
        assert_eq!(facts.mtu(address), Some(mtu));
    }
    facts.set_carried(address, Some(1400));
    // It is forgotten with the address, and strangers are none of ours.
    facts.watch(&wanted(&[]));
    facts.set_carried(address, Some(1400));
    facts.watch(&wanted(&["10.0.0.1"]));
    facts.set_route(address, Some(route(LAN, "10.0.0.1")));
    assert_eq!(facts.mtu(address), Some(1500));
}

/// 10.0.0.1 is on VLAN 20 of the LAN, whose own interface has 10.9.0.1.
#[test]
fn a_vlan_s_next_hop_leaves_by_what_carries_it() {
    const VLAN: u32 = 90;
    let (mut facts, _) = resolved();
    facts.watch(&wanted(&["10.0.0.1", "10.9.0.1", "10.9.0.2"]));
    let vlan = |on, number| Link {
        mac: Some([9; 6]),
        up: true,
        mtu: 1400,
        vlan: Some(Vlan { on, number }),
        port: None,
    };
    facts.set_link(VLAN, Some(vlan(LAN, 20)));
    for (address, on) in [("10.0.0.1", VLAN), ("10.9.0.1", LAN), ("10.9.0.2", WAN)] {
        facts.set_route(ip(address), Some(route(on, address)));
        facts.set_neighbour(hop(on, address), Some(managed(MAC)));
    }
    let network = facts.publish().unwrap();
    let hop = network.next_hops[&ip("10.0.0.1")];
    assert_eq!((hop.ifindex, hop.vlan, hop.source, hop.mtu), (VLAN, vlan::KEPT, [9; 6], 1400));
    let leaving = |ifindex, vlan| Leaving { ifindex, vlan };
    let [carrier, tagged] = [leaving(LAN, vlan::NONE), leaving(LAN, 20)];
    let ways = |network: &Network, attached: &[u32]| {
        network.leaving(|index| attached.contains(&index)).collect::<Vec<_>>()
    };
    assert_eq!(ways(&network, &[LAN, WAN]), [(LAN, carrier), (VLAN, tagged)]);
    // One that is attached itself needs no tag; nor does who is on what is not.
    assert_eq!(ways(&network, &[VLAN, WAN]), []);
    assert_eq!(ways(&network, &[LAN, VLAN]), [(LAN, carrier)]);
    // Another number, and gone.
    facts.set_link(VLAN, Some(vlan(LAN, 21)));
    assert_eq!(ways(&facts.publish().unwrap(), &[LAN])[1], (VLAN, leaving(LAN, 21)));
    facts.set_link(VLAN, None);
    let network = facts.publish().unwrap();
    assert!(network.vlans.is_empty() && !network.next_hops.contains_key(&ip("10.0.0.1")));
    // A VLAN in a VLAN is the kernel's.
    facts.set_link(VLAN, Some(vlan(VLAN + 1, 5)));
    facts.set_link(VLAN + 1, Some(vlan(LAN, 6)));
    assert!(!facts.publish().unwrap().vlans.contains_key(&VLAN));
}

const BRIDGE: u32 = 40;
const PORT: u32 = 41;
const OTHER_PORT: u32 = 42;
const STATION: Station = Station { bridge: BRIDGE, mac: MAC };

/// 10.0.0.1 is behind a port of a bridge that did not hear it yet; nothing left to publish.
fn bridged() -> Facts {
    let mut facts = lan();
    let link = LINK;
    facts.set_link(BRIDGE, Some(link));
    for port in [PORT, OTHER_PORT] {
        let forwards = Some(Port { bridge: BRIDGE, forwards: true });
        facts.set_link(port, Some(Link { port: forwards, ..link }));
    }
    facts.set_station(Station { bridge: BRIDGE, mac: LAN_MAC }, Some(Place::Host));
    facts.set_route(ip("10.0.0.1"), Some(route(BRIDGE, "10.0.0.1")));
    facts.take_unasked(10);
    facts.set_neighbour(hop(BRIDGE, "10.0.0.1"), Some(managed(MAC)));
    facts.publish();
    facts
}

#[test]
fn who_a_bridge_did_not_hear_is_asked_until_he_answers() {
    let mut facts = bridged();
    let hop = hop(BRIDGE, "10.0.0.1");
    assert!(facts.is_astray(hop));
    assert_eq!(facts.unsettled(None, 10), [hop]);
    facts.set_station(STATION, Some(Place::Port(PORT)));
    assert!(!facts.has_unsettled() && !facts.has_unasked());
    assert_eq!(facts.urgency(), Some(Urgency::Now));
    let heard = facts.publish().unwrap();
    assert_eq!(heard.bridges.port_to(STATION), Some(PORT));
    // One that moves is found at once by those who remember the old way.
    facts.set_station(STATION, Some(Place::Port(OTHER_PORT)));
    let moved = facts.publish().unwrap();
    assert_eq!(moved.epoch, heard.epoch + 1);
    // One that is forgotten is asked, and taken to be there meanwhile.
    facts.set_station(STATION, None);
    assert_eq!(facts.take_lost(10), [hop]);
    assert_eq!(facts.unsettled(None, 10), [hop]);
    assert_eq!(facts.publish().unwrap().bridges.port_to(STATION), Some(OTHER_PORT));
    facts.set_station(STATION, Some(Place::Port(OTHER_PORT)));
    let heard = facts.publish().unwrap();
    assert_eq!((heard.epoch, heard.bridges.forgotten.len()), (moved.epoch, 0));
    assert!(!facts.has_unsettled());
    // Not if he is nobody any more, nor by what is no port any more.
    facts.set_station(STATION, None);
    facts.set_neighbour(hop, Some(managed(OTHER_MAC)));
    assert_eq!(facts.publish().unwrap().bridges.port_to(STATION), None);
    facts.set_neighbour(hop, Some(managed(MAC)));
    facts.set_station(STATION, Some(Place::Port(PORT)));
    facts.set_station(STATION, None);
    assert_eq!(facts.publish().unwrap().bridges.port_to(STATION), Some(PORT));
    facts.set_link(PORT, None);
    assert_eq!(facts.publish().unwrap().bridges.port_to(STATION), None);
}

#[test]
fn so_is_a_router_to_clients_once() {
    let mut facts = bridged();
    let router = hop(BRIDGE, "10.0.0.254");
    let station = Station { mac: OTHER_MAC, ..STATION };
    let neighbour = Neighbour { managed: false, ours: false, ..managed(OTHER_MAC) };
    facts.set_neighbour(router, Some(neighbour));
    facts.set_station(station, Some(Place::Port(PORT)));
    assert_eq!(facts.urgency(), Some(Urgency::Later));
    facts.publish();
    facts.set_station(station, None);
    assert_eq!(facts.urgency(), Some(Urgency::Later));
    assert_eq!(facts.take_lost(10), [router]);
    assert!(!facts.unsettled(None, 10).contains(&router));
    // An entry that an operator made is never asked for.
    facts.set_neighbour(router, Some(Neighbour { fixed: true, ..neighbour }));
    facts.set_station(station, Some(Place::Port(PORT)));
    facts.set_station(station, None);
    assert!(!facts.has_lost());
    // Who is nobody's neighbour moves unnoticed.
    let before = facts.publish().unwrap().epoch;
    let nobody = Station { mac: [6; 6], ..STATION };
    for port in [PORT, OTHER_PORT] {
        facts.set_station(nobody, Some(Place::Port(port)));
    }
    assert_eq!(facts.urgency(), Some(Urgency::Later));
    assert_eq!(facts.publish().unwrap().epoch, before);
}

#[test]
fn a_port_that_does_not_forward_leads_nowhere() {
    use lb_common::bridge::Station as Key;

    let mut facts = bridged();
    facts.set_station(STATION, Some(Place::Port(PORT)));
    facts.set_forwarding(PORT, false);
    let network = facts.publish().unwrap();
    assert_eq!(network.bridges.port_to(STATION), None);
    // Nothing that comes in by it is for the host.
    assert_eq!(network.stations(|index| index == PORT), [(Key::port(PORT), BRIDGE)]);
    facts.set_forwarding(PORT, true);
    assert_eq!(facts.publish().unwrap().bridges.port_to(STATION), Some(PORT));
}

#[test]
fn the_data_plane_knows_what_is_behind_ports_that_it_is_attached_to() {
    use lb_common::bridge::Station as Key;

    let mut facts = bridged();
    facts.set_station(STATION, Some(Place::Port(PORT)));
    facts.set_station(Station { mac: OTHER_MAC, ..STATION }, Some(Place::Port(OTHER_PORT)));
    let network = facts.publish().unwrap();
    let stations = |attached: &[u32]| network.stations(|index| attached.contains(&index));
    let own = |port| [(Key::port(port), BRIDGE), (Key::new(port, LAN_MAC), BRIDGE)];
    let known = |of: &[(Key, u32)], wanted: &[(Key, u32)]| {
        assert!(of.len() == wanted.len() && wanted.iter().all(|one| of.contains(one)), "{of:?}");
    };
    let [behind, other] =
        [(Key::new(BRIDGE, MAC), PORT), (Key::new(BRIDGE, OTHER_MAC), OTHER_PORT)];
    known(&stations(&[PORT]), &[&own(PORT)[..], &[behind]].concat());
    known(
        &stations(&[PORT, OTHER_PORT]),
        &[&own(PORT)[..], &own(OTHER_PORT), &[behind, other]].concat(),
    );
    known(&stations(&[LAN, BRIDGE]), &[]);
    // What was a port is none any more; nor has a bridge that is gone any.
    let link = LINK;
    facts.set_link(PORT, Some(link));
    let network = facts.publish().unwrap();
    assert!(!network.stations(|index| index == PORT).contains(&own(PORT)[0]));
    facts.set_link(OTHER_PORT, None);
    assert!(!facts.publish().unwrap().bridges.is_bridge(BRIDGE));
}

//! Routes by source: clients whose address has a prefix go to the backends of
//! one group.
//!
//! The lookup table of a service with routes has the blocks of the ordinary
//! way first (one, or those of [`split`](super::split)), then a block for each
//! group that is routed to, in the order of their names. A client's block is
//! that of its longest prefix, whatever the split says of it; clients without
//! one go the ordinary way. A group without backends that take new flows falls
//! back to all backends of the service, as in a split.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_common::{addr, route::Blocks};

use super::{model::Service, plan::tables};

/// A prefix of addresses as they lie in a frame: IPv4 in the first 32 bits.
/// Which family is meant, the service knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    bits: u128,
    length: u8,
}

impl Prefix {
    /// Of every address.
    pub const ALL: Self = Self { bits: 0, length: 0 };

    /// The first `length` bits of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16], length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - length as u32);
        let mask = if let Some(mask) = mask { mask } else { 0 };
        Self { bits: u128::from_be_bytes(bytes) & mask, length }
    }

    /// The address as words that a load from a frame gives.
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        addr::words(self.bits.to_be_bytes())
    }

    /// Bits that count.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// One bit less.
    fn parent(self) -> Option<Self> {
        Some(Self::new(self.bits.to_be_bytes(), self.length.checked_sub(1)?))
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        let mut bytes = [0; 16];
        match net {
            IpNet::V4(net) => bytes[..4].copy_from_slice(&net.network().octets()),
            IpNet::V6(net) => bytes = net.network().octets(),
        }
        Self::new(bytes, net.prefix_len())
    }
}

/// A set of routes, as `ROUTES` holds it: prefixes, and the blocks of the
/// lookup table that their clients are shared out to. One for every address is
/// among them. Or a set of sources, whose prefixes lead nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Routes(pub BTreeMap<Prefix, Blocks>);

impl Routes {
    /// Those of a service; `None`: it has no routes.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        if service.routes.is_empty() {
            return None;
        }
        let ordinary = tables::ordinary_blocks(service);
        let groups = groups(service);
        let numbers: BTreeMap<_, _> = groups.into_iter().zip(ordinary..).collect();
        let routed = service.routes.iter().flat_map(|route| {
            let blocks = Blocks::new(numbers[route.group.as_str()], 1);
            route.from.iter().map(move |&net| (net.into(), blocks))
        });
        let everybody = (Prefix::ALL, Blocks::new(0, ordinary));
        Some(Self(std::iter::once(everybody).chain(routed).collect()))
    }

    /// The set of the sources that a service is for; `None`: everybody.
    #[must_use]
    pub fn allowing(service: &Service) -> Option<Self> {
        let sources = &service.allow_sources;
        let set = || Self(sources.iter().map(|&net| (net.into(), Blocks::NONE)).collect());
        (!sources.is_empty()).then(set)
    }

    /// The blocks for clients of a prefix: those of the longest one that
    /// contains it.
    #[must_use]
    pub fn longest(&self, prefix: Prefix) -> Option<Blocks> {
        let mut up = std::iter::successors(Some(prefix), |prefix| prefix.parent());
        up.find_map(|prefix| self.0.get(&prefix).copied())
    }
}

/// The groups that a service routes clients to, by name.
#[must_use]
pub fn groups(service: &Service) -> BTreeSet<&str> {
    service.routes.iter().map(|route| route.group.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::core::model::{Mode, Protocol, Route, sample::service};

    fn routed(vip: &str, routes: &[(&[&str], &str)]) -> Service {
        let route = |&(from, group): &(&[&str], &str)| Route {
            from: from.iter().map(|net| net.parse().unwrap()).collect(),
            group: group.into(),
        };
        let mut service = service(vip, (80, 80), Protocol::Tcp, Mode::Nat);
        service.routes = routes.iter().map(route).collect();
        service
    }

    fn find(routes: &Routes, client: &str) -> (u32, u32) {
        let client: IpAddr = client.parse().unwrap();
        let blocks = routes.longest(IpNet::from(client).into()).unwrap();
        (blocks.first(), blocks.count())
    }

    #[test]
    fn the_longest_prefix_wins_and_others_go_the_ordinary_way() {
        let mut service = routed(
            "192.0.2.1",
            &[(&["10.0.0.0/8", "10.1.2.0/24"], "us"), (&["10.1.0.0/16"], "eu")],
        );
        let routes = Routes::of(&service).unwrap();
        // One ordinary block, then "eu" and "us".
        for (client, block) in [("10.9.9.9", 2), ("10.1.9.9", 1), ("10.1.2.3", 2), ("11.0.0.1", 0)]
        {
            assert_eq!(find(&routes, client), (block, 1), "{client}");
        }
        service.split = [("eu".to_owned(), 1)].into();
        let routes = Routes::of(&service).unwrap();
        let ordinary = u32::from(tables::ordinary_blocks(&service));
        assert_eq!(find(&routes, "11.0.0.1"), (0, ordinary));
        assert_eq!(find(&routes, "10.1.9.9"), (ordinary, 1));
    }

    #[test]
    fn a_route_for_everybody_leaves_nobody_the_ordinary_way() {
        let service = routed("2001:db8::1", &[(&["::/0"], "a"), (&["2001:db8::/32"], "b")]);
        let routes = Routes::of(&service).unwrap();
        assert_eq!(find(&routes, "fd00::1"), (1, 1));
        assert_eq!(find(&routes, "2001:db8::7"), (2, 1));
        assert_eq!(routes.0.len(), 2);
    }

    #[test]
    fn a_service_without_routes_has_no_set() {
        assert_eq!(Routes::of(&routed("192.0.2.1", &[])), None);
    }

    proptest! {
        #[test]
        fn a_prefix_is_as_its_address_lies_in_a_frame(v4: u32, v6: u128, length in 0u8..=32) {
            let net = |addr: IpAddr, length| IpNet::new(addr, length).unwrap().trunc();
            let v4 = net(IpAddr::from(v4.to_be_bytes()), length);
            let IpAddr::V4(address) = v4.addr() else { unreachable!() };
            prop_assert_eq!(Prefix::from(v4).words(), [addr::v4_word(address).into(), 0]);
            let v6 = net(IpAddr::from(v6.to_be_bytes()), length * 4);
            let IpAddr::V6(address) = v6.addr() else { unreachable!() };
            prop_assert_eq!(Prefix::from(v6).words(), addr::words(address.octets()));
            prop_assert_eq!(Prefix::from(v6).length(), length * 4);
        }
    }
}

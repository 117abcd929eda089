//! Bindings of mode `fullnat`, as the nodes of a pair tell them: see
//! [`lb_common::binding`].
//!
//! A source is named by its address: what number it has is each node's own affair. A
//! node that has no such address has no use for the binding.

use std::net::IpAddr;

use lb_common::{
    addr,
    binding::{self, Binding, FIRST_PORT, Flow},
    config::Generation,
    flow::{FlowState, FlowValue},
};

use super::{Names, Translation};
use crate::core::plan::BackendId;

/// A binding, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The client.
    pub client: IpAddr,
    /// Ports as the client sends them, see [`lb_common::hash::ports`].
    pub ports: u32,
    /// What packets to the backend come from.
    pub source: IpAddr,
    /// The port there.
    pub port: u16,
    /// The sender's number.
    pub backend: BackendId,
    /// What it is in.
    pub state: FlowState,
    /// Seconds left to live.
    pub left: u16,
}

/// A binding in this node's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Index in `BINDINGS`.
    pub index: u32,
    /// Whose it is.
    pub flow: Flow,
    /// Our number.
    pub backend: BackendId,
    /// See [`super::Named::group`].
    pub group: u16,
}

/// The addresses of `node.nat_sources`, each with the index of its port 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<(u32, IpAddr)>);

impl Sources {
    /// Of what is in force.
    #[must_use]
    pub fn of(generation: &Generation) -> Self {
        let mut sources = Vec::new();
        if generation.nat_v4 != 0 {
            for number in 0..=u32::from_be(generation.nat_v4_spread) {
                let word = generation.nat_v4 | number.to_be();
                let address = IpAddr::from(word.to_ne_bytes());
                sources.push((binding::index(true, number, 0), address));
            }
        }
        let [high, low] = generation.nat_v6;
        if high != 0 {
            for number in 0..=u64::from_be(generation.nat_v6_spread) {
                let words = [high, low | number.to_be()];
                let address = addr::from_bytes(bytemuck::cast(words));
                sources.push((binding::index(false, number as u32, 0), address));
            }
        }
        Self(sources)
    }

    /// How many entries of `BINDINGS` they have.
    #[must_use]
    pub fn entries(&self) -> u32 {
        (self.0.len() as u32) << 16
    }

    /// The entry at a position, 0 to [`Self::entries`] - 1.
    #[must_use]
    pub fn entry(&self, position: u32) -> u32 {
        self.0[(position >> 16) as usize].0 | position & 0xffff
    }

    fn address(&self, index: u32) -> Option<IpAddr> {
        let (_, address) = self.0.iter().find(|(base, _)| *base == index & !0xffff)?;
        Some(*address)
    }

    fn index(&self, address: IpAddr, port: u16) -> Option<u32> {
        let (base, _) = self.0.iter().find(|(_, source)| *source == address)?;
        (port >= FIRST_PORT).then_some(base | u32::from(port))
    }
}

impl Names {
    /// Addresses whose bindings are told: none, unless a service of a group is in mode
    /// `fullnat`.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// An entry of `BINDINGS` as it is told, and the group that it belongs to; `None`:
    /// it is of no flow of a group's.
    #[must_use]
    pub fn tell_binding(&self, index: u32, entry: &Binding, left: u16) -> Option<(Record, u16)> {
        let value = FlowValue(entry.value);
        let named = self.get(value.backend())?;
        let source = self.sources.address(index)?;
        let client = match source {
            IpAddr::V4(_) => IpAddr::from((entry.client[0] as u32).to_ne_bytes()),
            IpAddr::V6(_) => addr::from_bytes(bytemuck::cast(entry.client)),
        };
        let state = FlowState::from_number(value.state())?;
        let record = Record {
            client,
            ports: entry.ports,
            source,
            port: binding::port(index),
            backend: value.backend(),
            state,
            left,
        };
        (entry.service == named.service).then_some((record, named.group))
    }
}

impl Translation {
    /// A binding in our numbers; `None`: we have no such backend or source.
    #[must_use]
    pub fn of_binding(&self, record: &Record, names: &Names) -> Option<Translated> {
        let &(backend, service, group) = self.ours.get(usize::from(record.backend))?.as_ref()?;
        let index = names.sources.index(record.source, record.port)?;
        let client = match (record.client, record.source) {
            (IpAddr::V4(client), IpAddr::V4(_)) => [addr::v4_word(client).into(), 0],
            (IpAddr::V6(client), IpAddr::V6(_)) => addr::words(client.octets()),
            _ => return None,
        };
        let flow = Flow { client, ports: record.ports, service: service.into() };
        Some(Translated { index, flow, backend, group })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use lb_common::limits::NAT_SOURCES;
    use proptest::prelude::*;

    use super::*;
    use crate::core::sync::tests::{any_names, backends, with_sources};

    /// Four sources of each family, as a prefix.
    fn generation() -> Generation {
        let words = |text: &str| {
            let address: std::net::Ipv6Addr = text.parse().unwrap();
            addr::words(address.octets())
        };
        Generation {
            nat_v4: addr::v4_word([10, 2, 0, 200].into()),
            nat_v4_spread: 3_u32.to_be(),
            nat_v6: words("fd00:2::200"),
            nat_v6_spread: 3_u64.to_be(),
            ..Generation::ZERO
        }
    }

    #[test]
    fn sources_are_the_addresses_of_their_prefixes() {
        let sources = Sources::of(&generation());
        assert_eq!(sources.entries(), (2 * NAT_SOURCES) << 16);
        let of = |v4, number| sources.address(binding::index(v4, number, 7)).unwrap().to_string();
        assert_eq!((of(true, 0), of(true, 3)), ("10.2.0.200".into(), "10.2.0.203".into()));
        assert_eq!((of(false, 0), of(false, 3)), ("fd00:2::200".into(), "fd00:2::203".into()));
        assert_eq!(Sources::of(&Generation::ZERO).entries(), 0);
        let single = Generation { nat_v4_spread: 0, nat_v6: [0; 2], ..generation() };
        assert_eq!(Sources::of(&single).entries(), 1 << 16);
        assert_eq!(sources.index("10.2.0.204".parse().unwrap(), 2000), None);
        assert_eq!(sources.index("10.2.0.200".parse().unwrap(), FIRST_PORT - 1), None);
    }

    proptest! {
        #[test]
        fn every_port_that_may_be_taken_has_a_position(
            v4: bool, at in 0..NAT_SOURCES * binding::PORTS,
        ) {
            let sources = Sources::of(&generation());
            let index = binding::at(v4, NonZero::new(NAT_SOURCES).unwrap(), at);
            let found = (0..sources.entries()).step_by(1 << 16).find_map(|position| {
                let position = position | index & 0xffff;
                (sources.entry(position) == index).then_some(position)
            });
            prop_assert!(found.is_some());
        }

        #[test]
        fn what_one_node_tells_the_other_understands_in_its_own_numbers(
            [ours, theirs] in [any_names(), any_names()],
            number in 0..backends(),
            client: [u64; 2],
            ports: u32,
            at in 0..NAT_SOURCES * binding::PORTS,
            left: u16,
        ) {
            let all = Sources::of(&generation());
            let [ours, theirs] = [ours, theirs].map(|names| with_sources(names, all.clone()));
            let (id, named) = theirs.iter().nth(number).map(|(id, named)| (id, *named)).unwrap();
            let v4 = number % 2 == 0;
            let index = binding::at(v4, NonZero::new(NAT_SOURCES).unwrap(), at);
            let client = if v4 { [client[0] & 0xffff_ffff, 0] } else { client };
            // Addresses that stand for IPv4 ones are no clients of IPv6.
            prop_assume!(v4 || client[0] != 0);
            let value = FlowValue::new(id, 5, FlowState::Closing, 77).0;
            let entry = Binding { client, value, ports, service: named.service, _pad: 0 };
            let (record, group) = theirs.tell_binding(index, &entry, left).unwrap();
            prop_assert_eq!((record.state, record.left, group), (FlowState::Closing, left, 1));
            let mut translation = Translation::default();
            prop_assert_eq!(translation.of_binding(&record, &ours), None);
            translation.learn(theirs.iter().map(|(id, named)| (id, named.identity)), &ours);
            let heard = translation.of_binding(&record, &ours).unwrap();
            let own = *ours.get(heard.backend).unwrap();
            prop_assert_eq!(own.identity, named.identity);
            let flow = Flow { client, ports, service: own.service.into() };
            prop_assert_eq!((heard.index, heard.flow, heard.group), (index, flow, 1));
            // Of another service than its backend's, or of an address that nobody has.
            let stray = Binding { service: named.service + 1, ..entry };
            prop_assert_eq!(theirs.tell_binding(index, &stray, left), None);
            prop_assert_eq!(with_sources(theirs, Sources::default()).tell_binding(index, &entry, left), None);
            let none = with_sources(ours, Sources::default());
            prop_assert_eq!(translation.of_binding(&record, &none), None);
        }
    }
}

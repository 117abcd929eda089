//! What the nodes of a pair tell each other about flows.
//!
//! Who serves a group sends the entries of its affinity table, who stands by
//! enters them in its own. Nodes number services and backends as it comes, so
//! a backend is named by its identity, once, and by the sender's number from
//! then on. A record has the seconds that are left, since clocks differ.

pub mod binding;

use std::collections::BTreeMap;

use lb_common::{flow::FlowState, hash};

use self::binding::Sources;

use super::{
    model::Mode,
    plan::{BackendId, ServiceId, Snapshot, identity::BackendIdentity, ids::present_backends},
};

/// A flow, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key of the affinity table; without its service if that is `exact`.
    pub key: u64,
    /// Whether the key is [`hash::flow_key_v4`], else it is a hash.
    pub exact: bool,
    /// The sender's number.
    pub backend: BackendId,
    /// What it is in.
    pub state: FlowState,
    /// Seconds left to live.
    pub left: u16,
}

/// A backend that has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Who it is.
    pub identity: BackendIdentity,
    /// Number of its service.
    pub service: ServiceId,
    /// The VIP's group, see [`lb_common::lease::group`]; 0: none.
    pub group: u16,
}

impl Named {
    /// Whether a key of this backend's is exact. The others are hashes, also of
    /// replies where services share a backend's port.
    fn has_exact(&self, key: u64) -> bool {
        self.identity.service.has_exact_keys() && key >> 48 == u64::from(self.service)
    }
}

/// The backends of one node, by its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    by_id: Vec<Option<Named>>,
    ids: BTreeMap<BackendIdentity, BackendId>,
    /// Seconds that an established flow is kept at least, of any service in a
    /// group.
    shortest: Option<u16>,
    /// See [`Self::sources`].
    sources: Sources,
    /// See [`Self::has_cookies`].
    cookies: bool,
}

impl Names {
    /// Of what is in force.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut names = Self::default();
        for (identity, id) in present_backends(snapshot) {
            let service = snapshot.backends[&id].service;
            let Some(entry) = snapshot.services.get(&service) else { continue };
            if entry.group == 0 {
                continue;
            }
            if names.by_id.len() <= usize::from(id) {
                names.by_id.resize(usize::from(id) + 1, None);
            }
            names.by_id[usize::from(id)] = Some(Named { identity, service, group: entry.group });
            names.ids.insert(identity, id);
            if identity.mode == Mode::FullNat && names.sources.entries() == 0 {
                names.sources = Sources::of(snapshot.generation());
            }
            names.cookies |= entry.syn_rate != 0;
            let timeout = entry.established_timeout;
            names.shortest = Some(names.shortest.map_or(timeout, |least| least.min(timeout)));
        }
        names
    }

    /// The backend of a number, if its VIP is in a group.
    #[must_use]
    pub fn get(&self, id: BackendId) -> Option<&Named> {
        self.by_id.get(usize::from(id))?.as_ref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (BackendId, &Named)> {
        let all = self.by_id.iter().enumerate();
        all.filter_map(|(id, named)| Some((id as BackendId, named.as_ref()?)))
    }

    /// Whether a number is another's than in `before`, or sources are others.
    #[must_use]
    pub fn renumbers(&self, before: &Self) -> bool {
        let is_other = |(id, named): (BackendId, &Named)| {
            self.get(id).is_some_and(|now| now.identity != named.identity)
        };
        self.sources != before.sources || before.iter().any(is_other)
    }

    /// See the field.
    #[must_use]
    pub fn shortest(&self) -> Option<u16> {
        self.shortest
    }

    /// Whether a service of a group has, or had, SYN cookies: connections that they opened
    /// are told.
    #[must_use]
    pub fn has_cookies(&self) -> bool {
        self.cookies
    }

    /// An entry of the affinity table as it is told, and the group that it
    /// belongs to; `None`: it is no flow of a group's.
    #[must_use]
    pub fn tell(
        &self,
        key: u64,
        backend: BackendId,
        state: u8,
        left: u16,
    ) -> Option<(Record, u16)> {
        let named = self.get(backend)?;
        let exact = named.has_exact(key);
        let key = if exact { hash::without_service(key) } else { key };
        let state = FlowState::from_number(state)?;
        Some((Record { key, exact, backend, state, left }, named.group))
    }
}

/// What the peer's numbers stand for here.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    theirs: BTreeMap<BackendId, BackendIdentity>,
    ours: Vec<Option<(BackendId, ServiceId, u16)>>,
}

/// A record in this node's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Key of our affinity table.
    pub key: u64,
    /// Our number.
    pub backend: BackendId,
    /// See [`Named::group`].
    pub group: u16,
}

impl Translation {
    /// Learns what the peer calls some of its backends.
    pub fn learn(
        &mut self,
        theirs: impl IntoIterator<Item = (BackendId, BackendIdentity)>,
        names: &Names,
    ) {
        self.theirs.extend(theirs);
        self.renew(names);
    }

    /// Follows a change of our own numbers.
    pub fn renew(&mut self, names: &Names) {
        let most = self.theirs.keys().next_back().map_or(0, |&id| usize::from(id) + 1);
        self.ours = vec![None; most];
        for (&id, identity) in &self.theirs {
            let ours = names.ids.get(identity).and_then(|&ours| Some((ours, names.get(ours)?)));
            self.ours[usize::from(id)] =
                ours.map(|(backend, named)| (backend, named.service, named.group));
        }
    }

    /// A record in our numbers; `None`: we have no such backend.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<Translated> {
        let &(backend, service, group) = self.ours.get(usize::from(record.backend))?.as_ref()?;
        let key = if record.exact { hash::with_service(record.key, service) } else { record.key };
        Some(Translated { key, backend, group })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::addr;
    use proptest::prelude::*;

    use super::*;
    use crate::core::plan::identity::ServiceIdentity;

    /// Services with exact keys, and with others.
    const VIPS: [(&str, u16, u16); 4] = [
        ("203.0.113.1", 80, 80),
        ("203.0.113.2", 80, 80),
        ("203.0.113.3", 1000, 1999),
        ("2001:db8::1", 80, 80),
    ];
    /// Backends of each.
    const BACKENDS: usize = 3;

    fn identity(service: usize, backend: usize) -> BackendIdentity {
        let (vip, first, last) = VIPS[service];
        let vip: IpAddr = vip.parse().unwrap();
        let addr = addr::to_bytes(IpAddr::from([10, 0, 0, backend as u8]));
        let service = ServiceIdentity { vip: addr::to_bytes(vip), first, last, proto: 6 };
        BackendIdentity { service, addr, port: 0, mode: Mode::Nat }
    }

    /// A node that numbers services and backends in this order, counted from 1.
    fn names(services: &[usize], backends: &[usize]) -> Names {
        let mut names = Names::default();
        names.by_id.resize(backends.len() + 1, None);
        for (position, number) in backends.iter().enumerate() {
            let (service, id) = (number / BACKENDS, position as BackendId + 1);
            let identity = identity(service, number % BACKENDS);
            let service = services.iter().position(|one| *one == service).unwrap() as u16 + 1;
            names.by_id[usize::from(id)] = Some(Named { identity, service, group: 1 });
            names.ids.insert(identity, id);
        }
        names
    }

    /// Backends of all services.
    pub(super) const fn backends() -> usize {
        VIPS.len() * BACKENDS
    }

    /// The same node with these sources.
    pub(super) fn with_sources(names: Names, sources: Sources) -> Names {
        Names { sources, ..names }
    }

    pub(super) fn any_names() -> impl Strategy<Value = Names> {
        let order = |count: usize| Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        (order(VIPS.len()), order(VIPS.len() * BACKENDS))
            .prop_map(|(services, backends)| names(&services, &backends))
    }

    proptest! {
        #[test]
        fn what_one_node_tells_the_other_understands_in_its_own_numbers(
            [ours, theirs] in [any_names(), any_names()],
            key: u64,
            number in 0..VIPS.len() * BACKENDS,
            left: u16,
        ) {
            let who = identity(number / BACKENDS, number % BACKENDS);
            let at = |names: &Names| {
                let id = names.ids[&who];
                (id, names.get(id).unwrap().service)
            };
            let ((there, service), (here, own)) = (at(&theirs), at(&ours));
            let exact = who.service.has_exact_keys();
            let key = if exact { hash::with_service(key, service) } else { key };
            let (record, group) = theirs.tell(key, there, FlowState::Closing as u8, left).unwrap();
            prop_assert_eq!((record.exact, record.left, group), (exact, left, 1));
            let mut translation = Translation::default();
            prop_assert_eq!(translation.of(&record), None);
            translation.learn(theirs.iter().map(|(id, named)| (id, named.identity)), &ours);
            let expected = if exact { hash::with_service(key, own) } else { key };
            let heard = Translated { key: expected, backend: here, group: 1 };
            prop_assert_eq!(translation.of(&record), Some(heard));
            translation.renew(&Names::default());
            prop_assert_eq!(translation.of(&record), None);
        }

        #[test]
        fn numbers_are_given_anew_only_where_another_has_one(
            [before, after] in [any_names(), any_names()], gone in 1..VIPS.len() * BACKENDS,
        ) {
            let others = |(id, named): (BackendId, &Named)| {
                after.get(id).unwrap().identity != named.identity
            };
            prop_assert_eq!(after.renumbers(&before), before.iter().any(others));
            let mut less = before.clone();
            less.by_id[gone] = None;
            prop_assert!(!less.renumbers(&before) && !before.renumbers(&less));
        }
    }

    #[test]
    fn a_reply_at_a_shared_address_has_no_exact_key() {
        let names = names(&[0, 1, 2, 3], &[0]);
        let reply = hash::reply_key(hash::flow_key_hashed([1, 2], 3, 4, [5, 6]));
        let told = names.tell(reply, 1, FlowState::Established as u8, 9).unwrap().0;
        assert_eq!((told.exact, told.key), (false, reply));
        assert_eq!(names.tell(reply, 2, FlowState::Established as u8, 9), None);
        assert_eq!(names.tell(reply, 1, 7, 9), None);
    }
}

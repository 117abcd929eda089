//! Entries of `BACKENDS`: what they are to hold, and who shares an endpoint.

use std::collections::BTreeMap;

use lb_common::{
    addr::AddrBytes,
    backend::{Backend, flags},
    csum, hash,
};

use super::{BackendId, ServiceId, Snapshot, identity::BackendIdentity, ids::Ids};
use crate::core::{
    model::{Mode, Model},
    nexthop::NextHop,
    weight::Standings,
};

/// A backend of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who.
    pub identity: BackendIdentity,
    /// Id of its service.
    pub service: ServiceId,
    /// See [`Backend::shared_salt`].
    pub shared_salt: u64,
    /// Whether existing flows may go there.
    pub serving: bool,
}

impl Wanted {
    /// Its whole entry.
    #[must_use]
    pub fn entry(&self, hop: Option<NextHop>) -> Backend {
        let who = &self.identity;
        let (macs_low, macs_high) = hop.map_or((0, 0), |hop| macs(&hop));
        let deltas = Deltas::of(who);
        Backend {
            macs_low,
            macs_high,
            ifindex: hop.map_or(0, |hop| hop.ifindex),
            addr: who.addr,
            flags: self.flags(hop.is_some()),
            port: who.port.to_be(),
            aged_delta: deltas.aged,
            ip_delta: deltas.ip,
            l4_delta: deltas.l4,
            service: self.service,
            shared_salt: self.shared_salt,
            mtu: hop.map_or(0, |hop| hop.mtu),
            vlan: hop.map_or(0, |hop| hop.vlan),
            ..Backend::ZERO
        }
    }

    fn flags(&self, resolved: bool) -> u32 {
        let who = &self.identity;
        [
            (true, flags::IN_USE),
            (self.serving, flags::SERVING),
            (resolved, flags::RESOLVED),
            (who.mode == Mode::Nat, flags::NAT),
            (who.mode == Mode::FullNat, flags::FULLNAT),
            (who.mode == Mode::Ipip, flags::IPIP),
            (who.mode == Mode::Gue, flags::GUE),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(0, |all, (_, flag)| all | flag)
    }
}

/// What rewriting adds to checksums, see [`Backend`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    ip: u16,
    aged: u16,
    l4: u16,
}

impl Deltas {
    /// Of a backend. TCP and UDP cover the address through the pseudo header
    /// (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[must_use]
    pub fn of(who: &BackendIdentity) -> Self {
        if who.mode != Mode::Nat {
            return Self { aged: csum::AGED, ..Self::default() };
        }
        let ip = csum::delta_addr(who.service.vip, who.addr);
        let l4 = match who.service.single_port() {
            Some(port) if who.port != 0 => {
                csum::fold(u32::from(ip) + csum::delta16(port.to_be(), who.port.to_be()))
            }
            _ => ip,
        };
        Self { ip, aged: csum::aged(ip), l4 }
    }

    /// Of an entry.
    #[must_use]
    pub fn read(entry: &Backend) -> Self {
        Self { ip: entry.ip_delta, aged: entry.aged_delta, l4: entry.l4_delta }
    }
}

/// The words of an Ethernet header towards `hop`, without the type.
#[must_use]
pub fn macs(hop: &NextHop) -> (u64, u32) {
    let (d, s) = (hop.destination, hop.source);
    let low = u64::from_ne_bytes([d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1]]);
    (low, u32::from_ne_bytes([s[2], s[3], s[4], s[5]]))
}

/// The next hop an entry holds.
#[must_use]
pub fn written_hop(entry: &Backend) -> Option<NextHop> {
    if entry.flags & flags::RESOLVED == 0 {
        return None;
    }
    let [d0, d1, d2, d3, d4, d5, s0, s1] = entry.macs_low.to_ne_bytes();
    let [s2, s3, s4, s5] = entry.macs_high.to_ne_bytes();
    Some(NextHop {
        ifindex: entry.ifindex,
        destination: [d0, d1, d2, d3, d4, d5],
        source: [s0, s1, s2, s3, s4, s5],
        mtu: entry.mtu,
        vlan: entry.vlan,
    })
}

/// Every backend of the configuration by id.
#[must_use]
pub fn wanted(model: &Model, standings: &Standings, ids: &Ids) -> BTreeMap<BackendId, Wanted> {
    let mut wanted: BTreeMap<_, _> = super::backend_identities(model)
        .map(|identity| {
            let service = ids.services[&identity.service];
            let serving = standings.of(&identity, 0).serving;
            (ids.backends[&identity], Wanted { identity, service, shared_salt: 0, serving })
        })
        .collect();
    for id in sharing(&wanted) {
        wanted.entry(id).and_modify(|want| {
            let BackendIdentity { addr, service, .. } = want.identity;
            want.shared_salt = hash::shared_salt(addr, service.proto);
        });
    }
    wanted
}

/// The `nat` backends whose replies cannot be told from another's by source
/// address, port and protocol: equal ports, and at an address where one has
/// any port, all of them.
fn sharing(wanted: &BTreeMap<BackendId, Wanted>) -> Vec<BackendId> {
    let mut hosts: BTreeMap<(AddrBytes, u8), BTreeMap<Option<u16>, Vec<BackendId>>> =
        BTreeMap::new();
    for (&id, want) in wanted.iter().filter(|(_, want)| want.identity.mode == Mode::Nat) {
        let who = &want.identity;
        let host = hosts.entry((who.addr, who.service.proto)).or_default();
        host.entry(who.effective_port()).or_default().push(id);
    }
    let mut groups = Vec::new();
    for ports in hosts.into_values() {
        if ports.contains_key(&None) {
            groups.push(ports.into_values().flatten().collect());
        } else {
            groups.extend(ports.into_values());
        }
    }
    groups.into_iter().filter(|group: &Vec<_>| group.len() > 1).flatten().collect()
}

/// Backends that live on and begin to serve, and those that stop.
#[must_use]
pub fn changed_standings(
    wanted: &BTreeMap<BackendId, Wanted>,
    snapshot: &Snapshot,
) -> (Vec<BackendId>, Vec<BackendId>) {
    let serves = |entry: &Backend| entry.flags & flags::SERVING != 0;
    let kept = snapshot.in_use().filter_map(|(id, entry)| Some((id, entry, wanted.get(&id)?)));
    let changed = kept.filter(|(_, entry, want)| serves(entry) != want.serving);
    let (rising, falling): (Vec<_>, Vec<_>) = changed.partition(|(_, _, want)| want.serving);
    let ids = |all: Vec<(BackendId, _, _)>| all.into_iter().map(|(id, _, _)| id).collect();
    (ids(rising), ids(falling))
}

/// Backends that live on with another `shared_salt`.
#[must_use]
pub fn changed_shares(
    wanted: &BTreeMap<BackendId, Wanted>,
    snapshot: &Snapshot,
) -> Vec<(BackendId, u64)> {
    let kept = snapshot.in_use().filter_map(|(id, entry)| Some((id, entry, wanted.get(&id)?)));
    kept.filter(|(_, entry, want)| entry.shared_salt != want.shared_salt)
        .map(|(id, _, want)| (id, want.shared_salt))
        .collect()
}

/// Whether replies of this backend are looked for: the port they come from
/// (0: any), unless the mode leaves them alone.
#[must_use]
pub fn reply_port(who: &BackendIdentity) -> Option<u16> {
    (who.mode == Mode::Nat).then(|| who.effective_port().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use lb_common::addr;

    use super::*;
    use crate::core::plan::identity::ServiceIdentity;

    fn wanted_one(vip: &str, addr: &str, ports: (u16, u16), port: u16) -> Wanted {
        let bytes = |text: &str| addr::to_bytes(text.parse().unwrap());
        let service = ServiceIdentity { vip: bytes(vip), first: ports.0, last: ports.1, proto: 6 };
        let identity = BackendIdentity { service, addr: bytes(addr), port, mode: Mode::Nat };
        Wanted { identity, service: 1, shared_salt: 0, serving: true }
    }

    #[test]
    fn deltas_turn_the_checksum_of_the_old_header_into_that_of_the_new() {
        for (vip, to) in [("192.0.2.1", "10.0.0.7"), ("2001:db8::1", "fd00::9")] {
            let entry = wanted_one(vip, to, (80, 80), 8080).entry(None);
            let message = |addr: &str, port: u16| {
                let mut bytes = addr::to_bytes(addr.parse().unwrap()).to_vec();
                bytes.extend(port.to_be_bytes());
                bytes.extend([9, 8, 7, 6]);
                !csum::sum(&bytes)
            };
            let updated = csum::update(message(vip, 80), u32::from(entry.l4_delta));
            assert_eq!(updated, message(to, 8080));
        }
    }

    #[test]
    fn a_next_hop_survives_its_entry() {
        let (destination, source) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let hop = NextHop { ifindex: 3, destination, source, mtu: 9000, vlan: 77 };
        let entry = wanted_one("192.0.2.1", "10.0.0.7", (80, 80), 0).entry(Some(hop));
        assert_eq!(written_hop(&entry), Some(hop));
        assert_eq!(entry.macs_low.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(entry.macs_high.to_ne_bytes(), [9, 10, 11, 12]);
    }

    #[test]
    fn a_backend_with_any_port_shares_with_all_at_its_address() {
        let one = |ports, port| wanted_one("192.0.2.1", "10.0.0.7", ports, port);
        let wanted = BTreeMap::from([(4, one((80, 80), 0)), (2, one((443, 443), 0))]);
        assert_eq!(sharing(&wanted), Vec::<u16>::new());
        let wanted = BTreeMap::from([(4, one((80, 80), 0)), (2, one((443, 443), 80))]);
        assert_eq!(sharing(&wanted), [2, 4]);
        let mut wanted = BTreeMap::from([(4, one((80, 80), 0)), (2, one((443, 443), 0))]);
        wanted.insert(9, one((1000, 2000), 0));
        assert_eq!(sharing(&wanted).len(), 3);
    }
}

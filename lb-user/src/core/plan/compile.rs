//! The bank of a generation: everything that is switched at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{
    addr::{self, AddrBytes},
    config::{Filter, Generation, features, filter_bit},
    firewall::{ALLOW_WORDS, AllowWord, allow_index},
    lease, limits,
    service::{Address, PortRange, RANGES, Service, address_flags, flags},
    synproxy::SynRate,
};

use super::{
    BackendId, Bank, CapacityError, Host, QuicSetId, RouteSet, ServiceId, Snapshot,
    backends::{Wanted, reply_port},
    endpoint::{Endpoint, EndpointTable, Kind},
    identity::ServiceIdentity,
    ids::Ids,
    tables::Places,
};
use crate::core::{
    model::{self, Affinity, Mode, Model, OnDown, OnEmpty, Protocol},
    nexthop::Network,
};

/// What entries of services refer to.
#[derive(Clone, Copy, Debug)]
pub struct Referred<'p> {
    /// Tables of all services.
    pub tables: &'p BTreeMap<ServiceId, Places>,
    /// Sets of sources, of those that have one.
    pub sources: &'p BTreeMap<ServiceId, RouteSet>,
    /// Sets of QUIC configurations, of those that have one.
    pub quic: &'p BTreeMap<ServiceId, QuicSetId>,
}

/// Compiles the bank that is not active.
///
/// # Errors
/// It does not fit.
pub fn bank(
    model: &Model,
    network: &Network,
    snapshot: &Snapshot,
    host: &Host,
    ids: &Ids,
    wanted: &BTreeMap<BackendId, Wanted>,
    referred: &Referred<'_>,
) -> Result<Bank, CapacityError> {
    let services = services(model, ids, snapshot, referred);
    let addresses = addresses(model, network, ids)?;
    let number = snapshot.generation().number + 1;
    let endpoints = endpoints(&services, &addresses, wanted);
    let seed = snapshot.config.place_seed[0] ^ number;
    let table =
        EndpointTable::build(&endpoints, seed).ok_or(CapacityError::Endpoints(endpoints.len()))?;
    let generation = Generation {
        features: features_of(model, ids, wanted, &services),
        endpoint_mask: table.mask(),
        endpoint_salt: table.salt,
        number,
        ephemeral_low: *host.ephemeral.start(),
        ephemeral_high: *host.ephemeral.end(),
        addresses: filter(addresses.iter().map(|entry| entry.addr)),
        repliers: filter(repliers(wanted)),
        ..sources(&model.node.tunnel_sources, &model.node.nat_sources)
    };
    Ok(Bank {
        index: (snapshot.config.active & 1) ^ 1,
        generation,
        endpoints: table.buckets,
        services,
        addresses,
        allow: allow(model),
    })
}

/// What a generation has of these, and nothing else.
fn sources(tunnel: &[IpNet], nat: &[IpNet]) -> Generation {
    let ([tunnel_v4, tunnel_v4_spread], (tunnel_v6, tunnel_v6_spread)) = prefixes(tunnel);
    let ([nat_v4, nat_v4_spread], (nat_v6, nat_v6_spread)) = prefixes(nat);
    Generation {
        tunnel_v4,
        tunnel_v4_spread,
        tunnel_v6,
        tunnel_v6_spread,
        nat_v4,
        nat_v4_spread,
        nat_v6,
        nat_v6_spread,
        ..Generation::ZERO
    }
}

/// What is the same of all addresses, and the bits in which they differ: of the IPv4
/// prefix, and of the IPv6 one, in its second word.
fn prefixes(nets: &[IpNet]) -> ([u32; 2], ([u64; 2], u64)) {
    let (mut v4, mut v6) = ([0; 2], ([0; 2], 0));
    for net in nets {
        match net {
            IpNet::V4(net) => v4 = [net.network(), net.hostmask()].map(addr::v4_word),
            IpNet::V6(net) => {
                let words = |of| addr::words(addr::to_bytes(IpAddr::V6(of)));
                v6 = (words(net.network()), words(net.hostmask())[1]);
            }
        }
    }
    (v4, v6)
}

/// Addresses of backends whose replies are rewritten.
fn repliers(wanted: &BTreeMap<BackendId, Wanted>) -> impl Iterator<Item = AddrBytes> {
    let replying = wanted.values().filter(|want| reply_port(&want.identity).is_some());
    replying.map(|want| want.identity.addr)
}

fn filter(addrs: impl Iterator<Item = AddrBytes>) -> Filter {
    let mut filter = Filter::default();
    for bytes in addrs {
        let words = match addr::from_bytes(bytes) {
            IpAddr::V4(v4) => [u64::from(addr::v4_word(v4)), 0],
            IpAddr::V6(_) => addr::words(bytes),
        };
        let (word, bit) = filter_bit(words);
        filter[word] |= bit;
    }
    filter
}

fn services(
    model: &Model,
    ids: &Ids,
    snapshot: &Snapshot,
    referred: &Referred<'_>,
) -> BTreeMap<ServiceId, Service> {
    let entry = |service: &model::Service| {
        let id = ids.services[&ServiceIdentity::of(service)];
        let entry = service_entry(service, referred.tables[&id], group_of(model, service.vip));
        let sources = referred.sources.get(&id).copied().unwrap_or(0);
        let quic = referred.quic.get(&id).copied().unwrap_or(0);
        let limited = service.max_flows > 0;
        let old = snapshot.services.get(&id);
        let syn_rate = syn_rate(service, old, snapshot.proxied);
        let guarded = sources != 0
            || limited
            || syn_rate != 0
            || model.firewall.new_flows_per_source.is_some();
        let flags = entry.flags | if guarded { flags::GUARDED } else { 0 };
        // What is full stays so until it is counted again.
        let full_until = old.filter(|_| limited).map_or(0, |old| old.full_until);
        (id, Service { sources, full_until, quic, syn_rate, flags, ..entry })
    };
    model.services.iter().map(entry).collect()
}

/// Who had SYN cookies goes on to translate the connections that they opened, as long as
/// there are any; so does who is new: a service of that name may have had them.
fn syn_rate(service: &model::Service, old: Option<&Service>, proxied: bool) -> u16 {
    let may_have = service.protocol == Protocol::Tcp
        && matches!(service.mode, Mode::Nat | Mode::FullNat)
        && old.is_none_or(|old| old.syn_rate != 0);
    match service.syn_cookies_above {
        Some(rate) => SynRate::new(rate).0,
        None if proxied && may_have => SynRate::ALL.0,
        None => 0,
    }
}

fn service_entry(service: &model::Service, places: Places, group: u16) -> Service {
    let single = service.single_port();
    Service {
        vip: addr::to_bytes(service.vip),
        table: places.current,
        previous: places.previous,
        port: single.unwrap_or(0).to_be(),
        port_last: service.ports.end().to_be(),
        port_first: service.ports.start().to_be(),
        proto: service.protocol.number(),
        flags: flags_of(service),
        embryonic_timeout: service.timeouts.embryonic,
        established_timeout: service.timeouts.established,
        closing_timeout: service.timeouts.closing,
        group,
        salt: ServiceIdentity::of(service).salt(),
        ..Service::ZERO
    }
}

/// What an entry has for the group of a VIP.
fn group_of(model: &Model, vip: IpAddr) -> u16 {
    model.group_of(vip).map_or(0, lease::group)
}

fn flags_of(service: &model::Service) -> u8 {
    [
        (true, flags::IN_USE),
        (service.single_port().is_none(), flags::RANGE),
        (service.affinity == Affinity::Client, flags::CLIENT),
        (service.on_empty == OnEmpty::Reject, flags::REJECT),
        (service.on_down == OnDown::Reset, flags::RESET),
        (service.is_timed(), flags::TIMED),
        (service.affinity == Affinity::None, flags::UNTRACKED),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |all, (_, flag)| all | flag)
}

/// Addresses in ascending order: VIPs with their ranges, and the host's own.
fn addresses(model: &Model, network: &Network, ids: &Ids) -> Result<Vec<Address>, CapacityError> {
    let mut flags: BTreeMap<AddrBytes, u32> = BTreeMap::new();
    for service in &model.services {
        *flags.entry(addr::to_bytes(service.vip)).or_default() |= address_flags::VIP;
    }
    // Loopback addresses are on no wire.
    for &own in network.host_addresses.iter().filter(|own| !own.is_loopback()) {
        *flags.entry(addr::to_bytes(own)).or_default() |= address_flags::HOST;
    }
    if flags.len() >= limits::ADDRESSES as usize {
        return Err(CapacityError::Addresses(flags.len()));
    }
    let entry = |(addr, flags)| {
        let found = ranges(addr, ids);
        if found.len() > RANGES {
            return Err(CapacityError::Ranges(addr::from_bytes(addr), found.len()));
        }
        let is_vip = flags & address_flags::VIP != 0;
        let group = if is_vip { group_of(model, addr::from_bytes(addr)) } else { 0 };
        let range_count = found.len() as u32;
        let mut entry = Address { addr, flags, range_count, group, ..Address::ZERO };
        entry.ranges[..found.len()].copy_from_slice(&found);
        Ok(entry)
    };
    flags.into_iter().map(entry).collect()
}

/// Ranges of a VIP, the narrowest first.
fn ranges(vip: AddrBytes, ids: &Ids) -> Vec<PortRange> {
    let ranged = ids.services.iter().filter(|(who, _)| who.vip == vip && who.first != who.last);
    let mut ranges: Vec<_> = ranged
        .map(|(who, &service)| PortRange {
            first: who.first,
            last: who.last,
            service,
            proto: who.proto,
            ..PortRange::ZERO
        })
        .collect();
    ranges.sort_by_key(|range| (range.last - range.first, range.first, range.proto));
    ranges
}

fn endpoints(
    services: &BTreeMap<u16, Service>,
    addresses: &[Address],
    wanted: &BTreeMap<BackendId, Wanted>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (&id, entry) in services.iter().filter(|(_, entry)| entry.port != 0) {
        let (addr, port) = (entry.vip, u16::from_be(entry.port));
        let id = u32::from(id);
        endpoints.push(Endpoint { kind: Kind::Service, addr, port, proto: entry.proto, id });
    }
    for (entry, id) in addresses.iter().zip(1..) {
        endpoints.push(Endpoint { kind: Kind::Address, addr: entry.addr, port: 0, proto: 0, id });
    }
    // In ascending order of ids: who shares an endpoint leaves it to the lowest.
    let mut seen = BTreeSet::new();
    for (&id, want) in wanted {
        let who = &want.identity;
        let Some(port) = reply_port(who) else { continue };
        let (addr, proto) = (who.addr, who.service.proto);
        if seen.insert((addr, port, proto)) {
            endpoints.push(Endpoint { kind: Kind::Reply, addr, port, proto, id: u32::from(id) });
        }
    }
    endpoints
}

fn features_of(
    model: &Model,
    ids: &Ids,
    wanted: &BTreeMap<BackendId, Wanted>,
    services: &BTreeMap<ServiceId, Service>,
) -> u32 {
    let replies: BTreeSet<_> =
        wanted.values().filter_map(|want| reply_port(&want.identity)).collect();
    let cookies = model.services.iter().any(|service| {
        let entry = services.get(&ids.services[&ServiceIdentity::of(service)]);
        service.mode == Mode::FullNat && entry.is_some_and(|entry| entry.syn_rate != 0)
    });
    let denies = |test: fn(&IpNet) -> bool| model.firewall.deny_sources.iter().any(test);
    [
        (!replies.is_empty(), features::NAT),
        (replies.contains(&0), features::NAT_ANY_PORT),
        (denies(|net| matches!(net, IpNet::V4(_))), features::DENY_V4),
        (denies(|net| matches!(net, IpNet::V6(_))), features::DENY_V6),
        (model.firewall.guard_host, features::GUARD_HOST),
        (model.services.iter().any(|service| service.mode == Mode::FullNat), features::FULLNAT),
        (cookies, features::SYN_COOKIES),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |all, (_, feature)| all | feature)
}

fn allow(model: &Model) -> Vec<AllowWord> {
    let mut words = vec![AllowWord::ZERO; ALLOW_WORDS as usize];
    let mut open = |protocol: Protocol, port: u16| {
        let index = allow_index(0, protocol == Protocol::Tcp, port);
        words[index as usize].bits |= 1 << (port % 64);
    };
    for (protocol, ports) in &model.firewall.allow {
        ports.clone().for_each(|port| open(*protocol, port));
    }
    // Where the peer calls.
    for path in model.ha.iter().flat_map(|ha| &ha.paths) {
        open(Protocol::Tcp, path.listen.port());
    }
    words
}

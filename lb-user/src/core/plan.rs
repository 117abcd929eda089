//! From a configuration to ordered map operations.
//!
//! The rule that orders them: *after any prefix* of a plan, whatever a packet
//! can reach from the active bank exists and may serve. So entries and tables
//! that nothing refers to yet are written first, then the other bank, then it
//! is published by one store, and only then is taken away what the old bank
//! used. Nothing frees the lines of an old table: lines that no table of the
//! active bank uses are free by definition, and so are ids.

pub mod arena;
pub mod backends;
pub mod compile;
pub mod endpoint;
pub mod identity;
pub mod ids;
pub mod movement;
pub mod quic;
pub mod reweigh;
pub mod routes;
pub mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{
    addr::{self, AddrBytes},
    backend::{self, Backend},
    config::{Config, Generation},
    firewall::AllowWord,
    limits,
    rate::SourceRate,
    service::{Address, EndpointBucket, Service},
    table::TableRef,
};

use self::{
    compile::Referred,
    identity::{BackendIdentity, ServiceIdentity, mode_of},
    tables::Places,
};
use crate::core::{
    model::{Mode, Model, quic::Keys},
    nexthop::{Network, NextHop, Station},
    quic::QuicSet,
    route::Routes,
    weight::Standings,
};

/// Index in `BACKENDS`; stable while the backend lives, 0 is nobody.
pub type BackendId = u16;
/// Index in `SERVICES`; stable while the service lives, 0 is nobody.
pub type ServiceId = u16;
/// Number of a set of routes in `ROUTES`; 0 is none.
pub type RouteSet = u16;
/// Number of a set in `QUIC_CONFIGS` and `QUIC_SERVERS`; 0 is none.
pub type QuicSetId = u16;

/// What the maps hold, as far as a plan depends on it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The entry of `CONFIG`.
    pub config: Config,
    /// Services of the active bank.
    pub services: BTreeMap<ServiceId, Service>,
    /// Every backend ever written; those without `IN_USE` are retired.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Every table that a service of the active bank names, by its first line.
    pub tables: BTreeMap<u32, Vec<BackendId>>,
    /// Prefixes in `DENY_V4` and `DENY_V6`.
    pub denied: BTreeSet<IpNet>,
    /// Tables that gave way so lately that packets may still read their lines.
    pub resting: Vec<TableRef>,
    /// Sets in `ROUTES`.
    pub routes: BTreeMap<RouteSet, Arc<Routes>>,
    /// Sets in `QUIC_CONFIGS` and `QUIC_SERVERS`.
    pub quic: BTreeMap<QuicSetId, Arc<QuicSet>>,
    /// Whether there are connections that SYN cookies opened.
    pub proxied: bool,
}

impl Snapshot {
    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.config.generations[(self.config.active & 1) as usize]
    }

    /// Whether existing flows may go to a backend.
    #[must_use]
    pub fn is_serving(&self, id: BackendId) -> bool {
        self.backends.get(&id).is_some_and(|entry| entry.flags & backend::flags::SERVING != 0)
    }

    /// What there will be once the previous tables are retired.
    pub fn forget_previous(&mut self) {
        for entry in self.services.values_mut() {
            entry.previous = entry.table;
        }
        self.resting.clear();
    }

    /// Backends that are configured, serving or not.
    pub fn in_use(&self) -> impl Iterator<Item = (BackendId, &Backend)> {
        in_use(&self.backends)
    }
}

fn in_use(entries: &BTreeMap<BackendId, Backend>) -> impl Iterator<Item = (BackendId, &Backend)> {
    let in_use = |entry: &Backend| entry.flags & backend::flags::IN_USE != 0;
    entries.iter().filter(move |(_, entry)| in_use(entry)).map(|(&id, entry)| (id, entry))
}

/// What a plan needs to know of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Indexes of the interfaces the data plane is attached to.
    pub attached: BTreeSet<u32>,
    /// Ports of the host's own connections.
    pub ephemeral: RangeInclusive<u16>,
    /// Frames may be longer than they were on the wire: in generic mode the kernel
    /// merges them first. What is too long for a way cannot be told then.
    pub merges: bool,
    /// Keys of QUIC configurations.
    pub quic_keys: Keys,
}

/// Everything that is switched at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Which of the two: 0 or 1.
    pub index: u32,
    /// Its head in `CONFIG`.
    pub generation: Generation,
    /// The endpoint table.
    pub endpoints: Vec<EndpointBucket>,
    /// Services by id; every other id is cleared.
    pub services: BTreeMap<ServiceId, Service>,
    /// Addresses from index 1 on.
    pub addresses: Vec<Address>,
    /// All [`lb_common::firewall::ALLOW_WORDS`] words of the port policy.
    pub allow: Vec<AllowWord>,
}

/// One step. Each is harmless to packets in flight, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Says where a backend's next hop is; `None`: not known.
    SetNextHop(BackendId, Option<NextHop>),
    /// Clears all flows of these retired backends, whose ids are used again.
    Scrub(BTreeSet<BackendId>),
    /// Writes an entry nothing refers to, and clears its counters.
    WriteBackend(BackendId, Backend),
    /// Says in place whether existing flows may go to a backend.
    SetServing(BackendId, bool),
    /// Sets `shared_salt` in place.
    Share(BackendId, u64),
    /// Removes a set of routes nothing refers to.
    RemoveRoutes(RouteSet),
    /// Writes a set of routes under a number nothing refers to.
    WriteRoutes(RouteSet, Arc<Routes>),
    /// Removes a set of QUIC configurations nothing refers to.
    RemoveQuic(QuicSetId),
    /// Writes a set of QUIC configurations under a number nothing refers to.
    WriteQuic(QuicSetId, Arc<QuicSet>),
    /// Writes a table at lines nothing refers to.
    WriteTable(u32, Vec<BackendId>),
    /// Gives a service of the active bank other tables, in place.
    SwitchTables(ServiceId, Places),
    /// Numbers the active generation, in place.
    Number(u64),
    /// Writes the bank that is not active.
    WriteBank(Box<Bank>),
    /// Adds a denied prefix.
    Deny(IpNet),
    /// Makes a bank the active one.
    Publish(u32),
    /// Says in place how many flows a source may begin.
    LimitSources(SourceRate),
    /// Clears the flags of a backend: nothing reachable names it any more but
    /// previous tables and old flows, which look at the flags.
    Retire(BackendId),
    /// Removes a denied prefix.
    Undeny(IpNet),
}

/// Ordered operations, and what to tell about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be carried out in this order.
    pub operations: Vec<Operation>,
    /// Backend addresses whose next hop is on an interface (its index) that
    /// the data plane is not attached to.
    pub unattached: BTreeSet<(IpAddr, u32)>,
}

impl Plan {
    /// Services whose current table, or the routes to it, will be another than
    /// it was `before`.
    pub fn changed_tables(
        &self,
        before: &BTreeMap<ServiceId, Service>,
    ) -> impl Iterator<Item = ServiceId> {
        let current = self.operations.iter().flat_map(|operation| match operation {
            Operation::SwitchTables(id, places) => vec![(*id, places.current)],
            Operation::WriteBank(bank) => {
                bank.services.iter().map(|(id, entry)| (*id, entry.table)).collect()
            }
            _ => Vec::new(),
        });
        let old = |id: &ServiceId| before.get(id).map(|entry| entry.table);
        current.filter(move |(id, table)| old(id) != Some(*table)).map(|(id, _)| id)
    }
}

/// The configuration does not fit the data plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// See [`limits::SERVICES`].
    #[error("{0} services are configured, expected at most {max}", max = limits::SERVICES - 1)]
    Services(usize),
    /// See [`limits::BACKENDS`].
    #[error(
        "no id is left for backend `{0}`, expected at most {max} backends, old and new together",
        max = limits::BACKENDS - 1
    )]
    Backends(IpAddr),
    /// See [`limits::ADDRESSES`].
    #[error("{0} VIPs and host addresses, expected at most {max}", max = limits::ADDRESSES - 1)]
    Addresses(usize),
    /// See [`lb_common::service::RANGES`].
    #[error(
        "VIP `{0}` has {1} services with more than one port, expected at most {max}",
        max = lb_common::service::RANGES
    )]
    Ranges(IpAddr, usize),
    /// See [`limits::ENDPOINT_BUCKETS`].
    #[error("{0} services, addresses and reply ports do not fit the endpoint table")]
    Endpoints(usize),
    /// See [`limits::TABLE_LINES`].
    #[error("no room for the lookup table of service `{0}`, old and new tables together")]
    Tables(String),
    /// See [`limits::DENY_PREFIXES`].
    #[error(
        "{0} denied prefixes of one family, old and new together, expected at most {max}",
        max = limits::DENY_PREFIXES
    )]
    Prefixes(usize),
    /// See [`limits::ROUTE_PREFIXES`].
    #[error(
        "{0} prefixes of `service.route` and `service.allow_sources`, old and new together, \
         expected at most {max}",
        max = limits::ROUTE_PREFIXES
    )]
    Routes(usize),
    /// See [`TableRef::MAX_ROUTES`].
    #[error(
        "no number is left for the routes of service `{0}`, expected at most {max} services with \
         routes or sources of their own, old and new together",
        max = TableRef::MAX_ROUTES
    )]
    RouteSets(String),
    /// See [`limits::QUIC_SETS`].
    #[error(
        "no number is left for the QUIC configurations of service `{0}`, expected at most {max} \
         services with such, old and new together",
        max = limits::QUIC_SETS - 1
    )]
    QuicSets(String),
    /// The key is not known.
    #[error("the key in `{}` has not been read", .0.display())]
    QuicKey(PathBuf),
    /// See [`limits::SERVER_IDS`].
    #[error("{0} server IDs, old and new together, expected at most {max}", max = limits::SERVER_IDS)]
    ServerIds(usize),
    /// See [`tables::MOST_GROUPS`].
    #[error("service `{0}` routes to {1} groups, expected at most {max}", max = tables::MOST_GROUPS)]
    Groups(String, usize),
}

impl CapacityError {
    /// Whether there may be room once previous tables are retired.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::Tables(_) | Self::Routes(_) | Self::RouteSets(_))
    }
}

/// Plans how to get from what the maps hold to `model`.
///
/// # Errors
/// The model does not fit; nothing is to be done then.
pub fn plan(
    model: &Model,
    standings: &Standings,
    network: &Network,
    snapshot: &Snapshot,
    host: &Host,
) -> Result<Plan, CapacityError> {
    check_prefixes(model, snapshot)?;
    let ids = ids::Ids::assign(model, snapshot)?;
    let wanted = backends::wanted(model, standings, &ids);
    let shares = backends::changed_shares(&wanted, snapshot);
    let (begin, end): (Vec<_>, Vec<_>) = shares.into_iter().partition(|&(_, share)| share != 0);
    let mut arena = tables::arena(snapshot);
    let routes = routes::assign(model, &ids, snapshot)?;
    let quic = quic::assign(model, &ids, &host.quic_keys, snapshot)?;
    let built = tables::build(model, standings, &ids, &routes.sets, snapshot, &mut arena)?;
    let referred = Referred { tables: &built.places, sources: &routes.sources, quic: &quic.sets };
    let bank = compile::bank(model, network, snapshot, host, &ids, &wanted, &referred)?;
    let index = bank.index;
    let deny: BTreeSet<IpNet> = model.firewall.deny_sources.iter().copied().collect();
    let retired = snapshot.in_use().map(|(id, _)| id).filter(|id| !wanted.contains_key(id));
    let (rising, falling) = backends::changed_standings(&wanted, snapshot);

    let Plan { mut operations, mut unattached } = follow(network, &snapshot.backends, host);
    operations.extend(routes.removals);
    operations.extend(quic.removals);
    if !ids.reused.is_empty() {
        operations.push(Operation::Scrub(ids.reused.clone()));
    }
    for (&id, want) in wanted.iter().filter(|(id, _)| ids.is_new(**id)) {
        let hop =
            next_hop(network, host, (want.identity.addr, want.identity.mode), &mut unattached);
        operations.push(Operation::WriteBackend(id, want.entry(hop)));
    }
    operations.extend(rising.into_iter().map(|id| Operation::SetServing(id, true)));
    operations.extend(begin.into_iter().map(|(id, share)| Operation::Share(id, share)));
    operations.extend(routes.writes);
    operations.extend(quic.writes);
    operations.extend(built.writes);
    operations.push(Operation::WriteBank(Box::new(bank)));
    operations.extend(deny.difference(&snapshot.denied).copied().map(Operation::Deny));
    operations.push(Operation::Publish(index));
    let limit = model.firewall.new_flows_per_source;
    let limit = limit.map_or(SourceRate::NONE, |limit| SourceRate::new(limit.rate, limit.burst));
    if limit != snapshot.config.source_rate {
        operations.push(Operation::LimitSources(limit));
    }
    operations.extend(end.into_iter().map(|(id, share)| Operation::Share(id, share)));
    operations.extend(falling.into_iter().map(|id| Operation::SetServing(id, false)));
    operations.extend(retired.map(Operation::Retire));
    operations.extend(snapshot.denied.difference(&deny).copied().map(Operation::Undeny));
    Ok(Plan { operations, unattached })
}

/// Plans what a change of neighbours, routes or links asks for: next hops of
/// those of `backends` that are configured, in place.
#[must_use]
pub fn follow(network: &Network, backends: &BTreeMap<BackendId, Backend>, host: &Host) -> Plan {
    let mut plan = Plan::default();
    for (id, entry) in in_use(backends) {
        let hop = next_hop(network, host, (entry.addr, mode_of(entry)), &mut plan.unattached);
        if backends::written_hop(entry) != hop {
            plan.operations.push(Operation::SetNextHop(id, hop));
        }
    }
    plan
}

/// The next hop towards a backend, if the data plane can send there.
fn next_hop(
    network: &Network,
    host: &Host,
    (addr, mode): (AddrBytes, Mode),
    unattached: &mut BTreeSet<(IpAddr, u32)>,
) -> Option<NextHop> {
    let addr = addr::from_bytes(addr);
    let mut hop = *network.next_hops.get(&addr)?;
    let port_of = |port: &u32| network.bridges.ports.get(port).map(|port| port.bridge);
    if network.bridges.is_bridge(hop.ifindex)
        && (!host.attached.contains(&hop.ifindex)
            || host.attached.iter().any(|port| port_of(port) == Some(hop.ifindex)))
    {
        let station = Station { bridge: hop.ifindex, mac: hop.destination };
        let Some(port) = network.bridges.port_to(station) else {
            unattached.insert((addr, hop.ifindex));
            return None;
        };
        hop.ifindex = port;
    }
    let mut leaving = network.leaving(|ifindex| host.attached.contains(&ifindex));
    if let Some((_, leaving)) = leaving.find(|(index, _)| *index == hop.ifindex) {
        (hop.ifindex, hop.vlan) = (leaving.ifindex, leaving.vlan);
    }
    if !host.attached.contains(&hop.ifindex) {
        unattached.insert((addr, hop.ifindex));
        return None;
    }
    let mtu = if host.merges { 0 } else { hop.mtu.saturating_sub(mode.overhead(addr)) };
    Some(NextHop { mtu, ..hop })
}

/// New prefixes are written before old ones go.
fn check_prefixes(model: &Model, snapshot: &Snapshot) -> Result<(), CapacityError> {
    let new = model.firewall.deny_sources.iter().filter(|net| !snapshot.denied.contains(net));
    let all: BTreeSet<_> = snapshot.denied.iter().chain(new).collect();
    let v4 = all.iter().filter(|net| matches!(net, IpNet::V4(_))).count();
    let most = v4.max(all.len() - v4);
    if most > limits::DENY_PREFIXES as usize {
        return Err(CapacityError::Prefixes(most));
    }
    Ok(())
}

/// Identity of every service of the snapshot.
fn service_identities(snapshot: &Snapshot) -> BTreeMap<ServiceId, ServiceIdentity> {
    snapshot.services.iter().map(|(&id, entry)| (id, ServiceIdentity::read(entry))).collect()
}

/// Identity of every backend of the model, in its order.
fn backend_identities(model: &Model) -> impl Iterator<Item = BackendIdentity> {
    model.services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| BackendIdentity::of(service, backend))
    })
}

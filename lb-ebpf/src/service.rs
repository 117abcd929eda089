//! Who answers for an address and port.

use core::ptr::read_volatile;

use lb_common::{
    limits,
    service::{Address, EndpointKind, Service, address_flags, endpoint_bucket, flags},
};

use crate::{
    env::Env,
    family::Family,
    maps::{ADDRESSES, ENDPOINTS, SERVICES},
    parse::Packet,
};

/// A service and its id.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Number of the service.
    pub id: u16,
    /// Its entry.
    pub service: &'static Service,
}

impl Found {
    /// Whether an affinity key need not contain the destination port.
    #[inline(always)]
    pub(crate) fn one_port(&self) -> bool {
        self.service.flags & flags::RANGE == 0
    }

    /// Whether the other node of a pair may come to serve it.
    #[inline(always)]
    pub(crate) fn in_group(&self) -> bool {
        self.service.group != 0
    }

    /// Until when it takes no new flows, see [`lb_common::service::quota`].
    #[inline(always)]
    pub(crate) fn full_until(&self) -> u16 {
        // SAFETY: a map element; the agent changes it in place, and words are read whole.
        unsafe { read_volatile(&raw const self.service.full_until) }
    }

    /// Whether the affinity table has nothing of its flows.
    #[inline(always)]
    pub(crate) fn untracked(&self) -> bool {
        self.service.flags & flags::UNTRACKED != 0
    }

    /// Whether all flows of a client stay together.
    #[inline(always)]
    pub(crate) fn by_client(&self) -> bool {
        self.service.flags & flags::CLIENT != 0
    }
}

/// Looks an endpoint key up in the bank in force: one probe of one line.
#[inline(always)]
pub(crate) fn endpoint(env: &Env, key: u64) -> Option<u32> {
    let bucket = endpoint_bucket(key, env.generation.endpoint_salt) & env.generation.endpoint_mask;
    let line = ENDPOINTS.get(env.bank * limits::ENDPOINT_BUCKETS + bucket)?;
    if line.keys[0] == key {
        Some(line.ids[0])
    } else if line.keys[1] == key {
        Some(line.ids[1])
    } else if line.keys[2] == key {
        Some(line.ids[2])
    } else if line.keys[3] == key {
        Some(line.ids[3])
    } else {
        None
    }
}

/// The entry of a service.
#[inline(always)]
pub(crate) fn entry(env: &Env, id: u16) -> Option<&'static Service> {
    SERVICES.get(index(env, id))
}

/// Index of the entry of a service.
#[inline(always)]
pub(crate) fn index(env: &Env, id: u16) -> u32 {
    env.bank * limits::SERVICES + u32::from(id)
}

/// The service of exactly this address, port and protocol.
#[inline(always)]
pub(crate) fn exact<F: Family>(env: &Env, packet: &Packet<F>) -> Option<Found> {
    let (addr, port) = (packet.destination, packet.destination_port());
    if !Env::may_contain::<F>(&env.generation.addresses, addr) {
        return None;
    }
    let salt = env.generation.endpoint_salt;
    let id = endpoint(env, F::endpoint_key(EndpointKind::Service, addr, port, packet.proto, salt))?
        as u16;
    let service = entry(env, id)?;
    (F::EXACT || F::equals(addr, &service.vip)).then_some(Found { id, service })
}

/// The service of a packet of a client's: that of exactly its port, else of a range of ports.
#[inline(always)]
pub(crate) fn of<F: Family>(env: &Env, packet: &Packet<F>) -> Option<Found> {
    if let Some(found) = exact(env, packet) {
        return Some(found);
    }
    let address = address::<F>(env, packet.destination)?;
    ranged(env, address, packet.proto, packet.destination_port())
}

/// The address entry of a destination: a VIP or one of the host's own.
#[inline(always)]
pub(crate) fn address<F: Family>(env: &Env, addr: F::Addr) -> Option<&'static Address> {
    if !Env::may_contain::<F>(&env.generation.addresses, addr) {
        return None;
    }
    let key = F::endpoint_key(EndpointKind::Address, addr, 0, 0, env.generation.endpoint_salt);
    let entry = ADDRESSES.get(env.bank * limits::ADDRESSES + endpoint(env, key)?)?;
    (F::EXACT || F::equals(addr, &entry.addr)).then_some(entry)
}

/// Whether a destination is one of this host's own addresses.
#[inline(always)]
pub(crate) fn is_host<F: Family>(env: &Env, addr: F::Addr) -> bool {
    address::<F>(env, addr).is_some_and(|entry| entry.flags & address_flags::HOST != 0)
}

/// The service of a VIP whose range of ports contains the packet's.
#[inline(always)]
pub(crate) fn ranged(env: &Env, address: &Address, proto: u8, port: u16) -> Option<Found> {
    let port = u16::from_be(port);
    let mut i = 0;
    while i < lb_common::service::RANGES {
        if i as u32 >= address.range_count {
            break;
        }
        let range = &address.ranges[i];
        if range.proto == proto && range.first <= port && port <= range.last {
            let service = entry(env, range.service)?;
            return Some(Found { id: range.service, service });
        }
        i += 1;
    }
    None
}

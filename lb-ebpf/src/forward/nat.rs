//! Mode `nat`: destination rewritten towards the backend, source rewritten
//! back in replies. Checksums follow by the differences that the agent
//! computed for each backend (RFC 1624).
//!
//! Replies need no state: address, port and protocol of a backend name its
//! service. Only where services share a backend and port does each flow get
//! an exact entry, kept in the affinity table under the shared address.

use lb_common::{
    backend::{Backend, flags},
    change::Mark,
    config::features,
    csum,
    flow::{FlowState, Timeouts},
    hash,
    service::{EndpointKind, Service, flags as service_flags},
    stats::Counter,
    tcp,
    trace::steps,
};

use crate::{
    affinity, changes, count,
    env::{self, Env},
    family::Family,
    handshake,
    maps::{BACKENDS, CONFIG},
    nexthop::{self, Way},
    packet::{Frame, load, store},
    parse::{Packet, TCP},
    select::{self, Chosen},
    service::{self, Found},
    synproxy,
    verdict::{PASS, Verdict},
};

/// Position of the checksum in a TCP or UDP header.
pub(crate) const TCP_CHECKSUM: usize = 16;
/// See [`TCP_CHECKSUM`].
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Rewrites the destination of a client's packet, one hop older.
#[inline(always)]
pub(crate) fn to_backend<F: Family>(packet: &Packet<F>, backend: &Backend) {
    F::set_destination(packet.l3, &backend.addr);
    F::age(packet.l3, backend.aged_delta);
    if backend.port != 0 {
        store(packet.l4 + 2, backend.port);
    }
    update_checksum(packet, backend.l4_delta);
}

/// Rewrites the source of a backend's packet, one hop older.
#[inline(always)]
fn to_client<F: Family>(packet: &Packet<F>, backend: &Backend, service: &Service) {
    F::set_source(packet.l3, &service.vip);
    F::age(packet.l3, csum::aged(!backend.ip_delta));
    if service.flags & service_flags::RANGE == 0 {
        store(packet.l4, service.port);
    }
    update_checksum(packet, !backend.l4_delta);
}

/// Applies a delta to the checksum of TCP or UDP.
#[inline(always)]
pub(crate) fn update_checksum<F: Family>(packet: &Packet<F>, delta: u16) {
    if packet.proto == TCP {
        let at = packet.l4 + TCP_CHECKSUM;
        store(at, csum::apply(load(at), delta));
    } else {
        let at = packet.l4 + UDP_CHECKSUM;
        store(at, csum::update_udp(load(at), delta));
    }
}

/// The backend whose packet this would be, by its source.
#[inline(always)]
pub(crate) fn owner<F: Family>(env: &Env, addr: F::Addr, port: u16, proto: u8) -> Option<Chosen> {
    if !Env::may_contain::<F>(&env.generation.repliers, addr) {
        return None;
    }
    let salt = env.generation.endpoint_salt;
    let mut id =
        service::endpoint(env, F::endpoint_key(EndpointKind::Reply, addr, port, proto, salt));
    if id.is_none() && env.uses(features::NAT_ANY_PORT) {
        id = service::endpoint(env, F::endpoint_key(EndpointKind::Reply, addr, 0, proto, salt));
    }
    let id = id?;
    let backend = BACKENDS.get(id)?;
    (F::EXACT || F::equals(addr, &backend.addr)).then_some(Chosen { id: id as u16, backend })
}

/// Whether a service's backends reply from this port (network byte order),
/// where packets keep theirs.
#[inline(always)]
pub(crate) fn replies_from(service: &Service, port: u16) -> bool {
    let port = u16::from_be(port);
    service.flags & service_flags::RANGE == 0
        || (u16::from_be(service.port_first) <= port && port <= u16::from_be(service.port_last))
}

/// Whether a packet would be rewritten as a reply.
#[inline(always)]
pub(crate) fn is_reply<F: Family>(env: &Env, packet: &Packet<F>) -> bool {
    env.uses(features::NAT)
        && owner::<F>(env, packet.source, packet.source_port(), packet.proto).is_some()
        && !service::is_host::<F>(env, packet.destination)
}

/// Rewrites and forwards a reply; `None`: not a reply of a service.
#[inline(always)]
pub(crate) fn reply<F: Family>(env: &Env, packet: &Packet<F>) -> Option<Verdict> {
    let (owner, service) = replying(env, packet)?;
    synproxy::go_on(env, packet.proto, service);
    send_reply(env, packet, &owner, service)
}

/// The backend whose reply this is, and its service.
#[inline(always)]
pub(crate) fn replying<F: Family>(
    env: &Env,
    packet: &Packet<F>,
) -> Option<(Chosen, &'static Service)> {
    let mut owner = owner::<F>(env, packet.source, packet.source_port(), packet.proto)?;
    // An answer to this host's own connection to the backend (a probe, say)
    // is not a reply of the service.
    if service::is_host::<F>(env, packet.destination) {
        return None;
    }
    if owner.backend.shared_salt != 0 {
        let ports = hash::ports(packet.destination_port(), packet.source_port());
        // A flow that is older than the sharing is the first owner's.
        if let Some(exact) = bound::<F>(env, packet.destination, ports, owner.backend) {
            owner = exact;
        }
    }
    let service = service::entry(env, owner.backend.service)?;
    replies_from(service, packet.source_port()).then_some((owner, service))
}

/// Rewrites and forwards the reply of a backend; `None`: it is for this host.
#[inline(always)]
pub(crate) fn send_reply<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    owner: &Chosen,
    service: &Service,
) -> Option<Verdict> {
    let way = nexthop::towards_client(env, packet, &service.vip);
    match way {
        Way::Local => return None,
        Way::None => return Some(Verdict::drop(Counter::NoNextHop)),
        // The kernel tells the backend, which knows the packet as it is.
        Way::TooBig if F::never_fragmented(packet.l3) => return Some(PASS),
        _ => {}
    }
    if !F::may_go_on(packet.l3) {
        return Some(Verdict::drop(Counter::TtlExceeded));
    }
    to_client(packet, owner.backend, service);
    env.note(|record| {
        record.steps |= steps::REPLY;
        (record.backend, record.service) = (owner.id, owner.backend.service);
    });
    count::replied(env, owner.id, packet.frame.length());
    handshake::end(env, packet, owner, service);
    Some(leave(env, packet.frame, way))
}

/// Sends a frame that is ready for its client.
#[inline(always)]
pub(crate) fn leave(env: &Env, frame: Frame, way: Way) -> Verdict {
    match way {
        Way::Hop(hop) => nexthop::send(env, frame, hop),
        _ => Verdict::pass(Counter::HandedOver),
    }
}

/// The backend that a client's flow has bound at the shared address of another.
/// `ports`: the client's in the low, the backend's in the high half.
#[inline(always)]
pub(crate) fn bound<F: Family>(
    env: &Env,
    client: F::Addr,
    ports: u32,
    shared: &Backend,
) -> Option<Chosen> {
    let id = lb_bound(reply_key::<F>(env, client, ports, shared));
    let backend = BACKENDS.get(id as u32)?;
    let serves = backend.flags & flags::SERVING != 0 && backend.shared_salt == shared.shared_salt;
    serves.then_some(Chosen { id: id as u16, backend })
}

/// Key of a client's flow at the shared address of a backend.
#[inline(always)]
fn reply_key<F: Family>(env: &Env, client: F::Addr, ports: u32, shared: &Backend) -> u64 {
    let (client, seed) = (F::words(client), env.config.place_seed);
    hash::reply_key(hash::flow_key_hashed(client, ports, shared.shared_salt, seed))
}

/// Id of the backend bound under `key`, 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_bound(key: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else {
        return 0;
    };
    let at = affinity::position(config, key);
    let known = affinity::find(&at, env::now(config)).live();
    known.map_or(0, |entry| entry.flow.backend().into())
}

/// Notes which service a client's flow to a shared address belongs to.
/// `false`: the same client port holds the backend's port for another service's
/// flow, so replies could not be told apart.
#[inline(always)]
pub(crate) fn bind_reply<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    chosen: &Chosen,
    found: &Found,
) -> bool {
    let backend = chosen.backend;
    let port = if backend.port != 0 { backend.port } else { packet.destination_port() };
    let ports = hash::ports(packet.source_port(), port);
    let key = reply_key::<F>(env, packet.source, ports, backend);
    let event = u64::from(packet.tcp_flags)
        | u64::from(packet.proto) << 8
        | u64::from(env.explains) << 16
        | u64::from(found.in_group()) << 24;
    let timeouts = select::timeouts(found.service).to_raw();
    lb_bind_reply(key, u64::from(chosen.id), event, timeouts) != 0
}

/// `event`: TCP flags, protocol, whether the run only explains, and whether the
/// service is in a group, a byte each.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_bind_reply(key: u64, backend: u64, event: u64, timeouts: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else {
        return 0;
    };
    let timeouts = Timeouts::from_raw(timeouts);
    let (backend, now) = (backend as u16, env::now(config));
    let (explains, in_group) = (event >> 16 & 1 != 0, event >> 24 != 0);
    let at = affinity::position(config, key);
    let (proto, tcp_flags) = ((event >> 8) as u8, event as u8);
    let known = affinity::find(&at, now);
    if let Some(entry) = known.live() {
        let next = select::next_state(proto, tcp_flags, entry.flow.state());
        let same = entry.flow.backend() == backend;
        match next {
            Some(_) if same && explains => return 1,
            Some(state) if same => {
                if entry.touch(now, state, timeouts) && in_group {
                    changes::mark(&at, Mark::Exception);
                }
                return 1;
            }
            _ if !same && entry.flow.state() == FlowState::Established as u8 => return 0,
            _ => {}
        }
    }
    if explains {
        return 1;
    }
    let opens = proto == TCP && tcp::opens(tcp_flags);
    let slot = known.slot();
    let moves = slot.is_some_and(|entry| entry.is_of_another(backend));
    let exception = in_group && (!opens || moves);
    let recorded = affinity::record(&at, slot, backend, exception, now, timeouts);
    if recorded && exception {
        changes::mark(&at, Mark::Exception);
    }
    u64::from(recorded)
}

//! Times handshakes where the service wants it, see [`lb_common::handshake`].
//! Global functions, so that who does not want it pays for a test of a flag.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::{
    handshake::{self, Begun},
    hash,
    service::{Service, flags},
    tcp,
};

use crate::{
    count,
    env::Env,
    family::Family,
    maps::{CONFIG, HANDSHAKES},
    parse::{Packet, TCP},
    select::Chosen,
    service::Found,
};

/// Notes the moment of a client's SYN. This comes before a backend is selected:
/// afterwards more must be kept over the call than there is stack for.
#[inline(always)]
pub(crate) fn begin<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) {
    if is_timed(env, packet, found.service) && tcp::opens(packet.tcp_flags) {
        let [high, low] = F::words(packet.source);
        lb_begin_handshake(high, low, packet.ports.into(), found.service.salt);
    }
}

/// Counts how long the backend took, if the packet is its SYN-ACK.
#[inline(always)]
pub(crate) fn end<F: Family>(env: &Env, packet: &Packet<F>, owner: &Chosen, service: &Service) {
    if is_timed(env, packet, service) && tcp::accepts(packet.tcp_flags) {
        let [high, low] = F::words(packet.destination);
        // As the client sees them.
        let port = if service.port != 0 { service.port } else { packet.source_port() };
        let ports = hash::ports(packet.destination_port(), port);
        lb_end_handshake(high, low, ports.into(), service.salt, owner.id.into());
    }
}

#[inline(always)]
fn is_timed<F: Family>(env: &Env, packet: &Packet<F>, service: &Service) -> bool {
    packet.proto == TCP && service.flags & flags::TIMED != 0 && !env.explains
}

/// `high` and `low` are the client's address; ports are as the client sees them;
/// `salt` is the service's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_begin_handshake(high: u64, low: u64, ports: u64, salt: u64) -> u64 {
    let Some((key, place)) = find([high, low], ports as u32, salt) else { return 0 };
    // SAFETY: a map element; aligned words are read and written whole.
    unsafe {
        if !Begun(read_volatile(place)).is_of(key) {
            write_volatile(place, Begun::new(key, now()).0);
        }
    }
    0
}

/// The same flow; `backend` is who answers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_end_handshake(high: u64, low: u64, ports: u64, salt: u64, backend: u64) -> u64 {
    let Some((key, place)) = find([high, low], ports as u32, salt) else { return 0 };
    // SAFETY: a map element; aligned words are read and written whole.
    let begun = Begun(unsafe { read_volatile(place) });
    if begun.is_of(key) {
        // SAFETY: as above.
        unsafe { write_volatile(place, Begun::EMPTY.0) };
        if let Some(took) = begun.took(now()) {
            count::handshake(backend as u32, took);
        }
    }
    0
}

/// A flow's key and the place of its entry.
#[inline(always)]
fn find(client: [u64; 2], ports: u32, salt: u64) -> Option<(u64, *mut u64)> {
    let key = hash::flow_key_hashed(client, ports, salt, CONFIG.get(0)?.place_seed);
    Some((key, HANDSHAKES.get_ptr_mut(handshake::index(key))?))
}

/// Microseconds, modulo 2^32.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_ns() } / 1000) as u32
}

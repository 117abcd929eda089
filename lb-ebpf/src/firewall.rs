//! Who may reach what: denied sources, ports of VIPs, the host itself.

use aya_ebpf::{EbpfContext as _, helpers::generated as helpers, programs::XdpContext};
use lb_common::{
    config::features,
    firewall::allow_index,
    hash,
    service::{Address, address_flags},
    stats::Counter,
};

use crate::{
    env::Env,
    family::{Family, V4, V6},
    maps::{ALLOW, DENY_V4, DENY_V6, TrieKey},
    parse::{Packet, TCP, UDP},
    probe, service,
    verdict::{PASS, Verdict},
};

/// Whether `firewall.deny_sources` contains the source.
#[inline(always)]
pub(crate) fn denied<F: Family>(env: &Env, packet: &Packet<F>) -> bool {
    let feature = if F::EXACT { features::DENY_V4 } else { features::DENY_V6 };
    env.uses(feature) && in_trie::<F>(F::words(packet.source))
}

#[inline(never)]
fn in_trie<F: Family>(words: [u64; 2]) -> bool {
    if F::EXACT {
        DENY_V4.get(&TrieKey::new(32, words[0] as u32)).is_some()
    } else {
        DENY_V6.get(&TrieKey::new(128, words)).is_some()
    }
}

/// Whether a packet for a service cannot come from where it says: no host has this
/// address, or it is one of a VIP, which clients have not. (From the very VIP and port
/// that it is for, this is known as LAND; from another one of ours, services would be
/// set to answer each other.) The host may speak from a VIP, but is not heard here.
#[inline(always)]
pub(crate) fn is_spoofed<F: Family>(env: &Env, packet: &Packet<F>) -> bool {
    let [high, low] = F::words(packet.source);
    F::impossible_source(packet.source)
        || Env::may_contain::<F>(&env.generation.addresses, packet.source)
            && lb_is_vip(F::EXACT.into(), high, low) != 0
}

/// `v4`: whether `high` is an address of IPv4, else it and `low` are one of IPv6. Not on
/// the fast path, so it stands as a global function, which takes no stack there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_is_vip(v4: u64, high: u64, low: u64) -> u64 {
    let Some(env) = Env::without_packet() else { return 0 };
    let address = if v4 != 0 {
        service::address::<V4>(&env, high as u32)
    } else {
        service::address::<V6>(&env, [high, low])
    };
    address.is_some_and(|address| address.flags & address_flags::VIP != 0).into()
}

/// Whether `firewall.allow` names the packet's destination port.
#[inline(always)]
fn allowed<F: Family>(env: &Env, packet: &Packet<F>) -> bool {
    let port = u16::from_be(packet.destination_port());
    match ALLOW.get(allow_index(env.bank, packet.proto == TCP, port)) {
        Some(word) => word.bits >> (port & 63) & 1 != 0,
        None => false,
    }
}

/// A packet to an address of ours that no service wants.
#[inline(always)]
pub(crate) fn unclaimed<F: Family>(env: &Env, packet: &Packet<F>, address: &Address) -> Verdict {
    if address.flags & address_flags::VIP == 0 && !env.uses(features::GUARD_HOST) {
        return PASS;
    }
    if allowed(env, packet) {
        return PASS;
    }
    let (own, reason) = if address.flags & address_flags::VIP != 0 {
        // The host may itself speak from a VIP that it holds.
        (address.flags & address_flags::HOST != 0, Counter::PortNotAllowed)
    } else {
        (true, Counter::HostProtected)
    };
    if own && (opened_by_host(env, packet) || probe::is_answer(packet)) {
        PASS
    } else {
        Verdict::drop(reason)
    }
}

/// A packet without usable ports, dropped for `reason` (the number of a
/// [`Counter`]) if it is for a VIP.
///
/// To the host itself, protected or not, it passes: a later fragment is
/// nothing without its first, which is judged by its ports, what is damaged the
/// host drops itself, and protocols other than TCP, UDP and ICMP cannot be
/// named in `firewall.allow`. Only what hides its ports behind more headers
/// than are walked does not.
#[inline(always)]
pub(crate) fn portless(env: &Env, address: Option<&Address>, reason: u32) -> Verdict {
    let hidden = reason == Counter::ExtensionHeaders as u32;
    match address {
        Some(address) if address.flags & address_flags::VIP != 0 => Verdict::drop_for(reason),
        Some(_) if hidden && env.uses(features::GUARD_HOST) => {
            Verdict::drop(Counter::HostProtected)
        }
        _ => PASS,
    }
}

/// A first fragment that does not hold the ports: of TCP and UDP that is on
/// purpose (RFC 1858, section 3).
#[inline(always)]
pub(crate) fn headless_fragment(env: &Env, proto: u8, address: &Address) -> Verdict {
    if address.flags & address_flags::VIP != 0 {
        Verdict::drop(Counter::Fragment)
    } else if (proto == TCP || proto == UDP) && env.uses(features::GUARD_HOST) {
        Verdict::drop(Counter::HostProtected)
    } else {
        PASS
    }
}

/// `struct bpf_sock_tuple` of `linux/bpf.h`, the larger (IPv6) form.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SocketTuple<A: Copy> {
    pub source: A,
    pub destination: A,
    pub ports: u32,
}

/// `TCP_LISTEN` of `net/tcp_states.h`.
const LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`.
pub(crate) const CURRENT_NETNS: u64 = u64::MAX;

/// Ports of the server and the client of DHCP (RFC 2131, section 4.1) and
/// DHCPv6 (RFC 8415, section 7.2), as in [`Packet::ports`]. Clients need no
/// socket that can be found, and without them a host loses its address.
const DHCP: [u32; 2] =
    [hash::ports(67u16.to_be(), 68u16.to_be()), hash::ports(547u16.to_be(), 546u16.to_be())];

/// Whether the host has a socket that waits for just this packet: a TCP socket
/// that does not merely listen, a connected UDP socket, or a UDP socket bound
/// to a port of the range for outgoing connections.
#[inline(never)]
fn opened_by_host<F: Family>(env: &Env, packet: &Packet<F>) -> bool {
    let ctx = XdpContext::new(env.ctx).as_ptr();
    let mut tuple =
        SocketTuple { source: packet.source, destination: packet.destination, ports: packet.ports };
    let size = if F::EXACT { 12 } else { 36 };
    let tuple = (&raw mut tuple).cast();
    if packet.proto == TCP {
        // SAFETY: context and tuple are valid; since Linux 5.3.
        let socket = unsafe { helpers::bpf_skc_lookup_tcp(ctx, tuple, size, CURRENT_NETNS, 0) };
        if socket.is_null() {
            return false;
        }
        // SAFETY: a socket was found; it is released below.
        let opened = unsafe { (*socket).state } != LISTEN;
        // SAFETY: acquired above.
        unsafe { helpers::bpf_sk_release(socket.cast()) };
        return opened;
    }
    if DHCP.contains(&packet.ports) {
        return true;
    }
    // SAFETY: as above; since Linux 4.20.
    let socket = unsafe { helpers::bpf_sk_lookup_udp(ctx, tuple, size, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: a socket was found; it is released below.
    let connected = unsafe { (*socket).dst_port } != 0;
    // SAFETY: acquired above.
    unsafe { helpers::bpf_sk_release(socket.cast()) };
    let port = u16::from_be(packet.destination_port());
    connected || (env.generation.ephemeral_low <= port && port <= env.generation.ephemeral_high)
}

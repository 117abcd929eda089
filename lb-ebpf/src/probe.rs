//! Probes of `dsr` services, see [`lb_common::probe`]: two programs of traffic
//! control, attached for as long as an agent makes such probes. They only
//! rewrite; what becomes of a packet is for others to decide.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated as helpers,
    macros::classifier,
    programs::TcContext,
};
use lb_common::{
    limits,
    probe::{self, Probed},
    service::flags,
};
use network_types::eth::EthHdr;

use crate::{
    family::{Family, V4, V6},
    firewall::{CURRENT_NETNS, SocketTuple},
    forward::nat::{TCP_CHECKSUM, UDP_CHECKSUM},
    icmp,
    maps::{CONFIG, PROBES, SERVICES},
    parse::{IPV4, IPV6, Packet, TCP, UDP},
};

/// `TCX_NEXT` of `linux/bpf.h`: the next program has its turn.
const NEXT: i32 = -1;

/// What leaves the host.
#[classifier]
fn lb_probe_out(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for the whole run.
    let (mark, protocol) = unsafe { ((*skb).mark, (*skb).protocol as u16) };
    if let Some(service) = probe::service(mark) {
        let _ = match protocol {
            IPV4 => to_vip::<V4>(skb, service),
            IPV6 => to_vip::<V6>(skb, service),
            _ => None,
        };
    }
    NEXT
}

/// What comes to the host, after the packet path.
#[classifier]
fn lb_probe_in(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for the whole run.
    let _ = match unsafe { (*skb).protocol as u16 } {
        IPV4 => from_vip::<V4>(skb),
        IPV6 => from_vip::<V6>(skb),
        _ => None,
    };
    NEXT
}

/// Whether the packet looks like the answer to a probe for a VIP.
#[inline(never)]
pub(crate) fn is_answer<F: Family>(packet: &Packet<F>) -> bool {
    let probed = Probed {
        vip: F::words(packet.source),
        local: F::words(packet.destination),
        ports: packet.ports,
        proto: u32::from(packet.proto),
    };
    PROBES.get_ptr(probed).is_some()
}

/// Sends a probe to the VIP and remembers whom it was for.
#[inline(always)]
fn to_vip<F: Family>(skb: *mut __sk_buff, service: u16) -> Option<()> {
    let bank = CONFIG.get(0)?.active & 1;
    let service = SERVICES.get(bank * limits::SERVICES + u32::from(service))?;
    if service.flags & flags::IN_USE == 0 {
        return None;
    }
    let packet = Headers::<F>::read(skb, EthHdr::LEN as u32)?;
    let vip = F::from_bytes(&service.vip);
    let probed = Probed {
        vip: F::words(vip),
        local: F::words(packet.source),
        ports: packet.ports.rotate_left(16),
        proto: u32::from(packet.proto),
    };
    PROBES.insert(probed, F::words(packet.destination), 0).ok()?;
    let delta = delta::<F>(packet.destination, vip);
    packet.update_checksums(skb, delta)?;
    set_address::<F>(skb, packet.l3 + destination::<F>(), vip)
}

/// Makes an answer to a probe one from the backend, also an ICMP error.
#[inline(always)]
fn from_vip<F: Family>(skb: *mut __sk_buff) -> Option<()> {
    let packet = Headers::<F>::read(skb, EthHdr::LEN as u32)?;
    if packet.proto == F::ICMP {
        return translate_quote(skb, &packet);
    }
    let backend = probed_backend(skb, packet.source, packet.destination, &packet)?;
    packet.update_checksums(skb, delta::<F>(packet.source, backend))?;
    set_address::<F>(skb, packet.l3 + source::<F>(), backend)
}

/// Of an ICMP error about a probe: the socket is found by what is quoted.
#[inline(always)]
fn translate_quote<F: Family>(skb: *mut __sk_buff, packet: &Headers<F>) -> Option<()> {
    // Its first four bytes were taken for ports: type, code, checksum.
    if !icmp::is_error::<F>(packet.ports.to_ne_bytes()[0]) {
        return None;
    }
    let mut quote = Headers::<F>::read(skb, packet.l4 + 8)?;
    quote.ports = quote.ports.rotate_left(16);
    let backend = probed_backend(skb, quote.destination, quote.source, &quote)?;
    let delta = delta::<F>(quote.destination, backend);
    if F::EXACT {
        // With its own checksum, the quoted header's sum stays what it is, and
        // so does the message's checksum.
        update_header_checksum(skb, quote.l3, delta)?;
    } else {
        // SAFETY: the context is valid; the helper checks the offset.
        done(unsafe { helpers::bpf_l4_csum_replace(skb, packet.l4 + 2, 0, delta, 0) })?;
    }
    set_address::<F>(skb, quote.l3 + destination::<F>(), backend)
}

/// The backend that is probed by this flow, and by a socket of this host: what
/// is remembered may be of one that is gone. `packet` has the ports of an answer.
#[inline(always)]
fn probed_backend<F: Family>(
    skb: *mut __sk_buff,
    vip: F::Addr,
    local: F::Addr,
    packet: &Headers<F>,
) -> Option<F::Addr> {
    let (ports, proto) = (packet.ports, u32::from(packet.proto));
    let probed = Probed { vip: F::words(vip), local: F::words(local), ports, proto };
    // SAFETY: an entry of a flow always has the same value.
    let backend = F::from_words(*unsafe { PROBES.get(probed) }?);
    let mut tuple = SocketTuple { source: backend, destination: local, ports };
    let (tuple, size) = ((&raw mut tuple).cast(), if F::EXACT { 12 } else { 36 });
    // SAFETY: context and tuple are valid.
    let socket = unsafe {
        if packet.proto == TCP {
            helpers::bpf_sk_lookup_tcp(skb.cast(), tuple, size, CURRENT_NETNS, 0)
        } else {
            helpers::bpf_sk_lookup_udp(skb.cast(), tuple, size, CURRENT_NETNS, 0)
        }
    };
    if socket.is_null() {
        return None;
    }
    // SAFETY: acquired above.
    unsafe { helpers::bpf_sk_release(socket.cast()) };
    Some(backend)
}

/// What matters of the headers of a packet, which need not lie in one piece.
struct Headers<F: Family> {
    /// Offset of the IP header.
    l3: u32,
    /// Offset of what follows it.
    l4: u32,
    source: F::Addr,
    destination: F::Addr,
    /// As in [`Packet::ports`].
    ports: u32,
    proto: u8,
}

impl<F: Family> Headers<F> {
    /// Reads the headers at `l3`; `None`: not TCP, UDP or ICMP, or not its
    /// first fragment.
    #[inline(always)]
    fn read(skb: *mut __sk_buff, l3: u32) -> Option<Self> {
        // Room for either family.
        let mut header = [0u64; 5];
        load_bytes(skb, l3, header.as_mut_ptr().cast(), F::HEADER as u32)?;
        let at = header.as_ptr() as usize;
        let (length, proto) = F::quoted_header(at)?;
        if proto != TCP && proto != UDP && proto != F::ICMP {
            return None;
        }
        let l4 = l3 + length as u32;
        let mut ports = 0u32;
        load_bytes(skb, l4, (&raw mut ports).cast(), 4)?;
        Some(Self { l3, l4, source: F::source(at), destination: F::destination(at), ports, proto })
    }

    /// Brings the checksums in line with an address that changes by `delta`.
    #[inline(always)]
    fn update_checksums(&self, skb: *mut __sk_buff, delta: u64) -> Option<()> {
        let (at, flags) = if self.proto == UDP {
            (UDP_CHECKSUM, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0)
        } else {
            (TCP_CHECKSUM, BPF_F_PSEUDO_HDR)
        };
        let at = self.l4 + at as u32;
        // SAFETY: the context is valid; the helper checks the offset.
        done(unsafe { helpers::bpf_l4_csum_replace(skb, at, 0, delta, flags.into()) })?;
        if F::EXACT {
            return update_header_checksum(skb, self.l3, delta);
        }
        // Where the card summed the whole packet, the helper brings that sum in
        // line with the checksum, but not with the address: in IPv4 there is
        // the header's checksum to make up for it, here nothing. Elsewhere this
        // does nothing, so that it fails is fine.
        // SAFETY: the context is valid.
        unsafe { helpers::bpf_csum_update(skb, delta as u32) };
        Some(())
    }
}

/// Offset of the source address in the header.
#[inline(always)]
fn source<F: Family>() -> u32 {
    if F::EXACT { 12 } else { 8 }
}

/// Offset of the destination address in the header.
#[inline(always)]
fn destination<F: Family>() -> u32 {
    if F::EXACT { 16 } else { 24 }
}

/// What replacing an address adds to a checksum, as the kernel's helpers take it.
#[inline(always)]
fn delta<F: Family>(old: F::Addr, new: F::Addr) -> u64 {
    let (mut old, mut new) = (F::words(old), F::words(new));
    let (old, new) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
    // SAFETY: both are 16 bytes.
    unsafe { helpers::bpf_csum_diff(old, 16, new, 16, 0) as u32 }.into()
}

/// Of an IPv4 header.
#[inline(always)]
fn update_header_checksum(skb: *mut __sk_buff, l3: u32, delta: u64) -> Option<()> {
    // SAFETY: the context is valid; the helper checks the offset.
    done(unsafe { helpers::bpf_l3_csum_replace(skb, l3 + 10, 0, delta, 0) })
}

#[inline(always)]
fn set_address<F: Family>(skb: *mut __sk_buff, at: u32, address: F::Addr) -> Option<()> {
    let (address, size) = ((&raw const address).cast(), size_of::<F::Addr>() as u32);
    // SAFETY: the address is of that size; the helper checks the offset.
    done(unsafe { helpers::bpf_skb_store_bytes(skb, at, address, size, 0) })
}

#[inline(always)]
fn load_bytes(skb: *mut __sk_buff, at: u32, to: *mut c_void, size: u32) -> Option<()> {
    // SAFETY: callers have room for `size` bytes; the helper checks the offset.
    done(unsafe { helpers::bpf_skb_load_bytes(skb.cast(), at, to, size) })
}

/// What a helper's answer says: 0 is success.
#[inline(always)]
fn done(answer: i64) -> Option<()> {
    (answer == 0).then_some(())
}

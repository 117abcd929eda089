//! Tells a client why its packet goes no further: nobody serves it (TCP by a reset,
//! UDP by an ICMP error), or it is too long (by an ICMP error). The answer is built
//! in place and sent back the way the packet came.
//!
//! Not on the fast path, so it parses the frame anew and stands as a global
//! function, which the verifier judges once.

use aya_ebpf::{bindings::xdp_md, helpers::generated as helpers, programs::XdpContext};
use lb_common::{csum, pace, stats::Counter, tcp};
use network_types::tcp::TcpHdr;

use crate::{
    env::{self, Env},
    family::{Family, V6},
    maps::{CONFIG, REFUSALS},
    packet::{Frame, load, store, turn_around},
    parse::{self, Packet},
    verdict::Verdict,
};

/// Answers the packet, counted as `counter`. What must not be answered is
/// dropped, and what comes too often.
#[inline(always)]
pub(crate) fn answer(env: &Env, counter: Counter) -> Verdict {
    Verdict::from_raw(lb_refuse(env.ctx, counter as u64, env.explains.into(), 0))
}

/// Says that the packet is longer than the `mtu` bytes that the way carries; also to
/// who allows that it is cut (IPv4 without "don't fragment"), which nobody here can:
/// hosts then send shorter ones, fragments included.
#[inline(always)]
pub(crate) fn too_big(env: &Env, mtu: u32) -> Verdict {
    let (counter, explains) = (Counter::TooBig as u64, env.explains.into());
    Verdict::from_raw(lb_refuse(env.ctx, counter, explains, mtu.into()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_refuse(ctx: *mut xdp_md, counter: u64, explains: u64, mtu: u64) -> u64 {
    let (explains, mtu) = (explains != 0, mtu as u32);
    let frame = Frame::new(&XdpContext::new(ctx));
    let refused = match parse::link(frame) {
        Some((parse::IPV4, l3)) => ip(ctx, parse::ipv4(frame, l3), explains, mtu),
        Some((parse::IPV6, l3)) => ip(ctx, parse::ipv6(ctx, frame, l3), explains, mtu),
        _ => Err(Counter::Internal),
    };
    match refused {
        Ok(()) => Verdict::answer_for(counter as u32).to_raw(),
        Err(reason) => Verdict::drop(reason).to_raw(),
    }
}

#[inline(always)]
fn ip<F: Family>(
    ctx: *mut xdp_md,
    parsed: Result<Packet<F>, Counter>,
    explains: bool,
    mtu: u32,
) -> Result<(), Counter> {
    let packet = parsed?;
    if mtu == 0 && packet.proto == parse::TCP {
        return reset(ctx, &parse::tcp(packet)?, explains);
    }
    let about = if mtu == 0 { (F::PORT_UNREACHABLE, 0) } else { (F::TOO_BIG, F::next_mtu(mtu)) };
    error(ctx, &packet, about, explains)
}

/// Whether this CPU may refuse another packet already.
#[inline(always)]
fn pace(explains: bool) -> Result<(), Counter> {
    let (Some(config), Some(due)) = (CONFIG.get(0), REFUSALS.get_ptr_mut(0)) else {
        return Err(Counter::Internal);
    };
    let now = env::jiffies().wrapping_mul(config.tick_scale);
    // SAFETY: this CPU's element.
    match pace::admit(unsafe { *due }, now) {
        Some(next) => {
            if !explains {
                // SAFETY: as above.
                unsafe { *due = next };
            }
            Ok(())
        }
        None => Err(Counter::RefusalLimited),
    }
}

/// Makes the reset of a packet to a connection that does not exist (RFC 9293,
/// section 3.10.7.1).
#[inline(always)]
fn reset<F: Family>(ctx: *mut xdp_md, packet: &Packet<F>, explains: bool) -> Result<(), Counter> {
    let Packet { frame, l4, source, destination, tcp_flags, .. } = *packet;
    if tcp_flags & tcp::RST != 0 {
        return Err(Counter::NoBackend);
    }
    let header = usize::from(load::<u8>(l4 + 12) >> 4) * 4;
    let (sequence, acknowledged, flags): (u32, u32, u8) = if tcp_flags & tcp::ACK != 0 {
        (load(l4 + 8), 0, tcp::RST)
    } else {
        // A SYN, which counts: nothing else comes here without an acknowledgement.
        let data = (packet.length - header) as u32;
        let next = u32::from_be(load(l4 + 4)).wrapping_add(data + 1);
        (0, next.to_be(), tcp::RST | tcp::ACK)
    };
    pace(explains)?;
    cut(ctx, frame, packet.l3 + F::HEADER + TcpHdr::LEN)?;
    let frame = Frame::new(&XdpContext::new(ctx));
    let Some((_, l3)) = parse::link(frame) else { return Err(Counter::Internal) };
    let at = l3 + F::HEADER;
    if !frame.holds(l3, F::HEADER + TcpHdr::LEN) {
        return Err(Counter::Internal);
    }
    turn_around(frame.start, frame.start);
    F::write_header(l3, (destination, source), (parse::TCP, TcpHdr::LEN as u16), 0, 0);
    // Data offset and flags, window; checksum, urgent pointer.
    let words = [
        packet.ports.rotate_left(16),
        sequence,
        acknowledged,
        u32::from_ne_bytes([0x50, flags, 0, 0]),
        0,
    ];
    let mut sum = pseudo::<F>(source, destination, parse::TCP, TcpHdr::LEN as u16);
    let mut i = 0;
    while i < 5 {
        sum += csum::sum32(words[i]);
        store(at + 4 * i, words[i]);
        i += 1;
    }
    store(at + 16, !csum::fold(sum));
    Ok(())
}

/// Bytes of the fixed part of an ICMP message.
const ICMP_HEADER: usize = 8;

/// Makes the ICMP error of a packet (RFC 1812, section 5.2.7.1; RFC 4443, section
/// 3), `about` what: its type and code, and the word behind its checksum. Who it
/// must not be sent about or to (fragments, groups, impossible sources) does not
/// get here.
#[inline(always)]
fn error<F: Family>(
    ctx: *mut xdp_md,
    packet: &Packet<F>,
    about: (u32, u32),
    explains: bool,
) -> Result<(), Counter> {
    let Packet { frame, l3, source, destination, .. } = *packet;
    let link = l3 - frame.start;
    let whole = F::length(l3);
    let quote = if whole > F::QUOTE { F::QUOTE } else { whole };
    pace(explains)?;
    let grown = F::HEADER + ICMP_HEADER;
    cut(ctx, frame, l3 + quote)?;
    // SAFETY: the context is valid; since Linux 4.10.
    if unsafe { helpers::bpf_xdp_adjust_head(ctx, -(grown as i32)) } != 0 {
        return Err(Counter::NoBackend);
    }
    // Asked before the frame is looked at again: a call loses sight of it.
    let quote_sum = lb_sum_quote(ctx, (link + F::HEADER) as u64) as u32;
    let frame = Frame::new(&XdpContext::new(ctx));
    let old = Frame { start: frame.start + grown, ..frame };
    let Some((_, quoted)) = parse::link(old) else { return Err(Counter::Internal) };
    if !frame.holds(quoted, F::HEADER) {
        return Err(Counter::Internal);
    }
    turn_around(old.start, frame.start);
    // Tags, if any, and EtherType; what is too much becomes the header.
    let mut i = 12;
    while i < parse::LONGEST_LINK {
        store::<u16>(frame.start + i, load(old.start + i));
        i += 2;
    }
    let length = (ICMP_HEADER + quote) as u16;
    let (l3, l4) = (quoted - grown, quoted - ICMP_HEADER);
    F::write_header(l3, (destination, source), (F::ICMP, length), 0, 0);
    let mut sum = if F::EXACT { 0 } else { pseudo::<F>(source, destination, F::ICMP, length) };
    sum += csum::sum32(about.0) + csum::sum32(about.1) + quote_sum;
    store(l4, about.0);
    store(l4 + 4, about.1);
    store(l4 + 2, !csum::fold(sum));
    Ok(())
}

/// Sum of what the message quotes whose ICMP header is at byte `header` (below
/// 128): all that is behind it, as much as any error quotes at most. A global
/// function: the verifier goes through its loop once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_sum_quote(ctx: *mut xdp_md, header: u64) -> u64 {
    const WORDS: usize = V6::QUOTE / 4;
    let frame = Frame::new(&XdpContext::new(ctx));
    let mut at = frame.start + (header as usize & 127) + ICMP_HEADER;
    let mut sum = 0;
    let mut i = 0;
    while i < WORDS && frame.holds(at, 4) {
        sum += csum::sum32(load(at));
        at += 4;
        i += 1;
    }
    if frame.holds(at, 2) {
        sum += u32::from(load::<u16>(at));
        at += 2;
    }
    if frame.holds(at, 1) {
        // The missing half of the last word is 0 (RFC 1071).
        sum += u32::from(load::<u8>(at));
    }
    u64::from(sum)
}

/// Sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
#[inline(always)]
pub(crate) fn pseudo<F: Family>(
    source: F::Addr,
    destination: F::Addr,
    proto: u8,
    length: u16,
) -> u32 {
    let (source, destination) = (F::words(source), F::words(destination));
    csum::sum64(source[0])
        + csum::sum64(source[1])
        + csum::sum64(destination[0])
        + csum::sum64(destination[1])
        + u32::from(u16::from(proto).to_be())
        + u32::from(length.to_be())
}

/// Cuts the frame off at `end`.
#[inline(always)]
fn cut(ctx: *mut xdp_md, frame: Frame, end: usize) -> Result<(), Counter> {
    let excess = frame.left(end);
    // SAFETY: the context is valid; since Linux 4.18.
    match unsafe { helpers::bpf_xdp_adjust_tail(ctx, -(excess as i32)) } {
        0 => Ok(()),
        _ => Err(Counter::NoBackend),
    }
}

//! The segments that the SYN proxy makes of others, in place, and TCP options.

use aya_ebpf::{bindings::xdp_md, helpers::generated as helpers, programs::XdpContext};
use lb_common::{
    cookie::{self, Offer, UNSCALED, segment_size},
    csum,
    stats::Counter,
    synproxy::{announced, shift},
    tcp,
};
use network_types::tcp::TcpHdr;

use super::{ACKNOWLEDGEMENT, SEQUENCE, WINDOW, client::connection, number, period};
use crate::{
    env::Env,
    family::{Family, V4, V6},
    forward::nat,
    maps::OPTIONS,
    packet::{Frame, load, store, turn_around},
    parse::{self, Packet},
    refuse,
    verdict::Verdict,
};

/// Kinds of TCP options (RFC 9293, section 3.2; RFC 7323; RFC 2018).
const END: u8 = 0;
const NOTHING: u8 = 1;
const SIZE: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

/// Bytes of a TCP header with the options of [`options`].
const OPENING: usize = TcpHdr::LEN + 12;

/// What TCP options say; 0: nothing.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Options {
    /// Bytes of the longest segment.
    size: u32,
    /// Whether selective acknowledgements are taken.
    sack_permitted: u32,
    /// One more than how windows are shifted.
    scale: u32,
    /// Where blocks that are acknowledged begin in the TCP header, and how many words.
    sack: u32,
    sack_words: u32,
}

/// Options that are looked at, each byte of padding for one: twice as many as any stack
/// sends.
const MOST_OPTIONS: usize = 16;

/// What a SYN, or the answer to one, offers.
#[inline(always)]
pub(super) fn offer<F: Family>(env: &Env, packet: &Packet<F>) -> Offer {
    lb_tcp_options(env.ctx, (packet.l4 - packet.frame.start) as u64);
    let Some(options) = OPTIONS.get(0) else { return Offer::new(F::EXACT, 0, false, None) };
    let scale = (options.scale != 0).then(|| (options.scale - 1) as u8);
    Offer::new(F::EXACT, options.size as u16, options.sack_permitted != 0, scale)
}

/// Reads the options of the TCP header at byte `at` (below 4096) into [`OPTIONS`]. What is
/// found goes there at once: the verifier does not follow it through the loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_tcp_options(ctx: *mut xdp_md, at: u64) -> u64 {
    let Some(options) = OPTIONS.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element; nothing else on this CPU runs meanwhile.
    let options = unsafe { &mut *options };
    *options = Options { size: 0, sack_permitted: 0, scale: 0, sack: 0, sack_words: 0 };
    let frame = Frame::new(&XdpContext::new(ctx));
    let tcp = frame.start + (at as usize & 4095);
    if !frame.holds(tcp, TcpHdr::LEN) {
        return 0;
    }
    let header = usize::from(load::<u8>(tcp + 12) >> 4) * 4;
    let (mut offset, mut step) = (TcpHdr::LEN, 0);
    // Also the last one has two bytes at least, or says nothing.
    while step < MOST_OPTIONS && offset + 2 <= header {
        let at = tcp + (offset & 63);
        if !frame.holds(at, 2) {
            return 0;
        }
        let [kind, length]: [u8; 2] = load(at);
        if kind == NOTHING {
            offset += 1;
        } else {
            let length = usize::from(length);
            if kind == END || length < 2 || offset + length > header {
                return 0;
            }
            match (kind, length) {
                (SIZE, 4) if frame.holds(at, 4) => {
                    options.size = u16::from_be(load(at + 2)).into();
                }
                (SCALE, 3) if frame.holds(at, 3) => {
                    options.scale = u32::from(load::<u8>(at + 2)) + 1;
                }
                (SACK_PERMITTED, 2) => options.sack_permitted = 1,
                (SACK, _) => {
                    (options.sack, options.sack_words) = (offset as u32 + 2, length as u32 / 4);
                }
                _ => {}
            }
            offset += length;
        }
        step += 1;
    }
    0
}

/// Adds `offset` to what a client's packet acknowledges selectively: what that adds to its
/// checksum.
#[inline(always)]
pub(super) fn renumber_sack<F: Family>(env: &Env, packet: &Packet<F>, offset: u32) -> u32 {
    if load::<u8>(packet.l4 + 12) >> 4 == 5 {
        return 0;
    }
    let at = (packet.l4 - packet.frame.start) as u64;
    lb_tcp_options(env.ctx, at);
    lb_renumber_sack(env.ctx, at, offset.into()) as u32
}

/// The same of the TCP header at byte `at` (below 4096), whose options were read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_renumber_sack(ctx: *mut xdp_md, at: u64, offset: u64) -> u64 {
    let Some(options) = OPTIONS.get(0) else { return 0 };
    let frame = Frame::new(&XdpContext::new(ctx));
    let first = frame.start + (at as usize & 4095) + (options.sack as usize & 63);
    let (mut word, mut delta) = (0, 0);
    // Four blocks of two at most (RFC 2018, section 3).
    while word < 8 && word < options.sack_words as usize {
        let at = first + 4 * word;
        if !frame.holds(at, 4) {
            break;
        }
        let old: u32 = load(at);
        let new = u32::from_be(old).wrapping_add(offset as u32).to_be();
        store(at, new);
        delta += csum::delta32(old, new);
        word += 1;
    }
    let delta = csum::fold(delta);
    // Words that begin at odd positions count with their bytes exchanged (RFC 1071,
    // section 2 B).
    u64::from(if options.sack & 1 != 0 { delta.swap_bytes() } else { delta })
}

/// The options that are offered, as they lie in the frame; `size` in host byte order.
#[inline(always)]
fn options(size: u16, sack: bool, scale: u8) -> [u32; 3] {
    let [high, low] = size.to_be_bytes();
    let word = u32::from_ne_bytes;
    [
        word([SIZE, 4, high, low]),
        if sack { word([NOTHING, NOTHING, SACK_PERMITTED, 2]) } else { word([NOTHING; 4]) },
        if scale == UNSCALED { word([NOTHING; 4]) } else { word([NOTHING, SCALE, 3, scale]) },
    ]
}

/// Answers a SYN with a cookie.
#[inline(always)]
pub(super) fn answer<F: Family>(env: &Env, packet: &Packet<F>) -> Verdict {
    let offer = offer(env, packet);
    let of = connection(packet, number(packet.l4 + SEQUENCE));
    let cookie = cookie::make(env.config.place_seed, &of, offer, period());
    match lb_answer_syn(env.ctx, cookie.into()) {
        MADE => Verdict::answer(Counter::SynCookieSent),
        reason => Verdict::drop_for(reason as u32),
    }
}

/// Makes the SYN, with this number, of what confirms a cookie.
#[inline(always)]
pub(super) fn syn(env: &Env, offer: Offer, sequence: u32) -> Result<(), Counter> {
    made(lb_make_syn(env.ctx, offer.to_bits().into(), sequence.into()))
}

/// Makes what opens the client's window of a backend's answer to a SYN.
#[inline(always)]
pub(super) fn open_window(env: &Env, cookie: u32, window: u16) -> Result<(), Counter> {
    made(lb_open_window(env.ctx, cookie.into(), window.into()))
}

/// Gives a reset of our own the number that the client expects next.
#[inline(always)]
pub(super) fn reset_from(env: &Env, number: u32) {
    lb_reset_from(env.ctx, number.into());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_reset_from(ctx: *mut xdp_md, number: u64) -> u64 {
    let frame = Frame::new(&XdpContext::new(ctx));
    let at = match parse::link(frame) {
        Some((parse::IPV4, l3)) => l3 + V4::HEADER,
        Some((parse::IPV6, l3)) => l3 + V6::HEADER,
        _ => return 0,
    };
    if !frame.holds(at, TcpHdr::LEN) {
        return 0;
    }
    let (old, new): (u32, u32) = (load(at + SEQUENCE), (number as u32).to_be());
    store(at + SEQUENCE, new);
    let checksum = at + nat::TCP_CHECKSUM;
    store(checksum, csum::update(load(checksum), csum::delta32(old, new)));
    1
}

/// An answer of the functions below: the frame is what it should be.
const MADE: u64 = 0;

#[inline(always)]
fn made(answer: u64) -> Result<(), Counter> {
    if answer == MADE { Ok(()) } else { Err(Counter::NoHeadroom) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_answer_syn(ctx: *mut xdp_md, cookie: u64) -> u64 {
    either(ctx, Making::Answer(cookie as u32))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_make_syn(ctx: *mut xdp_md, offer: u64, sequence: u64) -> u64 {
    either(ctx, Making::Syn(Offer::from_bits(offer as u32), sequence as u32))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_open_window(ctx: *mut xdp_md, cookie: u64, window: u64) -> u64 {
    either(ctx, Making::Window(cookie as u32, window as u16))
}

/// What is made of a segment.
#[derive(Clone, Copy)]
enum Making {
    /// The answer to a SYN, with this cookie, which has the offer.
    Answer(u32),
    /// The SYN that a client must have sent, and its number.
    Syn(Offer, u32),
    /// What opens a window: the client's cookie, and how far.
    Window(u32, u16),
}

#[inline(always)]
fn either(ctx: *mut xdp_md, making: Making) -> u64 {
    let frame = Frame::new(&XdpContext::new(ctx));
    let made = match parse::link(frame) {
        Some((parse::IPV4, l3)) => make(ctx, parse::ipv4(frame, l3), making),
        Some((parse::IPV6, l3)) => make(ctx, parse::ipv6(ctx, frame, l3), making),
        _ => Err(Counter::Internal),
    };
    match made {
        Ok(()) => MADE,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn make<F: Family>(
    ctx: *mut xdp_md,
    parsed: Result<Packet<F>, Counter>,
    making: Making,
) -> Result<(), Counter> {
    let packet = parse::tcp(parsed?)?;
    let Packet { frame, l3, l4, source, destination, ports, .. } = packet;
    let (sequence, acknowledgement) = (number(l4 + SEQUENCE), number(l4 + ACKNOWLEDGEMENT));
    let window = u16::from_be(load(l4 + WINDOW));
    // What goes on is of the same class; an answer is of none.
    let class = if matches!(making, Making::Answer(_)) { 0 } else { F::traffic_class(l3) };
    let (v4, straight) = (F::EXACT, (source, destination));
    let (ends, ports, numbers, flags, window, options) = match making {
        Making::Answer(cookie) => {
            let offer = Offer::from_bits(cookie >> 23);
            let options = options(segment_size(v4, 3), offer.sack, announced(offer.scale));
            let numbers = (cookie, sequence.wrapping_add(1));
            let back = (destination, source);
            (back, ports.rotate_left(16), numbers, tcp::SYN | tcp::ACK, 0, Some(options))
        }
        Making::Syn(offer, sequence) => {
            let options = options(segment_size(v4, offer.size), offer.sack, offer.scale);
            // The window of a SYN is not shifted (RFC 7323, section 2.2).
            let window = shift(window, offer.scale, UNSCALED);
            let numbers = (sequence, 0);
            (straight, ports, numbers, tcp::SYN, window, Some(options))
        }
        Making::Window(cookie, window) => {
            (straight, ports, (cookie, acknowledgement), tcp::ACK, window, None)
        }
    };
    let header = if options.is_some() { OPENING } else { TcpHdr::LEN };
    // The one byte is 0, which adds nothing to the checksum.
    let length = if options.is_some() { OPENING } else { TcpHdr::LEN + 1 };
    let (have, want) = (frame.left(l3), F::HEADER + length);
    let frame = if have < want {
        lengthen(ctx)?;
        cut(ctx, have + MORE - want)?
    } else {
        cut(ctx, have - want)?
    };
    let Some((_, l3)) = parse::link(frame) else { return Err(Counter::Internal) };
    let at = l3 + F::HEADER;
    if let Making::Answer(_) = making {
        turn_around(frame.start, frame.start);
    }
    let words = [
        ports,
        numbers.0.to_be(),
        numbers.1.to_be(),
        u32::from_ne_bytes([(header as u8) << 2, flags, (window >> 8) as u8, window as u8]),
        0,
    ];
    let mut sum = refuse::pseudo::<F>(ends.0, ends.1, parse::TCP, length as u16);
    match options {
        Some(options) => {
            if !frame.holds(l3, F::HEADER + OPENING) {
                return Err(Counter::Internal);
            }
            F::write_header(l3, ends, (parse::TCP, length as u16), class, 0);
            sum += put(at, words) + put(at + TcpHdr::LEN, options);
        }
        None => {
            if !frame.holds(l3, F::HEADER + TcpHdr::LEN + 1) {
                return Err(Counter::Internal);
            }
            F::write_header(l3, ends, (parse::TCP, length as u16), class, 0);
            sum += put(at, words);
            store(at + TcpHdr::LEN, 0_u8);
        }
    }
    store(at + 16, !csum::fold(sum));
    Ok(())
}

/// Makes the frame shorter by `less` bytes at its end.
#[inline(always)]
fn cut(ctx: *mut xdp_md, less: usize) -> Result<Frame, Counter> {
    // SAFETY: the context is valid; since Linux 4.18.
    match unsafe { helpers::bpf_xdp_adjust_tail(ctx, -(less as i32)) } {
        0 => Ok(Frame::new(&XdpContext::new(ctx))),
        _ => Err(Counter::Internal),
    }
}

/// Bytes that a segment becomes longer at most.
const MORE: usize = OPENING - TcpHdr::LEN;

/// Makes the frame longer by [`MORE`] behind its link header: in front of it there is always
/// room, at its end not. A number that is known by the verifier, so what is too much has to
/// be cut off.
#[inline(always)]
fn lengthen(ctx: *mut xdp_md) -> Result<(), Counter> {
    // SAFETY: the context is valid; since Linux 4.10.
    if unsafe { helpers::bpf_xdp_adjust_head(ctx, -(MORE as i32)) } != 0 {
        return Err(Counter::NoHeadroom);
    }
    let frame = Frame::new(&XdpContext::new(ctx));
    if !frame.holds(frame.start, MORE + parse::LONGEST_LINK) {
        return Err(Counter::Internal);
    }
    // Tags, if any, and EtherType, too; what is too much becomes the header.
    let mut i = 0;
    while i < parse::LONGEST_LINK {
        store::<u16>(frame.start + i, load(frame.start + MORE + i));
        i += 2;
    }
    Ok(())
}

/// Stores words: their sum.
#[inline(always)]
fn put<const N: usize>(at: usize, words: [u32; N]) -> u32 {
    let (mut i, mut sum) = (0, 0);
    while i < N {
        store(at + 4 * i, words[i]);
        sum += csum::sum32(words[i]);
        i += 1;
    }
    sum
}

//! The SYN proxy, see [`lb_common::synproxy`]: what becomes of the packets of a service
//! with `syn_cookies_above`.
//!
//! - A SYN above the rate is answered with a cookie and a window of 0, so that the client
//!   sends nothing yet. Nothing is kept.
//! - The packet that confirms the cookie becomes the SYN that the backend is to see, and
//!   goes on as any SYN does.
//! - The backend's answer becomes a packet that opens the window. It has one byte, in the
//!   place of the SYN: the client knows that already, and acknowledges it at once
//!   (RFC 9293, section 3.10.7.4), whether it has something to send or not. So the backend
//!   gets the client's own acknowledgement.
//!
//! A program of its own, called where a service wants it, so that the others pay for a test
//! of a field.

mod segment;
mod table;

use aya_ebpf::{
    bindings::xdp_md, helpers::bpf_ktime_get_tai_ns, macros::xdp, programs::XdpContext,
};
use lb_common::{
    cookie::{self, Connection, Offer, UNSCALED},
    csum,
    flow::FlowState,
    hash,
    service::{Service, quota},
    stats::Counter,
    synproxy::{Proxied, Stage, SynRate, announced, shift, timeout},
    tcp,
};

pub(crate) use self::segment::Options;
use self::table::Entry;
use crate::{
    affinity, count,
    env::{self, Env},
    family::{Family, V4, V6},
    firewall,
    forward::{self, nat},
    handshake,
    maps::{SYNPROXY_PATH, SYNS},
    packet::{Frame, load, store},
    parse::{self, Packet, TCP},
    refuse, select,
    service::{self, Found},
    verdict::{PASS, Verdict},
};

/// Positions in a TCP header (RFC 9293, section 3.1).
const SEQUENCE: usize = 4;
/// See [`SEQUENCE`].
const ACKNOWLEDGEMENT: usize = 8;
/// See [`SEQUENCE`].
const WINDOW: usize = 14;

/// Goes on with a packet of a service that has, or had, SYN cookies; returns if it is of
/// another, or if that is not possible.
#[inline(always)]
pub(crate) fn go_on(env: &Env, proto: u8, service: &Service) {
    if service.syn_rate != 0 && proto == TCP && !env.explains {
        // SAFETY: nothing here needs dropping.
        unsafe { SYNPROXY_PATH.tail_call(&XdpContext::new(env.ctx), 0) };
    }
}

/// Entry: one TCP packet, of a client or in mode `nat` of a backend, which has passed the
/// firewall and whose service may be served.
#[xdp]
fn lb_synproxy(ctx: XdpContext) -> u32 {
    let ctx = ctx.ctx;
    // One call after the other, so that neither has the other's stack to bear.
    let verdict = match parse::link(Frame::new(&XdpContext::new(ctx))) {
        Some((parse::IPV4, _)) => Answer(lb_judge_v4(ctx)).or_else(|answer| match answer {
            Answer::REPLY => lb_proxied_reply_v4(ctx),
            Answer(translation) => lb_synproxy_v4(ctx, translation),
        }),
        Some((parse::IPV6, _)) => Answer(lb_judge_v6(ctx)).or_else(|answer| match answer {
            Answer::REPLY => lb_proxied_reply_v6(ctx),
            Answer(translation) => lb_synproxy_v6(ctx, translation),
        }),
        _ => Verdict::drop(Counter::Internal),
    };
    crate::act(ctx, verdict)
}

/// What is known before a backend is selected, in one register: a verdict, or by what the
/// packet is to be translated ([`Proxied`], 0: by nothing).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Answer(pub u64);

impl Answer {
    /// Bit of a verdict. (A [`Proxied`] has it where it does not matter any more.)
    const VERDICT: u64 = 1 << 47;
    /// The packet goes on as it is.
    const GO_ON: Self = Self(0);
    /// The same of a backend's, where it is not known already that it is one. (No
    /// [`Proxied`] is in this stage.)
    const REPLY: Self = Self(3 << 32);

    #[inline(always)]
    fn or_reply(self) -> Self {
        if self.0 == Self::GO_ON.0 { Self::REPLY } else { self }
    }

    #[inline(always)]
    fn verdict(verdict: Verdict) -> Self {
        Self(verdict.to_raw() | Self::VERDICT)
    }

    #[inline(always)]
    fn translate(by: Proxied) -> Self {
        Self(by.0 & !Self::VERDICT)
    }

    /// The verdict, or what `go_on` makes of another answer.
    #[inline(always)]
    pub(crate) fn or_else(self, go_on: impl FnOnce(Self) -> u64) -> Verdict {
        let raw = if self.0 & Self::VERDICT != 0 { self.0 & !Self::VERDICT } else { go_on(self) };
        Verdict::from_raw(raw)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_judge_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return judge::<V4>(&env, packet).0;
    }
    Answer::verdict(Verdict::drop(Counter::Internal)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_judge_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return judge::<V6>(&env, packet).0;
    }
    Answer::verdict(Verdict::drop(Counter::Internal)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_synproxy_v4(ctx: *mut xdp_md, translation: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return either(send::<V4>(&env, packet, Proxied(translation)));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_synproxy_v6(ctx: *mut xdp_md, translation: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return either(send::<V6>(&env, packet, Proxied(translation)));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_proxied_reply_v4(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv4(frame, l3)
    {
        return either(send_back::<V4>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_proxied_reply_v6(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::new(&ctx);
    if let Some(env) = Env::new(&ctx, false)
        && let Some((_, l3)) = parse::link(frame)
        && let Ok(packet) = parse::ipv6(env.ctx, frame, l3)
    {
        return either(send_back::<V6>(&env, packet));
    }
    Verdict::drop(Counter::Internal).to_raw()
}

#[inline(always)]
fn either(verdict: Result<Verdict, Verdict>) -> u64 {
    match verdict {
        Ok(verdict) | Err(verdict) => verdict.to_raw(),
    }
}

/// The service of a client's packet.
#[inline(always)]
fn wanted<F: Family>(env: &Env, packet: &Packet<F>) -> Option<Found> {
    if let Some(found) = service::exact(env, packet) {
        return Some(found);
    }
    let address = service::address::<F>(env, packet.destination)?;
    service::ranged(env, address, packet.proto, packet.destination_port())
}

/// Sends a client's packet on that has been judged.
#[inline(always)]
fn send<F: Family>(env: &Env, packet: Packet<F>, by: Proxied) -> Result<Verdict, Verdict> {
    let packet = &parse::tcp(packet).map_err(Verdict::drop)?;
    let found = wanted(env, packet).ok_or(Verdict::drop(Counter::Internal))?;
    handshake::begin(env, packet, &found);
    let chosen = select::select(env, packet, &found)?;
    if by.0 != 0 {
        to_backend(env, packet, by);
    }
    Ok(forward::to_backend(env, packet, &found, &chosen))
}

/// Sends a backend's packet on that has been translated.
#[inline(always)]
fn send_back<F: Family>(env: &Env, packet: Packet<F>) -> Result<Verdict, Verdict> {
    let packet = &parse::tcp(packet).map_err(Verdict::drop)?;
    let (owner, service) = nat::replying(env, packet).ok_or(Verdict::drop(Counter::Internal))?;
    Ok(nat::send_reply(env, packet, &owner, service).unwrap_or(PASS))
}

#[inline(always)]
fn judge<F: Family>(env: &Env, packet: Packet<F>) -> Answer {
    let packet = match parse::tcp(packet) {
        Ok(packet) => packet,
        Err(reason) => return Answer::verdict(Verdict::drop(reason)),
    };
    // In the order in which the packet path asks.
    if service::exact(env, &packet).is_none()
        && let Some((_, service)) = nat::replying(env, &packet)
    {
        let port = if service.port != 0 { service.port } else { packet.source_port() };
        let ports = hash::ports(packet.destination_port(), port);
        let client = F::words(packet.destination);
        return of_backend(env, &packet, (client, ports), service).or_reply();
    }
    match wanted(env, &packet) {
        Some(found) => of_client(env, &packet, &found),
        None => Answer::GO_ON,
    }
}

/// A client's packet.
#[inline(always)]
fn of_client<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> Answer {
    let key = table::key(env, F::words(packet.source), packet.ports, found.service);
    let known = table::find(key);
    let flags = packet.tcp_flags;
    if tcp::opens(flags) {
        return opening(env, packet, found, &known);
    }
    let cookie = acknowledged(packet).wrapping_sub(1);
    if let Some((offer, sequence)) = begins(env, packet, found, &known, cookie) {
        return open(env, found, key, (cookie, offer, sequence));
    }
    if known.is_none() {
        return Answer::GO_ON;
    }
    if !known.value.is_opening() {
        known.touch(env, tcp::closes(flags), found.service);
        return Answer::translate(known.value);
    }
    // Who gives up is not kept from it.
    if flags & tcp::RST != 0 {
        Answer::GO_ON
    } else {
        Answer::verdict(Verdict::drop(Counter::Unopened))
    }
}

/// What a client's SYN was, if his packet confirms a cookie by which a connection with the
/// backend is to be opened: what it offered, and its number.
#[inline(always)]
fn begins<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    known: &Entry,
    cookie: u32,
) -> Option<(Offer, u32)> {
    if !tcp::is_plain(packet.tcp_flags) {
        return None;
    }
    let value = known.value;
    if known.is_none() {
        if is_established(env, packet, found) {
            return None;
        }
    } else if !value.is_opening() && !may_be_another(value) {
        return None;
    }
    // What asks for a window has the number of the SYN, all else the next one; it comes
    // again where the SYN to the backend was lost, or its answer.
    let (mut sequence, mut attempt) = (number(packet.l4 + SEQUENCE).wrapping_sub(1), 0);
    while attempt < 2 {
        let of = connection(packet, sequence);
        if let Some(offer) = cookie::check(env.config.place_seed, &of, cookie, period()) {
            return Some((offer, sequence));
        }
        (sequence, attempt) = (sequence.wrapping_add(1), attempt + 1);
    }
    None
}

/// A SYN: it passes, or is answered.
#[inline(always)]
fn opening<F: Family>(env: &Env, packet: &Packet<F>, found: &Found, known: &Entry) -> Answer {
    let full = quota::is_full(found.full_until(), env.now());
    if full || found.service.table.is_none() || admitted(env, found) {
        // Where it will be refused, nobody is promised anything.
        return Answer::GO_ON;
    }
    if firewall::is_spoofed(env, packet) {
        return Answer::verdict(Verdict::drop(Counter::BadSource));
    }
    if !known.is_none() {
        known.swap(known.value.challenged());
    }
    Answer::verdict(segment::answer(env, packet))
}

/// Whether the service is to see one more SYN.
#[inline(always)]
fn admitted(env: &Env, found: &Found) -> bool {
    let Some(due) = SYNS.get_ptr_mut(found.id.into()) else { return true };
    let now = env::jiffies().wrapping_mul(env.config.tick_scale);
    // SAFETY: a map element; aligned words are read and written whole. CPUs that race let
    // a SYN more through.
    unsafe {
        match SynRate(found.service.syn_rate).admit(due.read_volatile(), now) {
            Some(next) => {
                due.write_volatile(next);
                true
            }
            None => false,
        }
    }
}

/// Whether a client's packet could be of another connection than that which is known.
#[inline(always)]
fn may_be_another(known: Proxied) -> bool {
    known.is_challenged() || known.stage() == Stage::Closing as u8
}

/// Whether a packet is of a connection that needed no cookie.
#[inline(always)]
fn is_established<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> bool {
    if found.by_client() {
        return false;
    }
    let known = affinity::find(&select::position(env, packet, found), env.now()).live();
    known.is_some_and(|entry| entry.flow.state() == FlowState::Established as u8)
}

/// A client's packet as one of the connection that begins with this number.
#[inline(always)]
fn connection<F: Family>(packet: &Packet<F>, sequence: u32) -> Connection {
    let [client, vip] = [packet.source, packet.destination].map(F::words);
    Connection { client, vip, ports: packet.ports, sequence }
}

/// Opens the connection with the backend: the packet becomes its SYN.
#[inline(always)]
fn open(
    env: &Env,
    found: &Found,
    key: u64,
    (cookie, offer, sequence): (u32, Offer, u32),
) -> Answer {
    let life = timeout(select::timeouts(found), Stage::Opening as u8);
    let expires = env.now().wrapping_add(life);
    let value = Proxied::opening(cookie, offer.scale, found.service.group, expires);
    if !table::enter(key, value) {
        return Answer::verdict(refuse::answer(env, Counter::ProxiedFull));
    }
    match segment::syn(env, offer, sequence) {
        Ok(()) => {
            count::event(Counter::SynCookieConfirmed as u32);
            Answer::GO_ON
        }
        Err(reason) => Answer::verdict(Verdict::drop(reason)),
    }
}

/// A backend's packet to a client, who has these ports as he sends them: translated. A
/// frame may be another one afterwards.
#[inline(always)]
pub(crate) fn of_backend<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    (client, ports): ([u64; 2], u32),
    service: &Service,
) -> Answer {
    let key = table::key(env, client, ports, service);
    let entry = table::find(key);
    if entry.is_none() {
        return Answer::GO_ON;
    }
    let (value, flags) = (entry.value, packet.tcp_flags);
    let sequence = number(packet.l4 + SEQUENCE);
    if tcp::accepts(flags) {
        return accepted(env, packet, (client, ports), service, &entry);
    }
    if value.is_opening() {
        return refused(env, packet, &entry);
    }
    let (at, window_at) = (packet.l4 + SEQUENCE, packet.l4 + WINDOW);
    let (old, window): (u32, u16) = (load(at), load(window_at));
    let new = sequence.wrapping_sub(value.number()).to_be();
    let shifted = value.window_to_client(u16::from_be(window)).to_be();
    store(at, new);
    store(window_at, shifted);
    let delta = csum::delta32(old, new) + csum::delta16(window, shifted);
    nat::update_checksum(packet, csum::fold(delta));
    if tcp::closes(flags) {
        entry.touch(env, true, service);
    }
    Answer::GO_ON
}

/// A backend accepts a connection.
#[inline(always)]
fn accepted<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    (client, ports): ([u64; 2], u32),
    service: &Service,
    entry: &Entry,
) -> Answer {
    let (value, sequence) = (entry.value, number(packet.l4 + SEQUENCE));
    let cookie = if value.is_opening() {
        value.number()
    } else {
        // Its acknowledgement was lost, and it says it again.
        sequence.wrapping_sub(value.number())
    };
    let of = Connection {
        client,
        vip: F::words(F::from_bytes(&service.vip)),
        ports,
        sequence: acknowledged(packet).wrapping_sub(1),
    };
    if cookie::check(env.config.place_seed, &of, cookie, period()).is_none() {
        // A connection that needed no cookie takes the place of one that had ended.
        entry.end(env);
        return Answer::GO_ON;
    }
    if value.is_opening() {
        let scale = segment::offer(env, packet).scale;
        entry.open(env, (sequence, scale), service);
    }
    // The first window is not shifted (RFC 7323, section 2.2).
    let window = u16::from_be(load(packet.l4 + WINDOW));
    let window = shift(window, UNSCALED, announced(value.client_scale()));
    match segment::open_window(env, cookie, window) {
        Ok(()) => Answer::GO_ON,
        Err(reason) => Answer::verdict(Verdict::drop(reason)),
    }
}

/// A backend does not accept a connection: its reset goes on. Who takes the SYN to be of
/// an older connection is told that there is none.
#[inline(always)]
fn refused<F: Family>(env: &Env, packet: &Packet<F>, entry: &Entry) -> Answer {
    if packet.tcp_flags & tcp::RST == 0 {
        return Answer::verdict(refuse::answer(env, Counter::Unopened));
    }
    // What the client expects next.
    let old: u32 = load(packet.l4 + SEQUENCE);
    let new = entry.value.number().wrapping_add(1).to_be();
    store(packet.l4 + SEQUENCE, new);
    nat::update_checksum(packet, csum::fold(csum::delta32(old, new)));
    entry.end(env);
    Answer::GO_ON
}

/// Translates a client's packet.
#[inline(always)]
fn to_backend<F: Family>(env: &Env, packet: &Packet<F>, by: Proxied) {
    let at = packet.l4 + WINDOW;
    let window: u16 = load(at);
    let shifted = by.window_to_backend(u16::from_be(window)).to_be();
    store(at, shifted);
    renumber(env, packet, by.number(), csum::delta16(window, shifted));
}

/// Adds `offset` to the numbers of the backend's bytes in a client's packet: the
/// acknowledgement, and what it has beyond that. `delta` is what else has changed.
#[inline(always)]
fn renumber<F: Family>(env: &Env, packet: &Packet<F>, offset: u32, mut delta: u32) {
    if packet.tcp_flags & tcp::ACK != 0 {
        let at = packet.l4 + ACKNOWLEDGEMENT;
        let old: u32 = load(at);
        let new = acknowledged(packet).wrapping_add(offset).to_be();
        store(at, new);
        delta += csum::delta32(old, new) + segment::renumber_sack(env, packet, offset);
    }
    nat::update_checksum(packet, csum::fold(delta));
}

/// Takes back what was done to a client's packet that is to be answered with a reset
/// instead: the connection is over.
#[inline(always)]
pub(crate) fn undo<F: Family>(env: &Env, packet: &Packet<F>, service: &Service) {
    let key = table::key(env, F::words(packet.source), packet.ports, service);
    let entry = table::find(key);
    if !entry.is_none() && !entry.value.is_opening() {
        renumber(env, packet, 0_u32.wrapping_sub(entry.value.number()), 0);
        entry.end(env);
    }
}

/// What is to be added to the client's number of a backend's byte; `ports` as the client
/// sends them.
#[inline(always)]
pub(crate) fn offset(env: &Env, client: [u64; 2], ports: u32, service: &Service) -> u32 {
    if service.syn_rate == 0 {
        return 0;
    }
    let value = table::find(table::key(env, client, ports, service)).value;
    if value.is_opening() { 0 } else { value.number() }
}

#[inline(always)]
fn acknowledged<F: Family>(packet: &Packet<F>) -> u32 {
    number(packet.l4 + ACKNOWLEDGEMENT)
}

/// A number of 32 bits in host byte order.
#[inline(always)]
fn number(at: usize) -> u32 {
    u32::from_be(load(at))
}

/// The period of cookies.
#[inline(always)]
fn period() -> u32 {
    // SAFETY: no arguments; since Linux 6.1.
    cookie::period(unsafe { bpf_ktime_get_tai_ns() })
}

//! What clients of a service with SYN cookies send.

use lb_common::{
    cookie::{self, Connection, Offer},
    csum,
    flow::FlowState,
    service::{Service, quota},
    stats::Counter,
    synproxy::{Proxied, Stage, SynRate, timeout},
    tcp,
};

use super::{
    ACKNOWLEDGEMENT, Answer, SEQUENCE, WINDOW, acknowledged, number, period, segment,
    table::{self, Entry},
};
use crate::{
    affinity, count,
    env::{self, Env},
    family::Family,
    firewall,
    forward::nat,
    maps::{ASKED, SYNS},
    packet::{load, store},
    parse::Packet,
    refuse, select,
    service::Found,
    verdict::{Action, Verdict},
};

/// A client's packet.
#[inline(always)]
pub(super) fn judge<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> Answer {
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
        let value = known.value;
        let stage = if tcp::closes(flags) { value.closed() } else { value.stage() };
        known.touch(env, stage, found.service);
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
        if !has_asked(found) || is_established(env, packet, found) {
            return None;
        }
    } else if !value.is_opening() && !value.is_challenged() {
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
    asks(found);
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

/// Whether a cookie of the service's may be on its way: by chance one packet of some
/// millions looks as if it confirmed one.
#[inline(always)]
fn has_asked(found: &Found) -> bool {
    if found.service.syn_rate == SynRate::ALL.0 {
        return false;
    }
    // SAFETY: a map element, read whole.
    let asked = ASKED.get_ptr_mut(found.id.into()).map(|word| unsafe { word.read_volatile() });
    asked.is_some_and(|asked| period().wrapping_sub(asked as u32) <= 1)
}

/// Notes that one is.
#[inline(always)]
fn asks(found: &Found) {
    if let Some(word) = ASKED.get_ptr_mut(found.id.into()) {
        // SAFETY: a map element; words are read and written whole.
        unsafe {
            let now = u64::from(period());
            if word.read_volatile() != now {
                word.write_volatile(now);
            }
        }
    }
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
pub(super) fn connection<F: Family>(packet: &Packet<F>, sequence: u32) -> Connection {
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
    let life = timeout(select::timeouts(found.service), Stage::Opening as u8);
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

/// Translates a client's packet.
#[inline(always)]
pub(super) fn translate<F: Family>(env: &Env, packet: &Packet<F>, by: Proxied) {
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

/// What becomes of a packet that no backend may take. One that was to open a connection is
/// a SYN by now, but its client knows of a connection, and is sent a reset of that.
#[inline(always)]
pub(super) fn refused<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    verdict: Verdict,
) -> Verdict {
    if !tcp::opens(packet.tcp_flags) {
        return verdict;
    }
    let entry = table::find(table::key(env, F::words(packet.source), packet.ports, found.service));
    if entry.is_none() || !entry.value.is_opening() {
        return verdict;
    }
    entry.end(env);
    if verdict.action() == Action::Transmit {
        segment::reset_from(env, entry.value.number().wrapping_add(1));
    }
    verdict
}

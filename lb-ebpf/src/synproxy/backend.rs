//! What backends send to clients of a service with SYN cookies.

use lb_common::{
    cookie::{self, Connection, UNSCALED},
    csum,
    service::Service,
    stats::Counter,
    synproxy::{Stage, announced, shift},
    tcp,
};

use super::{
    Answer, SEQUENCE, WINDOW, acknowledged, number, period, segment,
    table::{self, Entry},
};
use crate::{
    env::Env,
    family::Family,
    forward::nat,
    nexthop::{self, Way},
    packet::{load, store},
    parse::Packet,
    refuse,
    verdict::Verdict,
};

/// Whether a packet does not go to its client, but is the host's, or too long: who is told
/// that knows it as it is.
#[inline(always)]
pub(crate) fn stays<F: Family>(env: &Env, packet: &Packet<F>, service: &Service) -> bool {
    match nexthop::towards_client(env, packet, &service.vip) {
        Way::Local => true,
        Way::TooBig => F::never_fragmented(packet.l3),
        _ => false,
    }
}

/// A backend's packet to a client, who has these ports as he sends them: translated. A
/// frame may be another one afterwards.
#[inline(always)]
pub(crate) fn judge<F: Family>(
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
        // A reset ends it for both, and is not forged as easily as a client's.
        let over = flags & tcp::RST != 0;
        let stage = if over { Stage::Closing as u8 } else { value.closed() };
        entry.touch(env, stage, service);
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
    if !is_of(env, &of, cookie) {
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

/// Whether a connection was opened by a cookie, some time ago: a backend may take long.
#[inline(always)]
fn is_of(env: &Env, of: &Connection, cookie: u32) -> bool {
    let (mut now, mut attempt) = (period(), 0);
    while attempt < 2 {
        if cookie::check(env.config.place_seed, of, cookie, now).is_some() {
            return true;
        }
        (now, attempt) = (now.wrapping_sub(1), attempt + 1);
    }
    false
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

//! What some services ask of a packet: that they are for its source, that the source
//! does not begin too many flows, and that the service has not too many. Global
//! functions, so that other services pay for a test of a flag, and established flows for
//! nothing but the first question.

use core::ptr::{read_volatile, write_volatile};

use lb_common::{
    rate::{self, Beginning},
    route::{self, SET_BITS},
    service::{flags, quota},
    stats::Counter,
    tcp,
};

use crate::{
    env::{self, Env},
    family::Family,
    maps::{CONFIG, ROUTES, SERVICES, SOURCES, TrieKey},
    parse::{Packet, TCP},
    refuse,
    service::{self, Found},
    verdict::Verdict,
};

/// An answer of the functions below that is no reason to drop.
const ADMITTED: u64 = 0;

/// Bit of an event: the packet is a SYN.
const OPENS: u64 = 1;
/// Bit of an event: the run only explains.
const EXPLAINS: u64 = 1 << 1;

#[inline(always)]
fn event<F: Family>(env: &Env, packet: &Packet<F>) -> u64 {
    let opens = packet.proto == TCP && tcp::opens(packet.tcp_flags);
    (if opens { OPENS } else { 0 }) | (if env.explains { EXPLAINS } else { 0 })
}

/// Asks a packet before its flow is looked for: `Err`, it is dropped, whether that is
/// known or not. Also how many flows a SYN's source begins is asked here, since where
/// all flows of a client are one, the next SYN is of a known one.
#[inline(always)]
pub(crate) fn admit<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
) -> Result<(), Verdict> {
    if found.service.flags & flags::GUARDED == 0 {
        return Ok(());
    }
    let ([high, low], event) = (F::words(packet.source), event(env, packet));
    match lb_admit(service::index(env, found.id).into(), high, low, event) {
        ADMITTED => Ok(()),
        reason => {
            env.note(|record| record.service = found.id);
            Err(Verdict::drop_for(reason as u32))
        }
    }
}

/// Number of the counter of why a packet from `high` and `low` is dropped, or
/// [`ADMITTED`]; `service` is the index of its service's entry.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_admit(service: u64, high: u64, low: u64, event: u64) -> u64 {
    let Some(service) = SERVICES.get(service as u32) else { return Counter::Internal as u64 };
    let set = service.sources;
    if set != 0 {
        let key = TrieKey::new(SET_BITS + 128, route::key(set, [high, low]));
        if ROUTES.get(&key).is_none() {
            return Counter::SourceNotAllowed as u64;
        }
    }
    if event & OPENS != 0 { lb_charge(high, Beginning::Syn as u64, event) } else { ADMITTED }
}

/// Asks a packet that may begin a flow; `known`: its own has a backend, that may serve
/// no more. Where the service has as many as it may, SYNs and first datagrams are
/// refused, but not what else is sent over TCP: that may be of a connection.
#[inline(always)]
pub(crate) fn begin<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    known: bool,
    now: u16,
) -> Result<(), Verdict> {
    let event = event(env, packet);
    let opens = event & OPENS != 0;
    if found.service.flags & flags::GUARDED == 0 || known && !opens {
        return Ok(());
    }
    if (opens || packet.proto != TCP) && quota::is_full(found.full_until(), now) {
        return Err(if found.service.flags & flags::REJECT != 0 {
            refuse::answer(env, Counter::Rejected)
        } else {
            Verdict::drop(Counter::FlowQuota)
        });
    }
    if opens {
        // It was asked already.
        return Ok(());
    }
    let [high, _] = F::words(packet.source);
    match lb_charge(high, Beginning::Other as u64, event) {
        ADMITTED => Ok(()),
        reason => Err(Verdict::drop_for(reason as u32)),
    }
}

/// Takes a token of a source's, if sources are limited: [`ADMITTED`], or the number of
/// the counter for which the packet is dropped. CPUs that race for a token may each
/// have it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_charge(high: u64, beginning: u64, event: u64) -> u64 {
    let Some(config) = CONFIG.get(0) else { return Counter::Internal as u64 };
    // SAFETY: a map element; aligned words are read whole.
    let rate = unsafe { read_volatile(&raw const config.source_rate) };
    if rate.is_none() {
        return ADMITTED;
    }
    let [first, second] = rate::buckets(high, beginning, config.place_seed);
    let (Some(first), Some(second)) = (SOURCES.get_ptr_mut(first), SOURCES.get_ptr_mut(second))
    else {
        return Counter::Internal as u64;
    };
    let now = env::jiffies().wrapping_mul(config.tick_scale);
    // SAFETY: map elements; aligned words are read whole.
    let due = unsafe { [read_volatile(first), read_volatile(second)] };
    let Some((which, next)) = rate.admit(due, now) else { return Counter::SourceRate as u64 };
    if event & EXPLAINS == 0 {
        // SAFETY: as above.
        unsafe { write_volatile(if which == 0 { first } else { second }, next) };
    }
    ADMITTED
}

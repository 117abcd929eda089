//! What some services ask of a packet before its flow is looked for: that they are for
//! its source. A global function, so that other services pay for a test of a flag.

use lb_common::{
    route::{self, SET_BITS},
    service::flags,
    stats::Counter,
};

use crate::{
    env::Env,
    family::Family,
    maps::{ROUTES, SERVICES, TrieKey},
    parse::Packet,
    service::{self, Found},
    verdict::Verdict,
};

/// `Err`: the packet is dropped, whether its flow is known or not.
#[inline(always)]
pub(crate) fn admit<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
) -> Result<(), Verdict> {
    if found.service.flags & flags::GUARDED == 0 {
        return Ok(());
    }
    let [high, low] = F::words(packet.source);
    match lb_admit(service::index(env, found.id).into(), high, low) {
        ADMITTED => Ok(()),
        reason => {
            env.note(|record| record.service = found.id);
            Err(Verdict::drop_for(reason as u32))
        }
    }
}

/// An answer of `lb_admit` that is no reason to drop.
const ADMITTED: u64 = 0;

/// Number of the counter of why a packet from `high` and `low` is dropped, or
/// [`ADMITTED`]; `service` is the index of its service's entry.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_admit(service: u64, high: u64, low: u64) -> u64 {
    let Some(service) = SERVICES.get(service as u32) else { return Counter::Internal as u64 };
    let set = service.sources;
    if set != 0 {
        let key = TrieKey::new(SET_BITS + 128, route::key(set, [high, low]));
        if ROUTES.get(&key).is_none() {
            return Counter::SourceNotAllowed as u64;
        }
    }
    ADMITTED
}

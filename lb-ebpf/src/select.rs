//! Which backend a packet goes to: the one its flow has, else the one the
//! Maglev tables give.
//!
//! *Just enough tracking*: a SYN is recorded only where the current and the
//! previous table disagree about its flow. Everywhere else the flow is
//! recorded at its first packet behind the SYN, so a flood of SYNs leaves no
//! trace in the affinity table.

use core::ptr::read_volatile;

use lb_common::{
    backend::{Backend, flags},
    change::Mark,
    flow::{FlowState, Timeouts},
    hash,
    route::{self, Blocks},
    service::{Service, flags as service_flags},
    stats::Counter,
    table::{self, LINE_SLOTS, TableRef},
    tcp,
    trace::steps,
};

use crate::{
    affinity::{self, Known, Position},
    changes, count,
    env::Env,
    family::Family,
    firewall, guard,
    maps::{BACKENDS, CONFIG, ROUTES, SERVICES, TABLES, TrieKey},
    parse::{Packet, TCP, UDP},
    refuse,
    service::{self, Found},
    verdict::{Action, Verdict},
};

/// A backend and its id.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    /// Number of the backend.
    pub id: u16,
    /// Its entry.
    pub backend: &'static Backend,
}

/// Entry of a backend, if it may serve packets of this service.
#[inline(always)]
pub(crate) fn serving(id: u16, service: u16) -> Option<Chosen> {
    let backend = BACKENDS.get(u32::from(id))?;
    let serves = backend.flags & flags::SERVING != 0 && backend.service == service;
    serves.then_some(Chosen { id, backend })
}

/// How long flows of this service live.
#[inline(always)]
pub(crate) fn timeouts(service: &Service) -> Timeouts {
    Timeouts {
        embryonic: service.embryonic_timeout,
        established: service.established_timeout,
        closing: service.closing_timeout,
    }
}

/// The backend of a packet.
#[inline(always)]
pub(crate) fn select<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
) -> Result<Chosen, Verdict> {
    let at = position(env, packet, found);
    let now = env.now();
    let known = match packet.proto {
        UDP if found.untracked() => Known::NOTHING,
        _ => affinity::find(&at, now),
    };
    env.note(|record| {
        (record.service, record.now) = (found.id, now);
        record.entry = known.slot().map_or(0, |entry| entry.flow.0);
        record.steps |= match (known.live(), known.slot()) {
            (Some(_), _) => steps::KNOWN,
            (None, Some(_)) => steps::STALE,
            (None, None) => 0,
        };
    });
    if let Some(entry) = known.live()
        && let Some(state) = next_state(packet.proto, flags_for(packet, found), entry.flow.state())
        && let Some(chosen) = serving(entry.flow.backend(), found.id)
    {
        if !env.explains && entry.touch(now, state, timeouts(found.service)) && found.in_group() {
            changes::mark(&at, Mark::Changed);
        }
        return Ok(chosen);
    }
    new_flow(env, packet, found, &at, known, now)
}

/// Where a packet's flow belongs in the affinity table.
#[inline(always)]
pub(crate) fn position<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> Position {
    affinity::position(env.config, flow_key(env, packet, found))
}

/// Key of a packet's flow; where all flows of a client stay together, they are one.
#[inline(always)]
pub(crate) fn flow_key<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> u64 {
    let ports = if found.by_client() { 0 } else { packet.ports };
    let source = F::words(packet.source);
    if F::EXACT && found.one_port() {
        hash::flow_key_v4(source[0] as u32, ports as u16, found.id)
    } else {
        hash::flow_key_hashed(source, ports, found.service.salt, env.config.place_seed)
    }
}

/// The TCP flags that an entry of this service takes notice of: a client does
/// not begin or end with a connection of his.
#[inline(always)]
fn flags_for<F: Family>(packet: &Packet<F>, found: &Found) -> u8 {
    let flags = packet.tcp_flags;
    if found.by_client() && tcp::is_possible(flags) { tcp::ACK } else { flags }
}

/// The state of a flow after a packet; `None`: the packet begins another flow, or
/// has flags that no stack sends.
#[inline(always)]
pub(crate) fn next_state(proto: u8, tcp_flags: u8, state: u8) -> Option<u8> {
    const ESTABLISHED: u8 = FlowState::Established as u8;
    const CLOSING: u8 = FlowState::Closing as u8;
    if proto == TCP && !tcp::is_plain(tcp_flags) {
        if !tcp::is_possible(tcp_flags) {
            return None;
        }
        if tcp::opens(tcp_flags) {
            // A client may take up a port again after it closed it.
            return if state == CLOSING { None } else { Some(state) };
        }
        if tcp::closes(tcp_flags) {
            return Some(CLOSING);
        }
    }
    Some(if state == CLOSING { CLOSING } else { ESTABLISHED })
}

/// Picks a backend for a flow without one, and records it if that is due.
#[inline(always)]
fn new_flow<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    found: &Found,
    at: &Position,
    known: Known,
    now: u16,
) -> Result<Chosen, Verdict> {
    if packet.proto == TCP && !tcp::is_possible(packet.tcp_flags) {
        return Err(Verdict::drop(Counter::BadFlags));
    }
    if firewall::is_spoofed(env, packet) {
        return Err(Verdict::drop(Counter::BadSource));
    }
    guard::begin(env, packet, found, known.live().is_some(), now)?;
    let opens = packet.proto == TCP && tcp::opens(packet.tcp_flags);
    if let Some(entry) = known.live()
        && packet.proto == TCP
        && !opens
    {
        // Its backend serves no more.
        if found.service.flags & service_flags::RESET != 0 {
            let verdict = refuse::answer(env, Counter::Reset);
            if verdict.action() == Action::Transmit && !env.explains {
                entry.end(now);
            }
            return Err(verdict);
        }
        if !env.explains && entry.begin_anew() {
            count::event(Counter::Moved as u32);
        }
    }
    let choice = from_tables(env, packet, found);
    // A TCP flow that nobody recorded began when the previous table was in
    // force, or both agree.
    let chosen = match choice.previous {
        Some(previous) if packet.proto == TCP && !opens => {
            env.note(|record| record.steps |= steps::FROM_PREVIOUS);
            Some(previous)
        }
        _ => choice.current,
    };
    let Some(chosen) = chosen else {
        return Err(if found.service.flags & service_flags::REJECT != 0 {
            refuse::answer(env, Counter::Rejected)
        } else {
            Verdict::drop(Counter::NoBackend)
        });
    };
    let slot = known.slot();
    let untracked = packet.proto == UDP && found.untracked();
    let tracked = (!opens || choice.disagree) && !tcp::closes(packet.tcp_flags) && !untracked;
    if env.explains {
        let records = slot.is_some() || tracked;
        env.note(|record| record.steps |= if records { steps::RECORDS } else { 0 });
    } else if slot.is_some() || tracked {
        let mut timeouts = timeouts(found.service);
        if found.by_client() {
            timeouts.embryonic = timeouts.established;
        }
        let moves = slot.is_some_and(|entry| entry.is_of_another(chosen.id));
        let exception = found.in_group() && (choice.disagree || moves);
        if affinity::record(at, slot, chosen.id, exception, now, timeouts) {
            count::flow(env, chosen.id);
            if exception {
                changes::mark(at, Mark::Exception);
            }
        } else {
            count::event(Counter::Unrecorded as u32);
            // What follows this SYN will be taken for a flow of the previous
            // table: so must be the SYN.
            if opens && let Some(previous) = choice.previous {
                return Ok(previous);
            }
        }
    }
    Ok(chosen)
}

/// What the lookup tables say about a flow.
pub(crate) struct Choice {
    /// The backend for a new flow.
    pub current: Option<Chosen>,
    /// Another one, that the previous table gave and that still serves.
    pub previous: Option<Chosen>,
    /// Whether the tables differ in this flow's slot.
    pub disagree: bool,
}

/// Looks a flow up in the current and the previous table.
#[inline(always)]
pub(crate) fn from_tables<F: Family>(env: &Env, packet: &Packet<F>, found: &Found) -> Choice {
    let Packet { source, destination, ports, proto, .. } = *packet;
    let hash = F::slot_hash(source, destination, ports, proto, env.config.slot_seed);
    let tables = Tables::of(found.service);
    let ids = if found.by_client() || tables.have_blocks() {
        let [high, low] = F::words(source);
        let service = service::index(env, found.id);
        Ids::from_raw(lb_look_up_client(service.into(), high, low, hash.into()))
    } else {
        tables.look_up(hash, |_| 0)
    };
    env.note(|record| {
        record.steps |= steps::LOOKED_UP;
        (record.table, record.previous) = (tables.current, tables.previous);
        record.slot = ids.slot;
        (record.current_backend, record.previous_backend) = (ids.current, ids.previous);
    });
    let mut choice =
        Choice { current: serving(ids.current, found.id), previous: None, disagree: false };
    if ids.previous != ids.current {
        choice.disagree = true;
        choice.previous = serving(ids.previous, found.id);
    }
    choice
}

/// Looks a flow up where the client counts: a global function, so that other
/// services do without its code. `service` is the index of its entry, `high`
/// and `low` are the client's address, `hash` is the flow's.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lb_look_up_client(service: u64, high: u64, low: u64, hash: u64) -> u64 {
    let (Some(service), Some(config)) = (SERVICES.get(service as u32), CONFIG.get(0)) else {
        return 0;
    };
    let client = hash::client([high, low], config.slot_seed);
    let by_client = service.flags & service_flags::CLIENT != 0;
    let hash = if by_client { (client >> 32) as u32 } else { hash as u32 };
    let block = |table| block_of(table, [high, low], client as u32);
    Tables::of(service).look_up(hash, block).to_raw()
}

/// Block of a table that a client is looked up in: his route's, or of several
/// the one that falls to his `lot`.
#[inline(always)]
fn block_of(table: TableRef, address: [u64; 2], lot: u32) -> u32 {
    if table.routes() == 0 {
        return table::slot(lot, table.blocks());
    }
    let key = TrieKey::new(route::SET_BITS + 128, route::key(table.routes(), address));
    // A set that a service refers to has a way for everybody.
    let blocks = ROUTES.get(&key).copied().unwrap_or(Blocks::new(0, 1));
    blocks.first() + table::slot(lot, blocks.count())
}

/// The current and the previous table of a service.
#[derive(Clone, Copy)]
struct Tables {
    current: TableRef,
    previous: TableRef,
}

impl Tables {
    /// Each is read at once: the agent may be changing them.
    #[inline(always)]
    fn of(service: &Service) -> Self {
        // SAFETY: a map element; aligned words are read whole.
        unsafe {
            Self {
                current: read_volatile(&raw const service.table),
                previous: read_volatile(&raw const service.previous),
            }
        }
    }

    /// Whether one of them has more than one block.
    #[inline(always)]
    fn have_blocks(self) -> bool {
        self.current.blocks() > 1 || self.previous.blocks() > 1
    }

    /// What they have for a flow of this slot hash. `block` picks the block.
    #[inline(always)]
    fn look_up(self, hash: u32, block: impl Fn(TableRef) -> u32) -> Ids {
        let slot = slot_of(self.current, hash, block(self.current));
        let current = look_up(self.current, slot);
        let previous = if self.previous == self.current {
            current
        } else {
            look_up(self.previous, slot_of(self.previous, hash, block(self.previous)))
        };
        Ids { current, previous, slot }
    }
}

/// Backend ids in the current and the previous table, 0 where there is none,
/// and the slot in the current one.
#[derive(Clone, Copy)]
struct Ids {
    current: u16,
    previous: u16,
    slot: u32,
}

impl Ids {
    #[inline(always)]
    fn to_raw(self) -> u64 {
        u64::from(self.current) | u64::from(self.previous) << 16 | u64::from(self.slot) << 32
    }

    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        Self { current: raw as u16, previous: (raw >> 16) as u16, slot: (raw >> 32) as u32 }
    }
}

/// Slot of a flow, counted through all blocks.
#[inline(always)]
fn slot_of(table: TableRef, hash: u32, block: u32) -> u32 {
    let slots = table.slots();
    block * slots + table::slot(hash, slots)
}

/// Backend id in a slot; 0 where there is none.
#[inline(always)]
fn look_up(table: TableRef, slot: u32) -> u16 {
    if table.is_none() {
        return 0;
    }
    match TABLES.get(table.first() + slot / LINE_SLOTS) {
        Some(line) => line.slots[(slot % LINE_SLOTS) as usize],
        None => 0,
    }
}

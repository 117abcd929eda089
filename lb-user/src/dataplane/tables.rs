//! Carries out plan operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::offset_of,
    sync::{Arc, atomic::Ordering},
};

use ipnet::IpNet;
use lb_common::{
    backend::{Backend, flags},
    binding::Binding,
    config::{Config, Generation},
    firewall::{ALLOW_WORDS, AllowWord},
    flow::Bucket,
    limits,
    service::{Address, EndpointBucket, Service},
    stats::BackendStats,
    synproxy,
    table::{LINE_SLOTS, Line, TableRef},
};

use super::mmap::Mapped;
use crate::core::{
    nexthop::NextHop,
    plan::{
        BackendId, Bank, Operation, QuicSetId, RouteSet, ServiceId, backends::macs, tables::Places,
    },
    quic::QuicSet,
    route::Routes,
};

/// The maps that are reached by system calls.
pub trait KernelMaps: Send {
    /// Adds a prefix to the deny trie of its family.
    ///
    /// # Errors
    /// The kernel's answer.
    fn deny(&mut self, prefix: IpNet) -> io::Result<()>;

    /// Removes a prefix from the deny trie of its family; it may be absent.
    ///
    /// # Errors
    /// The kernel's answer.
    fn undeny(&mut self, prefix: IpNet) -> io::Result<()>;

    /// All denied prefixes.
    ///
    /// # Errors
    /// The kernel's answer.
    fn denied(&self) -> io::Result<BTreeSet<IpNet>>;

    /// Writes a set of routes under a number that has none.
    ///
    /// # Errors
    /// The kernel's answer; part of the set may be there then.
    fn write_routes(&mut self, set: RouteSet, routes: &Arc<Routes>) -> io::Result<()>;

    /// Removes a set of routes, or what there is of it.
    ///
    /// # Errors
    /// The kernel's answer.
    fn remove_routes(&mut self, set: RouteSet) -> io::Result<()>;

    /// All sets of routes, those written in part included.
    fn routes(&self) -> BTreeMap<RouteSet, Arc<Routes>>;

    /// Writes a set of QUIC configurations under a number that has none.
    ///
    /// # Errors
    /// The kernel's answer; part of the set may be there then.
    fn write_quic(&mut self, number: QuicSetId, set: &Arc<QuicSet>) -> io::Result<()>;

    /// Removes a set of QUIC configurations, or what there is of it.
    ///
    /// # Errors
    /// The kernel's answer.
    fn remove_quic(&mut self, number: QuicSetId) -> io::Result<()>;

    /// All sets of QUIC configurations, those written in part included.
    fn quic(&self) -> BTreeMap<QuicSetId, Arc<QuicSet>>;

    /// Counters of a backend, of all CPUs together.
    ///
    /// # Errors
    /// The kernel's answer.
    fn stats(&self, id: BackendId) -> io::Result<BackendStats>;

    /// Packets by [`lb_common::stats::Counter`], of all CPUs together.
    ///
    /// # Errors
    /// The kernel's answer.
    fn counters(&self) -> io::Result<Vec<u64>>;

    /// Sets the counters of a backend to zero.
    ///
    /// # Errors
    /// The kernel's answer.
    fn reset_stats(&mut self, id: BackendId) -> io::Result<()>;
}

/// The maps a plan is about.
pub struct Tables {
    /// `CONFIG`.
    pub config: Mapped<Config>,
    /// `ENDPOINTS`, both banks.
    pub endpoints: Mapped<EndpointBucket>,
    /// `SERVICES`, both banks.
    pub services: Mapped<Service>,
    /// `ADDRESSES`, both banks.
    pub addresses: Mapped<Address>,
    /// `ALLOW`, both banks.
    pub allow: Mapped<AllowWord>,
    /// `BACKENDS`.
    pub backends: Mapped<Backend>,
    /// `TABLES`.
    pub lines: Mapped<Line>,
    /// `FLOWS`.
    pub flows: Arc<Mapped<Bucket>>,
    /// `BINDINGS`.
    pub bindings: Arc<Mapped<Binding>>,
    /// `PROXIED`.
    pub proxied: Arc<Mapped<synproxy::Bucket>>,
    /// The others.
    pub kernel: Box<dyn KernelMaps>,
}

impl Tables {
    /// Carries out the operations of a plan. One that fails before the bank is
    /// published ends it, with nothing changed that packets see; after that
    /// there is no way back, so one that fails is told and left out: the next
    /// plan has it again.
    ///
    /// # Errors
    /// The kernel's answer, and the bank is not published.
    pub fn carry_out(&mut self, operations: &[Operation]) -> io::Result<()> {
        let mut published = false;
        for (done, operation) in operations.iter().enumerate() {
            match self.apply(operation) {
                Ok(()) => published |= matches!(operation, Operation::Publish(_)),
                Err(error) if published => {
                    tracing::error!(%error, ?operation, "left out, the configuration is in force");
                }
                Err(error) => {
                    self.admit_again(&operations[..done]);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Undoes what `operations` denied: the tries are not banked.
    fn admit_again(&mut self, operations: &[Operation]) {
        for operation in operations {
            if let Operation::Deny(prefix) = operation
                && let Err(error) = self.kernel.undeny(*prefix)
            {
                tracing::error!(%error, %prefix, "still denied though the change is refused");
            }
        }
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// The kernel's answer, for the maps that take a system call.
    pub fn apply(&mut self, operation: &Operation) -> io::Result<()> {
        match operation {
            Operation::SetNextHop(id, hop) => self.set_next_hop(*id, *hop),
            Operation::Scrub(ids) => self.scrub(ids),
            Operation::WriteBackend(id, entry) => return self.write_backend(*id, entry),
            Operation::SetServing(id, serving) => self.set_serving(*id, *serving),
            Operation::Share(id, salt) => self.share(*id, *salt),
            Operation::RemoveRoutes(set) => return self.kernel.remove_routes(*set),
            Operation::WriteRoutes(set, routes) => return self.kernel.write_routes(*set, routes),
            Operation::RemoveQuic(number) => return self.kernel.remove_quic(*number),
            Operation::WriteQuic(number, set) => return self.kernel.write_quic(*number, set),
            Operation::WriteTable(first, slots) => self.write_table(*first, slots),
            Operation::SwitchTables(id, places) => self.switch_tables(*id, places),
            Operation::Number(number) => self.number(*number),
            Operation::WriteBank(bank) => self.write_bank(bank),
            Operation::Deny(prefix) => return self.kernel.deny(*prefix),
            Operation::Publish(bank) => self.publish(*bank),
            Operation::LimitSources(rate) => {
                let at = self.config.word64(0, offset_of!(Config, source_rate));
                at.store(rate.0, Ordering::Release);
            }
            Operation::Retire(id) => self.backend_flags(*id).store(0, Ordering::Release),
            Operation::Undeny(prefix) => return self.kernel.undeny(*prefix),
        }
        Ok(())
    }

    /// Makes the packet path forget the next hops towards clients that it
    /// asked the kernel for.
    pub fn set_route_epoch(&self, epoch: u32) {
        self.config.word32(0, offset_of!(Config, route_epoch)).store(epoch, Ordering::Release);
    }

    /// Says whether the data plane is attached to ports of bridges.
    pub fn set_bridged(&self, bridged: bool) {
        let at = self.config.word32(0, offset_of!(Config, bridged));
        at.store(bridged.into(), Ordering::Release);
    }

    fn backend_flags(&self, id: BackendId) -> &std::sync::atomic::AtomicU32 {
        self.backends.word32(id.into(), offset_of!(Backend, flags))
    }

    /// Where only the destination's Ethernet address moves (a neighbour with a
    /// new card, a failover), one store of `macs_low` does it and no packet
    /// sees anything in between. Else `RESOLVED` is taken away while the other
    /// words change; packets take the kernel's way meanwhile.
    fn set_next_hop(&self, id: BackendId, hop: Option<NextHop>) {
        let index = id.into();
        let entry = self.backends.read(index);
        let flags = self.backend_flags(id);
        let Some(hop) = hop else {
            flags.fetch_and(!flags::RESOLVED, Ordering::Release);
            return;
        };
        let (low, high) = macs(&hop);
        let same_source = entry.macs_low >> 48 == low >> 48 && entry.macs_high == high;
        let same_way = entry.ifindex == hop.ifindex && entry.vlan == hop.vlan;
        if entry.flags & flags::RESOLVED == 0 || !same_source || !same_way {
            flags.fetch_and(!flags::RESOLVED, Ordering::AcqRel);
        }
        self.backends.word32(index, offset_of!(Backend, mtu)).store(hop.mtu, Ordering::Release);
        self.backends.word64(index, offset_of!(Backend, macs_low)).store(low, Ordering::Release);
        self.backends.word32(index, offset_of!(Backend, macs_high)).store(high, Ordering::Release);
        let ifindex = self.backends.word32(index, offset_of!(Backend, ifindex));
        ifindex.store(hop.ifindex, Ordering::Release);
        // In one word with the service, which stays.
        const { assert!(offset_of!(Backend, vlan) == offset_of!(Backend, service) + 2) };
        let word = u32::from(entry.service) | u32::from(hop.vlan) << 16;
        self.backends.word32(index, offset_of!(Backend, service)).store(word, Ordering::Release);
        flags.fetch_or(flags::RESOLVED, Ordering::Release);
    }

    /// Writes all but the flags, which make the entry live, then these.
    fn write_backend(&mut self, id: BackendId, entry: &Backend) -> io::Result<()> {
        self.kernel.reset_stats(id)?;
        self.backend_flags(id).store(0, Ordering::Release);
        self.backends.write(id.into(), &Backend { flags: 0, ..*entry });
        self.backend_flags(id).store(entry.flags, Ordering::Release);
        Ok(())
    }

    fn share(&self, id: BackendId, salt: u64) {
        let at = self.backends.word64(id.into(), offset_of!(Backend, shared_salt));
        at.store(salt, Ordering::Release);
    }

    fn write_table(&self, first: u32, slots: &[BackendId]) {
        for (line, chunk) in (first..).zip(slots.chunks(LINE_SLOTS as usize)) {
            let mut entry = Line::ZERO;
            entry.slots[..chunk.len()].copy_from_slice(chunk);
            self.lines.write(line, &entry);
        }
    }

    fn set_serving(&self, id: BackendId, serving: bool) {
        let flags = self.backend_flags(id);
        if serving {
            flags.fetch_or(flags::SERVING, Ordering::Release);
        } else {
            flags.fetch_and(!flags::SERVING, Ordering::Release);
        }
    }

    /// The previous table first: where it was none, packets in between see the
    /// new one as both.
    fn switch_tables(&self, id: ServiceId, places: &Places) {
        let index = (self.config.read(0).active & 1) * limits::SERVICES + u32::from(id);
        let store = |offset, table: TableRef| {
            self.services.word64(index, offset).store(table.0, Ordering::Release);
        };
        store(offset_of!(Service, previous), places.previous);
        store(offset_of!(Service, table), places.current);
    }

    /// Says in place until when a service takes no new flows, see
    /// [`lb_common::service::quota`].
    pub fn set_full_until(&self, id: ServiceId, until: u16) {
        const AT: usize = offset_of!(Service, sources);
        const { assert!(AT.is_multiple_of(4) && offset_of!(Service, full_until) == AT + 2) };
        let index = (self.config.read(0).active & 1) * limits::SERVICES + u32::from(id);
        let sources = self.services.read(index).sources;
        let word: u32 = bytemuck::cast([sources, until]);
        self.services.word32(index, AT).store(word, Ordering::Release);
    }

    fn number(&self, number: u64) {
        let bank = (self.config.read(0).active & 1) as usize;
        let offset = offset_of!(Config, generations) + bank * size_of::<Generation>();
        let at = self.config.word64(0, offset + offset_of!(Generation, number));
        at.store(number, Ordering::Release);
    }

    fn write_bank(&self, bank: &Bank) {
        let base = |size: u32| bank.index * size;
        for (index, bucket) in (base(limits::ENDPOINT_BUCKETS)..).zip(&bank.endpoints) {
            self.endpoints.write(index, bucket);
        }
        for id in 1..limits::SERVICES {
            let entry = bank.services.get(&(id as u16)).unwrap_or(&Service::ZERO);
            self.services.write(base(limits::SERVICES) + id, entry);
        }
        for (index, address) in (base(limits::ADDRESSES) + 1..).zip(&bank.addresses) {
            self.addresses.write(index, address);
        }
        for (index, word) in (base(ALLOW_WORDS)..).zip(&bank.allow) {
            self.allow.write(index, word);
        }
        let generation = bytemuck::bytes_of(&bank.generation).as_chunks::<8>().0;
        let offset =
            offset_of!(Config, generations) + bank.index as usize * size_of::<Generation>();
        for (word, bytes) in generation.iter().enumerate() {
            let at = self.config.word64(0, offset + word * 8);
            at.store(u64::from_ne_bytes(*bytes), Ordering::Release);
        }
    }

    fn publish(&self, bank: u32) {
        self.config.word32(0, offset_of!(Config, active)).store(bank, Ordering::SeqCst);
    }

    fn scrub(&self, ids: &BTreeSet<BackendId>) {
        self.flows.clear(0..self.flows.entries(), |_, value| ids.contains(&value.backend()));
    }

    /// Retires the previous table of these services, as far as they are in
    /// force: from now on a flow that nobody recorded is taken for a new one,
    /// SYNs leave no trace, and the lines are free for other tables. Returns
    /// how many tables that were.
    pub fn retire_previous(&self, services: impl IntoIterator<Item = ServiceId>) -> u32 {
        let base = (self.config.read(0).active & 1) * limits::SERVICES;
        let mut retired = 0;
        for id in services {
            let index = base + u32::from(id);
            let entry = self.services.read(index);
            if entry.previous != entry.table {
                let previous = self.services.word64(index, offset_of!(Service, previous));
                previous.store(entry.table.0, Ordering::Release);
                retired += 1;
            }
        }
        retired
    }
}

#[cfg(test)]
mod failure;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod ids;
#[cfg(test)]
mod quic;
#[cfg(test)]
mod retire;
#[cfg(test)]
mod reweigh;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod tests;

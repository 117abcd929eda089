//! Reads back what the maps hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use lb_common::{
    backend::Backend,
    limits,
    service::{Service, flags},
    table::{TableRef, lines},
};

use super::tables::Tables;
use crate::core::plan::{BackendId, ServiceId, Snapshot, tables};

impl Tables {
    /// What a plan has to start from.
    ///
    /// # Errors
    /// The kernel's answer, for the maps that take a system call.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        let (denied, routes) = (self.kernel.denied()?, self.kernel.routes());
        let quic = self.kernel.quic();
        let mut snapshot = Snapshot { denied, routes, quic, ..self.outline() };
        snapshot.tables =
            tables::in_use(&snapshot).map(|table| (table.first(), self.table(table))).collect();
        Ok(snapshot)
    }

    /// A snapshot without the content of tables, the denied prefixes, routes and QUIC
    /// configurations.
    #[must_use]
    pub fn outline(&self) -> Snapshot {
        let config = self.config.read(0);
        Snapshot {
            config,
            services: self.services_of(config.active & 1),
            backends: self.all_backends(),
            tables: BTreeMap::new(),
            denied: BTreeSet::new(),
            resting: Vec::new(),
            routes: BTreeMap::new(),
            quic: BTreeMap::new(),
            proxied: self.proxied.has_any(),
        }
    }

    /// A service of the active bank, if it is in use.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<Service> {
        let bank = self.config.read(0).active & 1;
        let known = u32::from(id) < limits::SERVICES;
        let entry = known.then(|| self.services.read(bank * limits::SERVICES + u32::from(id)));
        entry.filter(|entry| entry.flags & flags::IN_USE != 0)
    }

    /// Services in use of a bank.
    #[must_use]
    pub fn services_of(&self, bank: u32) -> BTreeMap<ServiceId, Service> {
        (1..limits::SERVICES)
            .map(|id| (id as ServiceId, self.services.read(bank * limits::SERVICES + id)))
            .filter(|(_, entry)| entry.flags & flags::IN_USE != 0)
            .collect()
    }

    /// Every backend ever written, retired ones included.
    #[must_use]
    pub fn all_backends(&self) -> BTreeMap<BackendId, Backend> {
        (1..limits::BACKENDS)
            .map(|id| (id as BackendId, self.backends.read(id)))
            .filter(|(_, entry)| *entry != Backend::ZERO)
            .collect()
    }

    /// All slots of a table, block by block.
    #[must_use]
    pub fn table(&self, table: TableRef) -> Vec<BackendId> {
        let (first, size) = (table.first(), table.size());
        let end = (first + lines(size)).min(self.lines.entries());
        let mut slots: Vec<_> = (first..end).flat_map(|line| self.lines.read(line).slots).collect();
        slots.truncate(size as usize);
        slots
    }
}

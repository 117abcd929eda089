//! A data plane in private memory: the real code of [`super::tables`] and
//! [`super::read`] on it, without a kernel's map.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{
    config::Config,
    firewall::ALLOW_WORDS,
    limits,
    stats::{BackendStats, COUNTERS},
};

use super::{
    mmap::Mapped,
    tables::{KernelMaps, Tables},
};
use crate::core::{
    plan::{BackendId, QuicSetId, RouteSet},
    quic::QuicSet,
    route::Routes,
};

/// An empty data plane with an affinity table of `buckets` buckets.
///
/// # Errors
/// No memory.
pub fn tables(buckets: u32) -> io::Result<Tables> {
    let tables = Tables {
        config: Mapped::anonymous(1)?,
        endpoints: Mapped::anonymous(2 * limits::ENDPOINT_BUCKETS)?,
        services: Mapped::anonymous(2 * limits::SERVICES)?,
        addresses: Mapped::anonymous(2 * limits::ADDRESSES)?,
        allow: Mapped::anonymous(2 * ALLOW_WORDS)?,
        backends: Mapped::anonymous(limits::BACKENDS)?,
        lines: Mapped::anonymous(limits::TABLE_LINES)?,
        flows: Mapped::anonymous(buckets)?.into(),
        bindings: Mapped::anonymous(limits::BINDINGS)?.into(),
        proxied: Mapped::anonymous(limits::PROXIED_BUCKETS)?.into(),
        kernel: Box::new(FakeKernel::default()),
    };
    let config = Config {
        abi: limits::ABI_VERSION,
        flow_mask: buckets - 1,
        place_seed: [3, 5],
        slot_seed: [7, 11],
        ..Config::ZERO
    };
    tables.config.write(0, &config);
    Ok(tables)
}

#[derive(Default)]
struct FakeKernel {
    denied: BTreeSet<IpNet>,
    routes: BTreeMap<RouteSet, Arc<Routes>>,
    quic: BTreeMap<QuicSetId, Arc<QuicSet>>,
}

impl KernelMaps for FakeKernel {
    fn deny(&mut self, prefix: IpNet) -> io::Result<()> {
        self.denied.insert(prefix);
        Ok(())
    }

    fn undeny(&mut self, prefix: IpNet) -> io::Result<()> {
        self.denied.remove(&prefix);
        Ok(())
    }

    fn denied(&self) -> io::Result<BTreeSet<IpNet>> {
        Ok(self.denied.clone())
    }

    fn write_routes(&mut self, set: RouteSet, routes: &Arc<Routes>) -> io::Result<()> {
        self.routes.insert(set, routes.clone());
        Ok(())
    }

    fn remove_routes(&mut self, set: RouteSet) -> io::Result<()> {
        self.routes.remove(&set);
        Ok(())
    }

    fn routes(&self) -> BTreeMap<RouteSet, Arc<Routes>> {
        self.routes.clone()
    }

    fn write_quic(&mut self, number: QuicSetId, set: &Arc<QuicSet>) -> io::Result<()> {
        self.quic.insert(number, Arc::clone(set));
        Ok(())
    }

    fn remove_quic(&mut self, number: QuicSetId) -> io::Result<()> {
        self.quic.remove(&number);
        Ok(())
    }

    fn quic(&self) -> BTreeMap<QuicSetId, Arc<QuicSet>> {
        self.quic.clone()
    }

    fn stats(&self, _id: BackendId) -> io::Result<BackendStats> {
        Ok(BackendStats::ZERO)
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        Ok(vec![0; COUNTERS as usize])
    }

    fn reset_stats(&mut self, _id: BackendId) -> io::Result<()> {
        Ok(())
    }
}

//! The kernel's LRU hash, which a balancer without a table of its own would use.

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::ProgramFd,
};
use lb_bench::Order;

use super::driver::{Driver, Stream, load_program};

/// Entries of a table in which flows are looked up: twice the largest column,
/// so that the kernel evicts none of them.
const LOOKUP_ENTRIES: u32 = 1 << 21;
/// Entries of the table that is kept full: the rated number of flows.
const INSERT_ENTRIES: u32 = 1 << 20;

/// An LRU hash and two programs that work on it, one operation per packet.
pub(super) struct Lru {
    /// One lookup.
    pub(super) lookup: ProgramFd,
    /// One insertion.
    pub(super) insert: ProgramFd,
    failed: Array<MapData, u64>,
    _ebpf: Ebpf,
}

impl Lru {
    /// A table with the flows of `stream` in it.
    pub(super) fn of_flows(object: &[u8], driver: &mut Driver, stream: &Stream) -> Result<Self> {
        let lru = Self::load(object, LOOKUP_ENTRIES)?;
        // In an order unlike that of any measurement: neighbours in memory
        // must not be neighbours in time.
        let scattered = Stream { order: Order::Scatter, ..stream.clone() };
        driver.run(&scattered, &lru.insert, stream.flows.saturating_mul(3))?;
        driver.visit_all(stream, &lru.insert)?;
        lru.check()?;
        Ok(lru)
    }

    /// A full table. `stream` is one of new flows.
    pub(super) fn full(object: &[u8], driver: &mut Driver, stream: &Stream) -> Result<Self> {
        let lru = Self::load(object, INSERT_ENTRIES)?;
        driver.run(stream, &lru.insert, INSERT_ENTRIES.saturating_mul(2))?;
        lru.check()?;
        Ok(lru)
    }

    /// Fails if any lookup missed or any insertion failed since the load.
    pub(super) fn check(&self) -> Result<()> {
        match self.failed.get(&0, 0)? {
            0 => Ok(()),
            failed => bail!("the baseline is worthless: {failed} operations failed"),
        }
    }

    fn load(object: &[u8], entries: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("TABLE", entries)
            .load(object)
            .context("load the baselines")?;
        Ok(Self {
            lookup: load_program(&mut ebpf, "lru_lookup")?,
            insert: load_program(&mut ebpf, "lru_insert")?,
            failed: ebpf.take_map("FAILED").context("no map `FAILED`")?.try_into()?,
            _ebpf: ebpf,
        })
    }
}

//! The maps that are reached by system calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::Arc,
};

use aya::maps::{LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{addr, stats::BackendStats};

use super::{quic::QuicMaps, routes::RouteMap, tables::KernelMaps};
use crate::core::{
    plan::{BackendId, QuicSetId, RouteSet},
    quic::QuicSet,
    route::Routes,
};

/// The kernel's maps.
pub struct Kernel {
    /// `DENY_V4`, keys as loaded from a frame.
    pub deny_v4: LpmTrie<MapData, u32, u32>,
    /// `DENY_V6`.
    pub deny_v6: LpmTrie<MapData, [u8; 16], u32>,
    /// `ROUTES`.
    pub routes: RouteMap,
    /// `QUIC_CONFIGS` and `QUIC_SERVERS`.
    pub quic: QuicMaps,
    /// `BACKEND_STATS`.
    pub stats: PerCpuArray<MapData, BackendStats>,
    /// `COUNTERS`.
    pub counters: PerCpuArray<MapData, u64>,
}

impl KernelMaps for Kernel {
    fn deny(&mut self, prefix: IpNet) -> io::Result<()> {
        match prefix {
            IpNet::V4(net) => self.deny_v4.insert(&key_v4(net), 1, 0),
            IpNet::V6(net) => self.deny_v6.insert(&key_v6(net), 1, 0),
        }
        .map_err(into_io)
    }

    fn undeny(&mut self, prefix: IpNet) -> io::Result<()> {
        let removed = match prefix {
            IpNet::V4(net) => self.deny_v4.remove(&key_v4(net)),
            IpNet::V6(net) => self.deny_v6.remove(&key_v6(net)),
        };
        match removed.map_err(into_io) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn denied(&self) -> io::Result<BTreeSet<IpNet>> {
        let v4 = self.deny_v4.keys().map(|key| key.map(|key| net_v4(&key)));
        let v6 = self.deny_v6.keys().map(|key| key.map(|key| net_v6(&key)));
        v4.chain(v6).filter_map(Result::transpose).collect::<Result<_, _>>().map_err(into_io)
    }

    fn write_routes(&mut self, set: RouteSet, routes: &Arc<Routes>) -> io::Result<()> {
        self.routes.write(set, routes)
    }

    fn remove_routes(&mut self, set: RouteSet) -> io::Result<()> {
        self.routes.remove(set)
    }

    fn routes(&self) -> BTreeMap<RouteSet, Arc<Routes>> {
        self.routes.sets()
    }

    fn write_quic(&mut self, number: QuicSetId, set: &Arc<QuicSet>) -> io::Result<()> {
        self.quic.write(number, set)
    }

    fn remove_quic(&mut self, number: QuicSetId) -> io::Result<()> {
        self.quic.remove(number)
    }

    fn quic(&self) -> BTreeMap<QuicSetId, Arc<QuicSet>> {
        self.quic.sets()
    }

    fn stats(&self, id: BackendId) -> io::Result<BackendStats> {
        let of_cpus = self.stats.get(&id.into(), 0).map_err(into_io)?;
        Ok(of_cpus.iter().copied().sum())
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        let sum = |number| Ok(self.counters.get(&number, 0).map_err(into_io)?.iter().sum());
        (0..self.counters.len()).map(sum).collect()
    }

    fn reset_stats(&mut self, id: BackendId) -> io::Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let zero = PerCpuValues::try_from(vec![BackendStats::ZERO; cpus])?;
        self.stats.set(id.into(), zero, 0).map_err(into_io)
    }
}

fn key_v4(net: Ipv4Net) -> Key<u32> {
    Key::new(net.prefix_len().into(), addr::v4_word(net.network()))
}

fn key_v6(net: Ipv6Net) -> Key<[u8; 16]> {
    Key::new(net.prefix_len().into(), net.network().octets())
}

fn net_v4(key: &Key<u32>) -> Option<IpNet> {
    let address = Ipv4Addr::from(key.data().to_ne_bytes());
    Some(Ipv4Net::new(address, key.prefix_len() as u8).ok()?.into())
}

fn net_v6(key: &Key<[u8; 16]>) -> Option<IpNet> {
    Some(Ipv6Net::new(key.data().into(), key.prefix_len() as u8).ok()?.into())
}

/// The kernel's own answer, where there is one.
pub(super) fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        MapError::KeyNotFound => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other),
    }
}

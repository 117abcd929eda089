//! `QUIC_CONFIGS` and `QUIC_SERVERS`: sets in the kernel's maps.

use std::{collections::BTreeMap, io, sync::Arc};

use aya::maps::{Array, HashMap, MapData};
use lb_common::{
    limits::QUIC_SETS,
    quic::{self, CidConfig, ROTATIONS},
};

use super::kernel::into_io;
use crate::core::{
    plan::{BackendId, QuicSetId},
    quic::QuicSet,
};

/// The maps. What they hold is read once: nobody else writes them.
pub struct QuicMaps {
    configs: Array<MapData, CidConfig>,
    servers: HashMap<MapData, [u32; 5], u32>,
    sets: BTreeMap<QuicSetId, Arc<QuicSet>>,
}

impl QuicMaps {
    /// Reads what an earlier agent left.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(
        configs: Array<MapData, CidConfig>,
        servers: HashMap<MapData, [u32; 5], u32>,
    ) -> io::Result<Self> {
        let mut sets: BTreeMap<QuicSetId, QuicSet> = BTreeMap::new();
        for index in 0..QUIC_SETS * ROTATIONS {
            let config = configs.get(&index, 0).map_err(into_io)?;
            if config != CidConfig::ZERO {
                let (set, rotation) = (index / ROTATIONS, index % ROTATIONS);
                let set = sets.entry(set as QuicSetId).or_default();
                set.configs.insert(rotation as u8, config);
            }
        }
        for entry in servers.iter() {
            let (key, backend) = entry.map_err(into_io)?;
            let (set, length, id) = quic::parts(key);
            sets.entry(set).or_default().servers.insert((length, id), backend as BackendId);
        }
        let sets = sets.into_iter().map(|(number, set)| (number, Arc::new(set))).collect();
        Ok(Self { configs, servers, sets })
    }

    /// All sets, those written in part included.
    #[must_use]
    pub fn sets(&self) -> BTreeMap<QuicSetId, Arc<QuicSet>> {
        self.sets.clone()
    }

    /// Writes a set.
    ///
    /// # Errors
    /// The kernel's answer; what was written counts as a set.
    pub fn write(&mut self, number: QuicSetId, set: &Arc<QuicSet>) -> io::Result<()> {
        self.sets.insert(number, Arc::clone(set));
        for (&(length, id), &backend) in &set.servers {
            let key = quic::key(number, length, id);
            self.servers.insert(key, u32::from(backend), 0).map_err(into_io)?;
        }
        for (&rotation, config) in &set.configs {
            self.configs.set(index(number, rotation), config, 0).map_err(into_io)?;
        }
        Ok(())
    }

    /// Removes a set, or what there is of it.
    ///
    /// # Errors
    /// The kernel's answer; what is left counts as a set.
    pub fn remove(&mut self, number: QuicSetId) -> io::Result<()> {
        let Some(set) = self.sets.get(&number) else { return Ok(()) };
        for &rotation in set.configs.keys() {
            self.configs.set(index(number, rotation), CidConfig::ZERO, 0).map_err(into_io)?;
        }
        for &(length, id) in set.servers.keys() {
            match self.servers.remove(&quic::key(number, length, id)).map_err(into_io) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.sets.remove(&number);
        Ok(())
    }
}

fn index(set: QuicSetId, rotation: u8) -> u32 {
    quic::index(set, rotation << 5)
}

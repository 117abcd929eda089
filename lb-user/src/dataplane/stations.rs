//! `STATIONS`: bridges whose ports the data plane is attached to, and what is behind these.
//!
//! Whether there are any is a word of `CONFIG`, so that nobody else's packets come near the
//! map. It is stored after the map is filled, and taken away before it is emptied.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{bridge::Station, limits};

use super::{kernel::into_io, tables::Tables};

/// See the module.
pub struct Stations {
    map: HashMap<MapData, Station, u32>,
    /// What the map has, by the parts of its keys.
    known: BTreeMap<(u32, [u8; 6]), u32>,
    full: bool,
}

impl Stations {
    /// Reads what an earlier agent left.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(map: HashMap<MapData, Station, u32>) -> io::Result<Self> {
        let entries = map.iter().map(|entry| entry.map(|(station, port)| (parts(station), port)));
        let known = entries.collect::<Result<_, MapError>>().map_err(into_io)?;
        Ok(Self { map, known, full: false })
    }

    /// Has the map say this; of more than it has room for, the first.
    ///
    /// # Errors
    /// The first that the kernel refused; all others are as they should be.
    pub fn set(&mut self, tables: &Tables, stations: &[(Station, u32)]) -> io::Result<()> {
        let fitting = &stations[..stations.len().min(limits::STATIONS as usize)];
        let full = fitting.len() < stations.len();
        if full && !self.full {
            tracing::warn!(
                stations = stations.len(),
                most = limits::STATIONS,
                "bridges know of more stations than fit: packets to the others are left to the kernel"
            );
        }
        self.full = full;
        if stations.is_empty() {
            tables.set_bridged(false);
        }
        let wanted: BTreeMap<_, _> =
            fitting.iter().map(|(station, port)| (parts(*station), *port)).collect();
        let mut outcome = Ok(());
        let gone: BTreeSet<_> =
            self.known.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for key in gone {
            match self.map.remove(&Station::new(key.0, key.1)) {
                Ok(()) | Err(MapError::KeyNotFound) => drop(self.known.remove(&key)),
                Err(error) => outcome = outcome.and(Err(into_io(error))),
            }
        }
        // In their order: a port's own addresses come before the port.
        for (key, port) in fitting.iter().map(|(station, port)| (parts(*station), *port)) {
            if self.known.get(&key) == Some(&port) {
                continue;
            }
            match self.map.insert(Station::new(key.0, key.1), port, 0) {
                Ok(()) => drop(self.known.insert(key, port)),
                Err(error) => outcome = outcome.and(Err(into_io(error))),
            }
        }
        if !stations.is_empty() {
            tables.set_bridged(true);
        }
        outcome
    }
}

fn parts(station: Station) -> (u32, [u8; 6]) {
    (station.ifindex, station.mac)
}

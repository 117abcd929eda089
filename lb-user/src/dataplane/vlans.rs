//! `VLANS`, and what `PORTS` has of VLANs: by which interface, and with which tag, frames
//! leave that the kernel would send by the interface of a VLAN.

use std::{collections::BTreeMap, io};

use aya::maps::{DevMapHash, HashMap, MapData};

use super::kernel::into_io;
use crate::core::nexthop::Leaving;

/// See the module.
pub struct Vlans {
    map: HashMap<MapData, u32, u32>,
    /// What the maps have.
    known: BTreeMap<u32, Leaving>,
}

impl Vlans {
    /// Forgets what an earlier agent left: the network is told right after the start.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn new(mut map: HashMap<MapData, u32, u32>) -> io::Result<Self> {
        let old: Vec<u32> = map.keys().collect::<Result<_, _>>().map_err(into_io)?;
        for index in old {
            map.remove(&index).map_err(into_io)?;
        }
        Ok(Self { map, known: BTreeMap::new() })
    }

    /// Has the maps say this, of interfaces that frames can leave by.
    ///
    /// # Errors
    /// The kernel's answer; what could be written is.
    pub fn set(
        &mut self,
        ports: &mut DevMapHash<MapData>,
        vlans: BTreeMap<u32, Leaving>,
    ) -> io::Result<()> {
        let known = std::mem::take(&mut self.known);
        for index in known.keys().filter(|index| !vlans.contains_key(index)) {
            self.map.remove(index).map_err(into_io)?;
        }
        for (index, leaving) in vlans.iter().filter(|(index, new)| known.get(index) != Some(new)) {
            if *index != leaving.ifindex {
                let port = ports.insert(*index, leaving.ifindex, None, 0);
                port.map_err(io::Error::other)?;
            }
            self.map.insert(index, u32::from(leaving.vlan), 0).map_err(into_io)?;
        }
        self.known = vlans;
        Ok(())
    }
}

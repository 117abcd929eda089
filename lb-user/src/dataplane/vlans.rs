//! `VLANS`, and what `PORTS` has of VLANs: by which interface, and with which tag, frames
//! leave that the kernel would send by the interface of a VLAN.
//!
//! `PORTS` leads packets there, so its entry comes last and goes first: without it a frame
//! is left to the kernel, and without the other it would leave with a wrong tag.

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
    /// Reads what an earlier agent left.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(map: HashMap<MapData, u32, u32>, ports: &DevMapHash<MapData>) -> io::Result<Self> {
        let known = map.iter().map(|entry| {
            let (index, vlan) = entry.map_err(into_io)?;
            let ifindex = ports.get(index, 0).map_or(index, |port| port.if_index);
            Ok((index, Leaving { ifindex, vlan: vlan as u16 }))
        });
        let known = known.collect::<io::Result<_>>()?;
        Ok(Self { map, known })
    }

    /// Has the maps say this, of interfaces that frames can leave by.
    ///
    /// # Errors
    /// The first that the kernel refused; all others are as they should be.
    pub fn set(
        &mut self,
        ports: &mut DevMapHash<MapData>,
        vlans: &BTreeMap<u32, Leaving>,
    ) -> io::Result<()> {
        let mut outcome = Ok(());
        let gone = self.known.clone().into_iter().filter(|(index, _)| !vlans.contains_key(index));
        for (index, leaving) in gone {
            if index != leaving.ifindex {
                // The kernel forgets it by itself when the interface goes.
                let _ = ports.remove(index);
            }
            match self.map.remove(&index) {
                Ok(()) => drop(self.known.remove(&index)),
                Err(error) => outcome = outcome.and(Err(into_io(error))),
            }
        }
        for (&index, &leaving) in vlans {
            if self.known.get(&index) == Some(&leaving) {
                continue;
            }
            let tagged = self.map.insert(index, u32::from(leaving.vlan), 0).map_err(into_io);
            let led = tagged.and_then(|()| match index == leaving.ifindex {
                true => Ok(()),
                false => ports.insert(index, leaving.ifindex, None, 0).map_err(io::Error::other),
            });
            match led {
                Ok(()) => drop(self.known.insert(index, leaving)),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }
}

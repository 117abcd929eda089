//! `ROUTES`: sets of routes in the kernel's trie, and what is in it.

use std::{collections::BTreeMap, io, sync::Arc};

use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use lb_common::route::{self, Blocks, SET_BITS};

use super::kernel::into_io;
use crate::core::{
    plan::RouteSet,
    route::{Prefix, Routes},
};

/// Data of a key, see [`route::key`].
type Data = [u32; 5];

/// The trie. What it holds is read once: a set may have a million prefixes, and
/// nobody else writes them.
pub struct RouteMap {
    trie: LpmTrie<MapData, Data, Blocks>,
    sets: BTreeMap<RouteSet, Arc<Routes>>,
}

impl RouteMap {
    /// Reads what an earlier agent left.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn read(trie: LpmTrie<MapData, Data, Blocks>) -> io::Result<Self> {
        let mut sets: BTreeMap<RouteSet, Routes> = BTreeMap::new();
        for entry in trie.iter() {
            let (key, blocks) = entry.map_err(into_io)?;
            let (set, prefix) = parts(&key);
            sets.entry(set).or_default().0.insert(prefix, blocks);
        }
        let sets = sets.into_iter().map(|(set, routes)| (set, Arc::new(routes))).collect();
        Ok(Self { trie, sets })
    }

    /// All sets, those written in part included.
    #[must_use]
    pub fn sets(&self) -> BTreeMap<RouteSet, Arc<Routes>> {
        self.sets.clone()
    }

    /// Writes a set.
    ///
    /// # Errors
    /// The kernel's answer; what was written counts as a set.
    pub fn write(&mut self, set: RouteSet, routes: &Arc<Routes>) -> io::Result<()> {
        self.sets.insert(set, routes.clone());
        let mut all = routes.0.iter();
        all.try_for_each(|(&prefix, blocks)| self.trie.insert(&key(set, prefix), *blocks, 0))
            .map_err(into_io)
    }

    /// Removes a set, or what there is of it.
    ///
    /// # Errors
    /// The kernel's answer; what is left counts as a set.
    pub fn remove(&mut self, set: RouteSet) -> io::Result<()> {
        let Some(routes) = self.sets.get(&set) else { return Ok(()) };
        for &prefix in routes.0.keys() {
            match self.trie.remove(&key(set, prefix)).map_err(into_io) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.sets.remove(&set);
        Ok(())
    }
}

fn key(set: RouteSet, prefix: Prefix) -> Key<Data> {
    Key::new(SET_BITS + u32::from(prefix.length()), route::key(set, prefix.words()))
}

fn parts(key: &Key<Data>) -> (RouteSet, Prefix) {
    let [set, address @ ..] = key.data();
    let length = key.prefix_len().saturating_sub(SET_BITS) as u8;
    (set as RouteSet, Prefix::new(bytemuck::cast(address), length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_gives_back_set_and_prefix(set: u16, bytes: [u8; 16], length in 0u8..=128) {
            let prefix = Prefix::new(bytes, length);
            prop_assert_eq!(parts(&key(set, prefix)), (set, prefix));
        }
    }
}

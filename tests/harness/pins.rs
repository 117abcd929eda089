//! What the data plane pinned, read as any other program could.

use std::{fs, path::PathBuf};

use aya::{
    maps::{Array, Map, MapData, MapError, PerCpuArray},
    programs::{ProgramError, ProgramInfo, TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    binding::{self, Binding},
    config::Config,
    flow::{Bucket, FlowValue, SLOTS},
    limits::NAT_SOURCES,
    maps,
    stats::{BackendStats, Counter},
    synproxy::{self, Proxied, Stage},
};

use super::{Error, Result};

/// A directory of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

/// Packets to backends and back through the balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent to backends.
    pub packets: u64,
    /// Replies that were rewritten (mode `nat`).
    pub replies: u64,
}

impl Pins {
    /// Those in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Names of what is pinned, sorted; none if there is no directory.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Packets counted, over all CPUs.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let values = self.open(maps::COUNTERS, |data| {
            PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(data))?.get(&(counter as u32), 0)
        })?;
        Ok(values.iter().sum())
    }

    /// Every counter that is not 0, by name, for messages.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>> {
        let all = Counter::ALL.iter().map(|&counter| Ok((counter.name(), self.counter(counter)?)));
        let all: Result<Vec<_>> = all.collect();
        Ok(all?.into_iter().filter(|&(_, packets)| packets != 0).collect())
    }

    /// Instructions that the kernel's verifier looked at to admit a program.
    ///
    /// # Errors
    /// The program is not pinned, or the kernel does not tell (before Linux 5.16).
    pub fn verified(&self, program: &str) -> Result<u32> {
        let info = ProgramInfo::from_pin(self.dir.join(program));
        let verified = info.map(|info| info.verified_instruction_count());
        verified.ok().flatten().ok_or_else(|| Error::Unexpected {
            what: format!("what the kernel says of `{program}`"),
            found: "no number of verified instructions".to_owned(),
        })
    }

    /// Traffic of all backends, over all CPUs.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn traffic(&self) -> Result<Traffic> {
        let stats = self.open(maps::BACKEND_STATS, |data| {
            let map = PerCpuArray::<_, BackendStats>::try_from(Map::PerCpuArray(data))?;
            map.iter().collect::<Result<Vec<_>, _>>()
        })?;
        let entries = stats.iter().flat_map(|values| values.iter());
        Ok(entries.fold(Traffic::default(), |sum, entry| Traffic {
            packets: sum.packets + entry.packets,
            replies: sum.replies + entry.reply_packets,
        }))
    }

    /// Number of the configuration in force.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn generation(&self) -> Result<u64> {
        let config = self.config()?;
        Ok(config.generations[config.active as usize & 1].number)
    }

    /// The secret that places flows in the affinity table.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn place_seed(&self) -> Result<[u64; 2]> {
        Ok(self.config()?.place_seed)
    }

    /// Entries of the affinity table, live or not.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn recorded(&self) -> Result<usize> {
        let buckets = self.open(maps::FLOWS, |data| {
            let map = Array::<_, Bucket>::try_from(Map::Array(data))?;
            map.iter().collect::<Result<Vec<_>, _>>()
        })?;
        Ok(buckets.iter().flat_map(|bucket| bucket.keys).filter(|&key| key != 0).count())
    }

    /// Ports that flows in mode `fullnat` have, and whether they are of an IPv4 address.
    ///
    /// # Errors
    /// The map, or the program that tells the second, is not pinned.
    pub fn held_ports(&self) -> Result<Vec<(bool, u16)>> {
        let entries = self.open(maps::BINDINGS, |data| {
            let map = Array::<_, Binding>::try_from(Map::Array(data))?;
            map.iter().collect::<Result<Vec<_>, _>>()
        })?;
        let now = self.second()?;
        let is_held = |value: u64| value != 0 && FlowValue(value).left(now) >= 0;
        let held = (0_u32..).zip(entries).filter(|(_, entry)| is_held(entry.value));
        Ok(held.map(|(index, _)| (index >> 16 < NAT_SOURCES, binding::port(index))).collect())
    }

    /// How many connections that SYN cookies opened both sides have.
    ///
    /// # Errors
    /// The map, or the program that tells the second, is not pinned.
    pub fn proxied(&self) -> Result<usize> {
        let buckets = self.open(maps::PROXIED, |data| {
            let map = Array::<_, synproxy::Bucket>::try_from(Map::Array(data))?;
            map.iter().collect::<Result<Vec<_>, _>>()
        })?;
        let now = self.second()?;
        let values = buckets.iter().flat_map(|bucket| bucket.values.map(Proxied));
        let is_open = |value: &Proxied| {
            value.0 != 0 && value.stage() == Stage::Open as u8 && value.left(now) >= 0
        };
        Ok(values.filter(is_open).count())
    }

    /// The data plane's second.
    fn second(&self) -> Result<u16> {
        let failed = |error: ProgramError| Error::Unexpected {
            what: "run the program that tells the time".into(),
            found: error.to_string(),
        };
        let pin = self.dir.join(maps::CLOCK_PROGRAM);
        let program = Xdp::from_pin(pin, XdpAttachType::Interface).map_err(failed)?;
        let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() };
        let second = program.test_run(options).map_err(failed)?.return_value;
        u16::try_from(second).map_err(|_| Error::Unexpected {
            what: "tell the time".into(),
            found: second.to_string(),
        })
    }

    /// Empties every other bucket, as nothing of the product does: the number of flows
    /// that are lost with them.
    ///
    /// # Errors
    /// The map is not pinned.
    pub fn lose_flows(&self) -> Result<usize> {
        let before = self.recorded()?;
        self.open(maps::FLOWS, |data| {
            let mut map = Array::<_, Bucket>::try_from(Map::Array(data))?;
            let empty = Bucket { keys: [0; SLOTS], values: [0; SLOTS] };
            (0..map.len()).step_by(2).try_for_each(|index| map.set(index, empty, 0))
        })?;
        Ok(before - self.recorded()?)
    }

    fn config(&self) -> Result<Config> {
        self.open(maps::CONFIG, |data| Array::<_, Config>::try_from(Map::Array(data))?.get(&0, 0))
    }

    fn open<T>(&self, name: &str, read: impl Fn(MapData) -> Result<T, MapError>) -> Result<T> {
        let path = self.dir.join(name);
        MapData::from_pin(&path)
            .and_then(read)
            .map_err(|source| Error::Map { map: path.display().to_string(), source })
    }
}

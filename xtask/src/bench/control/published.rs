//! What the data plane goes by, seen as it sees it: in the maps' memory.

use std::{mem::offset_of, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use lb_common::{config::Config, limits, maps, service::Service};
use lb_tests::harness::Lab;

use crate::bench::os::ArrayMemory;

/// The maps that say which lookup table a service has.
pub(super) struct Published {
    config: ArrayMemory,
    services: ArrayMemory,
}

impl Published {
    /// Of the lab's running balancer.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let dir = lab.config([]).pin_dir;
        let map = |name: &str, length| {
            let data =
                MapData::from_pin(dir.join(name)).with_context(|| format!("open `{name}`"))?;
            ArrayMemory::map(data.fd().as_fd(), length)
        };
        let services = 2 * limits::SERVICES as usize * size_of::<Service>();
        Ok(Self {
            config: map(maps::CONFIG, size_of::<Config>())?,
            services: map(maps::SERVICES, services)?,
        })
    }

    /// Where the tables of all services lie, by service: any change of a weight
    /// puts another table in force.
    pub(super) fn tables(&self) -> Vec<u64> {
        let bank = self.config.word(offset_of!(Config, active)) as u32 & 1;
        let ids = bank * limits::SERVICES..(bank + 1) * limits::SERVICES;
        let table = |id: u32| id as usize * size_of::<Service>() + offset_of!(Service, table);
        ids.map(|id| self.services.word(table(id))).collect()
    }
}

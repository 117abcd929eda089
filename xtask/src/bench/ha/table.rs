//! A node's affinity table, seen as packets see it.

use std::{net::IpAddr, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use lb_bench::{address_of, port_of};
use lb_common::{
    addr::to_bytes,
    config::Config,
    flow::{Bucket, FlowState, FlowValue, SLOTS},
    hash::{flow_key_v4, place},
    limits, maps,
    service::Service,
};

use super::load::FIRST;
use crate::bench::os::ArrayMemory;

/// The table, and what names the flows of one service in it.
pub(super) struct Table {
    flows: ArrayMemory,
    config: Config,
    service: u16,
}

impl Table {
    /// Of the service at a VIP, by the pins of a node.
    pub(super) fn of(pins: &Path, vip: IpAddr) -> Result<Self> {
        let config: Config = array(&pins.join(maps::CONFIG))?.get(&0, 0)?;
        let services: Array<_, Service> = array(&pins.join(maps::SERVICES))?;
        let bank = (config.active & 1) * limits::SERVICES;
        let service = (1..limits::SERVICES)
            .find(|id| services.get(&(bank + id), 0).is_ok_and(|one| one.vip == to_bytes(vip)))
            .with_context(|| format!("no service at {vip}"))?;
        let flows = open(&pins.join(maps::FLOWS))?;
        let bytes = (config.flow_mask as usize + 1) * size_of::<Bucket>();
        let flows = ArrayMemory::map(flows.fd().as_fd(), bytes)?;
        Ok(Self { flows, config, service: u16::try_from(service)? })
    }

    /// The backend of an established flow, by the flow's number.
    pub(super) fn backend(&self, flow: u32) -> Option<u16> {
        let address = FIRST + address_of(flow);
        let key = flow_key_v4(address.to_be(), port_of(flow).to_be(), self.service);
        let at = place(key, self.config.place_seed, self.config.flow_mask);
        let slots = [at.primary, at.alternate].into_iter().flat_map(|bucket| {
            (0..SLOTS).map(move |slot| bucket as usize * size_of::<Bucket>() + slot * 8)
        });
        let mut own = slots.filter(|slot| self.flows.word(*slot) == key);
        let value = FlowValue(self.flows.word(own.next()? + SLOTS * 8));
        let is_whole = value.tag() == at.tag && value.state() == FlowState::Established as u8;
        is_whole.then(|| value.backend())
    }

    /// Forgets all flows.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
    }
}

fn array<T: aya::Pod>(path: &Path) -> Result<Array<MapData, T>> {
    Ok(Array::try_from(Map::Array(open(path)?))?)
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("open `{}`", path.display()))
}

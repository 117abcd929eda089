//! What the agent pinned.

use std::path::Path;

use aya::{
    maps::{Array, Map, MapData, PerCpuArray},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;

pub(crate) fn program(pins: &Path, name: &str) -> Xdp {
    Xdp::from_pin(pins.join(name), XdpAttachType::Interface).expect("a pinned program")
}

pub(crate) fn data(pins: &Path, name: &str) -> MapData {
    MapData::from_pin(pins.join(name)).expect("a pinned map")
}

pub(crate) fn array<T: aya::Pod>(pins: &Path, name: &str) -> Array<MapData, T> {
    Array::try_from(Map::Array(data(pins, name))).expect("an array of this type")
}

pub(crate) fn per_cpu<T: aya::Pod>(pins: &Path, name: &str) -> PerCpuArray<MapData, T> {
    PerCpuArray::try_from(Map::PerCpuArray(data(pins, name))).expect("an array of this type")
}

//! What the lookup tables and the affinity table say about a flow, read from
//! the maps with the arithmetic that both sides share.

use std::net::IpAddr;

use lb_common::{
    addr::{to_bytes, v4_of, words},
    config::Config,
    flow::{Bucket, FlowValue, Timeouts},
    hash::{self, Place},
    limits, maps,
    route::{self, SET_BITS},
    service::{Service, flags},
    table::{LINE_SLOTS, TableRef, slot},
};

use aya::maps::lpm_trie::Key;

use super::{
    frame::{Body, Frame, TCP, UDP},
    subject::Subject,
};

/// Services that are looked at; no test has more.
const SERVICES: u32 = 64;

/// What the two tables of a service say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) current: IpAddr,
    pub(crate) previous: IpAddr,
}

/// A flow's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) backend: IpAddr,
    /// Number of a [`lb_common::flow::FlowState`].
    pub(crate) state: u8,
    pub(crate) expires: u16,
}

impl Subject<'_> {
    pub(super) fn config(&self) -> Config {
        self.config.get(&0, 0).expect("the entry of CONFIG")
    }

    /// Id and entry of the service that a request is for.
    pub(super) fn service_of(&self, request: &Frame) -> (u16, Service) {
        let (_, proto, _, destination) = flow(request);
        let first = (self.config().active & 1) * limits::SERVICES;
        let entries = (1..SERVICES).map(|id| {
            let entry = self.services.get(&(first + id), 0).expect("an entry of SERVICES");
            (id as u16, entry)
        });
        let fits = |entry: &Service| {
            let (low, high) = (u16::from_be(entry.port_first), u16::from_be(entry.port_last));
            entry.flags & flags::IN_USE != 0
                && entry.vip == to_bytes(request.packet.destination)
                && entry.proto == proto
                && (low..=high).contains(&destination)
        };
        let mut fitting: Vec<_> = entries.filter(|(_, entry)| fits(entry)).collect();
        fitting.sort_by_key(|(_, e)| u16::from_be(e.port_last) - u16::from_be(e.port_first));
        *fitting.first().expect("a service for this request")
    }

    /// The backends that the tables give to a request's flow.
    pub(crate) fn choice(&self, request: &Frame) -> Choice {
        let (_, service) = self.service_of(request);
        let (source, proto, source_port, destination_port) = flow(request);
        let destination = to_bytes(request.packet.destination);
        let ports = hash::ports(source_port.to_be(), destination_port.to_be());
        let seed = self.config().slot_seed;
        let v4 = request.packet.source.is_ipv4();
        let address = if v4 { [u64::from(v4_of(source)), 0] } else { words(source) };
        let client = hash::client(address, seed);
        let hash = if service.flags & flags::CLIENT != 0 {
            (client >> 32) as u32
        } else if v4 {
            hash::slot_v4(v4_of(source), v4_of(destination), ports, proto, seed)
        } else {
            hash::slot_v6(words(source), words(destination), ports, proto, seed)
        };
        let look = |table: TableRef| {
            let (first, count) = match table.routes() {
                0 => (0, table.blocks()),
                set => self.routed(set, address),
            };
            let block = first + slot(client as u32, count);
            let slot = block * table.slots() + slot(hash, table.slots());
            let line = table.first() + slot / LINE_SLOTS;
            let line = self.tables.get(&line, 0).expect("a line of TABLES");
            self.backend_address(u32::from(line.slots[(slot % LINE_SLOTS) as usize]))
        };
        Choice { current: look(service.table), previous: look(service.previous) }
    }

    /// First of the blocks that a client's route leads to, and how many.
    fn routed(&self, set: u16, address: [u64; 2]) -> (u32, u32) {
        let key = Key::new(SET_BITS + 128, route::key(set, address));
        let blocks = self.routes().get(&key, 0).expect("a way for everybody");
        (blocks.first(), blocks.count())
    }

    /// Key and place of a request's flow.
    fn place(&self, request: &Frame) -> (u64, Place) {
        let (id, service) = self.service_of(request);
        let (source, _, source_port, destination_port) = flow(request);
        let config = self.config();
        let by_client = service.flags & flags::CLIENT != 0;
        let source_port = if by_client { 0 } else { source_port };
        let destination_port = if by_client { 0 } else { destination_port };
        let ports = hash::ports(source_port.to_be(), destination_port.to_be());
        let key = match (request.packet.source.is_ipv4(), service.flags & flags::RANGE == 0) {
            (true, true) => hash::flow_key_v4(v4_of(source), source_port.to_be(), id),
            (true, false) => {
                let source = [u64::from(v4_of(source)), 0];
                hash::flow_key_hashed(source, ports, service.salt, config.place_seed)
            }
            (false, _) => {
                hash::flow_key_hashed(words(source), ports, service.salt, config.place_seed)
            }
        };
        (key, hash::place(key, config.place_seed, config.flow_mask))
    }

    /// Bucket and slot of a request's flow.
    pub(super) fn slot_of(&self, request: &Frame) -> Option<(u32, usize)> {
        let (key, place) = self.place(request);
        [place.primary, place.alternate].into_iter().find_map(|index| {
            let slot = self.bucket(index).keys.iter().position(|&found| found == key)?;
            Some((index, slot))
        })
    }

    /// The affinity entry of a request's flow, live or not.
    pub(crate) fn entry(&self, request: &Frame) -> Option<Entry> {
        let (index, slot) = self.slot_of(request)?;
        let value = FlowValue(self.bucket(index).values[slot]);
        (value.tag() == self.place(request).1.tag).then(|| Entry {
            backend: self.backend_address(u32::from(value.backend())),
            state: value.state(),
            expires: value.expires(),
        })
    }

    /// Rewrites the value of a request's flow, as another CPU or the agent might.
    pub(crate) fn rewrite(&self, request: &Frame, change: impl Fn(FlowValue) -> FlowValue) {
        let (index, slot) = self.slot_of(request).expect("the flow is recorded");
        let mut bucket = self.bucket(index);
        bucket.values[slot] = change(FlowValue(bucket.values[slot])).0;
        self.writable(maps::FLOWS).set(index, bucket, 0).expect("a bucket of FLOWS");
    }

    /// How long flows of a request's service live.
    pub(crate) fn timeouts(&self, request: &Frame) -> Timeouts {
        let (_, service) = self.service_of(request);
        Timeouts {
            embryonic: service.embryonic_timeout,
            established: service.established_timeout,
            closing: service.closing_timeout,
        }
    }

    /// Id of a backend that serves, of the service of a request or of another.
    pub(crate) fn backend_id(&self, request: &Frame, own: bool, address: IpAddr) -> u16 {
        let (service, _) = self.service_of(request);
        let fits = |id: &u32| {
            let entry = self.backends.get(id, 0).expect("an entry of BACKENDS");
            entry.addr == to_bytes(address) && (entry.service == service) == own
        };
        (1..128).find(fits).expect("such a backend") as u16
    }

    fn bucket(&self, index: u32) -> Bucket {
        self.flows.get(&index, 0).expect("a bucket of FLOWS")
    }

    /// Everything in the affinity table.
    pub(crate) fn all_flows(&self) -> Vec<(u64, FlowValue)> {
        let buckets = (0..=self.config().flow_mask).map(|index| self.bucket(index));
        let slots = buckets.flat_map(|bucket| {
            bucket.keys.into_iter().zip(bucket.values.map(FlowValue)).collect::<Vec<_>>()
        });
        slots.filter(|(key, _)| *key != 0).collect()
    }
}

/// Source, protocol, source and destination port of a request.
fn flow(request: &Frame) -> ([u8; 16], u8, u16, u16) {
    let (proto, source, destination) = match &request.packet.body {
        Body::Tcp(tcp) => (TCP, tcp.source, tcp.destination),
        Body::Udp(udp) => (UDP, udp.source, udp.destination),
        other => panic!("no flow: {other:?}"),
    };
    (to_bytes(request.packet.source), proto, source, destination)
}

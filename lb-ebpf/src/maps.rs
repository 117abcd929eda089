//! Every map, its key, size, who writes and who reads it.
//!
//! *Banked* maps hold two generations; the packet path reads the one that
//! `CONFIG` names. All arrays but the per-CPU ones are memory-mapped by the
//! agent.

use aya_ebpf::{
    btf_maps::{
        Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
    },
    macros::btf_map,
    maps::lpm_trie::Key,
};
use lb_common::{
    backend::Backend,
    binding::{self, Binding},
    bridge::Station,
    change::ChangeLine,
    config::Config,
    firewall::{ALLOW_WORDS, AllowWord},
    flow::Bucket,
    fragment::{Course, Datagram},
    limits,
    nexthop::CachedHop,
    notice::Notice,
    probe::Probed,
    quic::{self, CidConfig},
    route::Blocks,
    service::{Address, EndpointBucket, Service},
    stats::{self, BackendStats},
    synproxy,
    table::Line,
    trace::Record,
};

use crate::synproxy::Options;

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`: which tries must have, and what grows with use.
const NO_PREALLOC: usize = 1;

/// One entry. Written by the agent; read first by every packet.
#[btf_map]
pub(crate) static CONFIG: Array<Config, 1, MMAPABLE> = Array::new();

/// Banked: services, addresses and reply endpoints by hash. Written by the agent.
#[btf_map]
pub(crate) static ENDPOINTS: Array<
    EndpointBucket,
    { 2 * limits::ENDPOINT_BUCKETS as usize },
    MMAPABLE,
> = Array::new();

/// Banked: by service id. Written by the agent.
#[btf_map]
pub(crate) static SERVICES: Array<Service, { 2 * limits::SERVICES as usize }, MMAPABLE> =
    Array::new();

/// Banked: VIPs and host addresses. Written by the agent.
#[btf_map]
pub(crate) static ADDRESSES: Array<Address, { 2 * limits::ADDRESSES as usize }, MMAPABLE> =
    Array::new();

/// Banked: bits of `firewall.allow`. Written by the agent.
#[btf_map]
pub(crate) static ALLOW: Array<AllowWord, { 2 * ALLOW_WORDS as usize }, MMAPABLE> = Array::new();

/// By backend id. Written by the agent, in place.
#[btf_map]
pub(crate) static BACKENDS: Array<Backend, { limits::BACKENDS as usize }, MMAPABLE> = Array::new();

/// Lines of Maglev tables. Written by the agent where no service refers to.
#[btf_map]
pub(crate) static TABLES: Array<Line, { limits::TABLE_LINES as usize }, MMAPABLE> = Array::new();

/// The affinity table; as many buckets as rated flows, set at load. Written by
/// packets; swept by the agent.
#[btf_map]
pub(crate) static FLOWS: Array<Bucket, 1024, MMAPABLE> = Array::new();

/// Marks of buckets of `FLOWS`, a line for each 32, set at load. Written by
/// packets; taken by the agent.
#[btf_map]
pub(crate) static CHANGES: Array<ChangeLine, 32, MMAPABLE> = Array::new();

/// Interface index -> interface; of a VLAN that which carries it. Written by the agent.
#[btf_map]
pub(crate) static PORTS: DevMapHash<{ (limits::PORTS + limits::VLANS) as usize }> =
    DevMapHash::new();

/// Interface index -> [`lb_common::nexthop::vlan`]. Written by the agent.
#[btf_map]
pub(crate) static VLANS: HashMap<u32, u32, { limits::VLANS as usize }> = HashMap::new();

/// Written by the agent; read where the data plane is attached to ports of bridges.
#[btf_map]
pub(crate) static STATIONS: HashMap<Station, u32, { limits::STATIONS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Denied IPv4 prefixes. Written by the agent.
#[btf_map]
pub(crate) static DENY_V4: LpmTrie<u32, u32, { limits::DENY_PREFIXES as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// Denied IPv6 prefixes. Written by the agent.
#[btf_map]
pub(crate) static DENY_V6: LpmTrie<[u64; 2], u32, { limits::DENY_PREFIXES as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// Routes and sources of services by [`lb_common::route::key`]. Written by the agent in
/// sets that no service refers to.
#[btf_map]
pub(crate) static ROUTES: LpmTrie<
    [u32; 5],
    Blocks,
    { limits::ROUTE_PREFIXES as usize },
    NO_PREALLOC,
> = LpmTrie::new();

/// By backend id and CPU. Written by packets, read by the agent.
#[btf_map]
pub(crate) static BACKEND_STATS: PerCpuArray<BackendStats, { limits::BACKENDS as usize }> =
    PerCpuArray::new();

/// By `Counter` and CPU. Written by packets, read by the agent.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { stats::COUNTERS as usize }> = PerCpuArray::new();

/// Next hops towards clients by CPU. Written and read by packets only.
#[btf_map]
pub(crate) static NEXT_HOPS: PerCpuArray<CachedHop, { limits::NEXT_HOPS as usize + 1 }> =
    PerCpuArray::new();

/// One entry: room for a question to the kernel's routing, which the stack has not.
/// Written and read by packets only. Not pinned: it holds nothing.
#[btf_map]
pub(crate) static QUESTION: PerCpuArray<[u64; 8], 1> = PerCpuArray::new();

/// One entry: when the next refusal is due by CPU, see [`lb_common::pace`].
/// Written and read by packets only.
#[btf_map]
pub(crate) static REFUSALS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Moments of SYNs by hash of the flow, see [`lb_common::handshake`]. Written
/// and read by packets only.
#[btf_map]
pub(crate) static HANDSHAKES: Array<u64, { limits::HANDSHAKES as usize }> = Array::new();

/// When sources may begin the next flow, see [`lb_common::rate`]. Written and read by
/// packets only.
#[btf_map]
pub(crate) static SOURCES: Array<u64, { limits::SOURCE_BUCKETS as usize }> = Array::new();

/// Ends of leases by position of the group, see [`lb_common::lease`]. Written by
/// the agent.
#[btf_map]
pub(crate) static LEASES: Array<u64, { limits::GROUPS as usize }, MMAPABLE> = Array::new();

/// One entry: what a run that only explains found. Written by `lb_explain`,
/// cleared and read by the agent.
#[btf_map]
pub(crate) static TRACE: Array<Record, 1, MMAPABLE> = Array::new();

/// Where first fragments went. Written and read by packets only.
#[btf_map]
pub(crate) static COURSES: LruHashMap<Datagram, Course, { limits::DATAGRAMS as usize }> =
    LruHashMap::new();

/// One entry: how many datagrams were given an identification of our own. Written and read
/// by packets only.
#[btf_map]
pub(crate) static IDENTIFICATIONS: Array<u64, 1> = Array::new();

/// One entry: `lb_fragment`. Written by the agent.
#[btf_map]
pub(crate) static FRAGMENT_PATH: ProgramArray<1> = ProgramArray::new();

/// By [`lb_common::quic::index`]. Written by the agent in sets that no service refers to.
#[btf_map]
pub(crate) static QUIC_CONFIGS: Array<
    CidConfig,
    { (limits::QUIC_SETS * quic::ROTATIONS) as usize },
> = Array::new();

/// Server IDs by [`lb_common::quic::key`] -> backend id. Written by the agent likewise.
#[btf_map]
pub(crate) static QUIC_SERVERS: HashMap<
    [u32; 5],
    u32,
    { limits::SERVER_IDS as usize },
    NO_PREALLOC,
> = HashMap::new();

/// One entry: a block that the cipher made, for which registers have no room. Written and
/// read by packets only. Not pinned: it holds nothing.
#[btf_map]
pub(crate) static QUIC_BLOCK: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// One entry: `lb_quic`. Written by the agent.
#[btf_map]
pub(crate) static QUIC_PATH: ProgramArray<1> = ProgramArray::new();

/// Ports of `node.nat_sources` by [`binding::index`], and whose they are. Written by
/// packets by compare-and-swap, see [`lb_common::binding`]; swept by the agent.
#[btf_map]
pub(crate) static BINDINGS: Array<Binding, { limits::BINDINGS as usize }, MMAPABLE> = Array::new();

/// Flows in mode `fullnat` -> index in `BINDINGS`. Written and read by packets only. Each
/// port that may be taken has one key here at most, and a CPU another for a moment; there
/// is room for both, since the lowest ports are not taken.
#[btf_map]
pub(crate) static BOUND: HashMap<binding::Flow, u32, { limits::BINDINGS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Where the next port is looked for, IPv6 and IPv4, by CPU; 0: nowhere yet. Written and
/// read by packets only. Not pinned: any place will do.
#[btf_map]
pub(crate) static CURSORS: PerCpuArray<u32, 2> = PerCpuArray::new();

/// One entry: the packet that goes on in `lb_fullnat`. Not pinned: it lives as long as a
/// packet.
#[btf_map]
pub(crate) static TASK: PerCpuArray<binding::Task, 1> = PerCpuArray::new();

/// One entry: `lb_fullnat`. Written by the agent.
#[btf_map]
pub(crate) static FULLNAT_PATH: ProgramArray<1> = ProgramArray::new();

/// Connections that SYN cookies opened, see [`lb_common::synproxy`]. Written by packets by
/// compare-and-swap; swept by the agent, which enters the peer's.
#[btf_map]
pub(crate) static PROXIED: Array<synproxy::Bucket, { limits::PROXIED_BUCKETS as usize }, MMAPABLE> =
    Array::new();

/// Marks of buckets of `PROXIED`, as `CHANGES` has of `FLOWS`. Written by packets; taken by
/// the agent.
#[btf_map]
pub(crate) static PROXIED_CHANGES: Array<
    ChangeLine,
    { (limits::PROXIED_BUCKETS / lb_common::change::BUCKETS) as usize },
    MMAPABLE,
> = Array::new();

/// When services are to see the next SYN, by id. Written and read by packets only.
#[btf_map]
pub(crate) static SYNS: Array<u64, { limits::SERVICES as usize }> = Array::new();

/// Periods of the latest cookies of services, by id, see [`lb_common::cookie::period`].
/// Written and read by packets only.
#[btf_map]
pub(crate) static ASKED: Array<u64, { limits::SERVICES as usize }> = Array::new();

/// One entry: what the options of a TCP header say. Written and read by packets only. Not
/// pinned: it lives as long as a packet.
#[btf_map]
pub(crate) static OPTIONS: PerCpuArray<Options, 1> = PerCpuArray::new();

/// One entry: `lb_synproxy`. Written by the agent.
#[btf_map]
pub(crate) static SYNPROXY_PATH: ProgramArray<1> = ProgramArray::new();

/// What the agent should know, or find out. Written by packets.
#[btf_map]
pub(crate) static NOTICES: RingBuf<Notice, { limits::NOTICE_BYTES as usize }> = RingBuf::new();

/// Flows that probe for a VIP -> address of the backend that is meant, in two
/// words. Written and read by packets only. Not pinned: probing ends with the
/// agent.
#[btf_map]
pub(crate) static PROBES: LruHashMap<Probed, [u64; 2], { limits::PROBES as usize }> =
    LruHashMap::new();

/// A full-length key for a trie lookup.
pub(crate) type TrieKey<T> = Key<T>;

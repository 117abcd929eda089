//! Names of maps, programs and pins. A map is pinned under its own name.

/// [`crate::config::Config`], one entry.
pub const CONFIG: &str = "CONFIG";
/// [`crate::service::EndpointBucket`], two generations.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// [`crate::service::Service`], two generations.
pub const SERVICES: &str = "SERVICES";
/// [`crate::service::Address`], two generations.
pub const ADDRESSES: &str = "ADDRESSES";
/// [`crate::firewall::AllowWord`], two generations.
pub const ALLOW: &str = "ALLOW";
/// [`crate::backend::Backend`].
pub const BACKENDS: &str = "BACKENDS";
/// [`crate::table::Line`].
pub const TABLES: &str = "TABLES";
/// [`crate::flow::Bucket`], the affinity table.
pub const FLOWS: &str = "FLOWS";
/// [`crate::change::ChangeLine`]: what changed in [`FLOWS`].
pub const CHANGES: &str = "CHANGES";
/// Interfaces to redirect to, a device map keyed by interface index. That of a VLAN is led
/// to the one that carries it.
pub const PORTS: &str = "PORTS";
/// Denied IPv4 sources, a longest-prefix-match trie.
pub const DENY_V4: &str = "DENY_V4";
/// Denied IPv6 sources, a longest-prefix-match trie.
pub const DENY_V6: &str = "DENY_V6";
/// [`crate::route::Blocks`] by set and source, a longest-prefix-match trie.
pub const ROUTES: &str = "ROUTES";
/// [`crate::stats::BackendStats`] per CPU.
pub const BACKEND_STATS: &str = "BACKEND_STATS";
/// Packets by [`crate::stats::Counter`], `u64` per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// [`crate::nexthop::CachedHop`] per CPU; private to the packet path.
pub const NEXT_HOPS: &str = "NEXT_HOPS";
/// [`crate::nexthop::vlan`] by index of the interface that the kernel would send by.
pub const VLANS: &str = "VLANS";
/// Indexes of interfaces by [`crate::bridge::Station`].
pub const STATIONS: &str = "STATIONS";
/// [`crate::notice::Notice`], a ring buffer.
pub const NOTICES: &str = "NOTICES";

/// When the next refusal is due, see [`crate::pace`], per CPU; private to the
/// packet path.
pub const REFUSALS: &str = "REFUSALS";

/// [`crate::handshake::Begun`] as a word; private to the packet path.
pub const HANDSHAKES: &str = "HANDSHAKES";

/// When sources may begin the next flow, see [`crate::rate`]; private to the packet path.
pub const SOURCES: &str = "SOURCES";

/// [`crate::fragment::Datagram`] -> [`crate::fragment::Course`]; private to the packet
/// path.
pub const COURSES: &str = "COURSES";
/// How many datagrams were given an identification; private to the packet path.
pub const IDENTIFICATIONS: &str = "IDENTIFICATIONS";
/// One entry: the program that fragments go on in.
pub const FRAGMENT_PATH: &str = "FRAGMENT_PATH";

/// [`crate::quic::CidConfig`] by set and rotation.
pub const QUIC_CONFIGS: &str = "QUIC_CONFIGS";
/// Backend ids by set and server ID, see [`crate::quic::key`].
pub const QUIC_SERVERS: &str = "QUIC_SERVERS";
/// One entry: the program that packets of QUIC services go on in.
pub const QUIC_PATH: &str = "QUIC_PATH";
/// [`crate::binding::Binding`] by [`crate::binding::index`].
pub const BINDINGS: &str = "BINDINGS";
/// [`crate::binding::Flow`] -> index in [`BINDINGS`].
pub const BOUND: &str = "BOUND";
/// One entry: the program that flows in mode `fullnat` go on in.
pub const FULLNAT_PATH: &str = "FULLNAT_PATH";

/// [`crate::synproxy::Bucket`].
pub const PROXIED: &str = "PROXIED";
/// [`crate::change::ChangeLine`]: what changed in [`PROXIED`].
pub const PROXIED_CHANGES: &str = "PROXIED_CHANGES";
/// When services are to see the next SYN, see [`crate::synproxy::SynRate`]; private to the
/// packet path.
pub const SYNS: &str = "SYNS";
/// When services sent a SYN cookie last; private to the packet path.
pub const ASKED: &str = "ASKED";
/// One entry: the program that services with SYN cookies go on in.
pub const SYNPROXY_PATH: &str = "SYNPROXY_PATH";

/// Ends of leases by position of the group, see [`crate::lease`].
pub const LEASES: &str = "LEASES";

/// [`crate::trace::Record`], one entry.
pub const TRACE: &str = "TRACE";

/// Every map that is pinned and adopted.
pub const PINNED: [&str; 38] = [
    CONFIG,
    ENDPOINTS,
    SERVICES,
    ADDRESSES,
    ALLOW,
    BACKENDS,
    TABLES,
    FLOWS,
    CHANGES,
    PORTS,
    DENY_V4,
    DENY_V6,
    ROUTES,
    BACKEND_STATS,
    COUNTERS,
    NEXT_HOPS,
    VLANS,
    STATIONS,
    NOTICES,
    COURSES,
    IDENTIFICATIONS,
    FRAGMENT_PATH,
    QUIC_CONFIGS,
    QUIC_SERVERS,
    QUIC_PATH,
    BINDINGS,
    BOUND,
    FULLNAT_PATH,
    PROXIED,
    PROXIED_CHANGES,
    SYNS,
    ASKED,
    SYNPROXY_PATH,
    REFUSALS,
    HANDSHAKES,
    SOURCES,
    LEASES,
    TRACE,
];

/// The XDP program, and its pin.
pub const PROGRAM: &str = "lb_xdp";
/// The program that tells the data plane's clock, and its pin.
pub const CLOCK_PROGRAM: &str = "lb_clock";
/// The program that fragments go on in.
pub const FRAGMENT_PROGRAM: &str = "lb_fragment";
/// The program that packets of QUIC services go on in.
pub const QUIC_PROGRAM: &str = "lb_quic";
/// The program that flows in mode `fullnat` go on in.
pub const FULLNAT_PROGRAM: &str = "lb_fullnat";
/// The program that packets of services with SYN cookies go on in.
pub const SYNPROXY_PROGRAM: &str = "lb_synproxy";
/// The program that explains what [`PROGRAM`] would do, and its pin.
pub const EXPLAIN_PROGRAM: &str = "lb_explain";
/// All programs that are pinned.
pub const PROGRAMS: [&str; 7] = [
    PROGRAM,
    FRAGMENT_PROGRAM,
    FULLNAT_PROGRAM,
    QUIC_PROGRAM,
    SYNPROXY_PROGRAM,
    CLOCK_PROGRAM,
    EXPLAIN_PROGRAM,
];
/// The program that sends probes of `dsr` services to the VIP; not pinned.
pub const PROBE_OUT_PROGRAM: &str = "lb_probe_out";
/// The program that takes their answers; not pinned.
pub const PROBE_IN_PROGRAM: &str = "lb_probe_in";
/// Pin of an interface's link: this and the interface's index.
pub const LINK_PREFIX: &str = "link_";

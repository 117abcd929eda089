//! Sizes, with the memory they cost. All are entries of preallocated maps.

/// Layout of the maps; a data plane with another number cannot be adopted.
pub const ABI_VERSION: u32 = 7;

/// Services at most, ids 1 to this - 1 (two generations of 64 B: 512 KiB).
pub const SERVICES: u32 = 4096;
/// Backends at most, ids 1 to this - 1 (64 B: 1 MiB, and 64 B per CPU of counters).
pub const BACKENDS: u32 = 16_384;
/// VIPs and host addresses at most (two generations of 160 B: 1.25 MiB).
pub const ADDRESSES: u32 = 4096;
/// Buckets of the endpoint table per generation (two of 64 B: 4 MiB).
pub const ENDPOINT_BUCKETS: u32 = 32_768;
/// Lines of `TABLES` (64 B, 32 slots each: 32 MiB), room for 4095 tables of
/// 4093 slots, 1023 of 16381 or 255 of 65537 (line 0 is nobody's). A changed
/// table needs room beside the one it replaces.
pub const TABLE_LINES: u32 = 1 << 19;
/// Interfaces at most.
pub const PORTS: u32 = 64;
/// VLANs on interfaces at most, and these interfaces.
pub const VLANS: u32 = 1024;
/// Stations behind ports of bridges at most, with the bridges' own addresses; memory is
/// taken as they come.
pub const STATIONS: u32 = 16_384;
/// Cached next hops towards clients, per CPU (64 B: 1 MiB per CPU), and one
/// more for runs that only explain.
pub const NEXT_HOPS: u32 = 16_384;
/// Handshakes under way that are timed, a power of two (8 B: 64 KiB).
pub const HANDSHAKES: u32 = 8192;
/// Prefixes of `firewall.deny_sources` per family (kernel trie, grows with use).
pub const DENY_PREFIXES: u32 = 65_536;
/// Flows that probe for a VIP (about 128 B each). Far more than are in flight
/// at any time: the kernel gives up the least recently used ones early.
pub const PROBES: u32 = 4096;
/// Prefixes of `service.route` of all services, old and new sets together
/// (kernel trie, grows with use: up to 200 B each).
pub const ROUTE_PREFIXES: u32 = 1 << 20;
/// Buckets of what sources may begin, a power of two (8 B: 1 MiB).
pub const SOURCE_BUCKETS: u32 = 1 << 17;
/// Datagrams whose fragments are on their way (about 128 B each): the kernel gives up
/// the least recently used ones early.
pub const DATAGRAMS: u32 = 16_384;
/// Sets of QUIC configurations at most, numbers 1 to this - 1 (1472 B: 368 KiB).
pub const QUIC_SETS: u32 = 256;
/// Server IDs of QUIC, of old and new sets together (kernel hash table, grows with use:
/// up to 96 B each).
pub const SERVER_IDS: u32 = 65_536;
/// Addresses of `node.nat_sources` of each family at most, a power of two.
pub const NAT_SOURCES: u32 = 4;
/// Ports of all addresses of `node.nat_sources`, and flows in mode `fullnat` at most:
/// 64,512 for each address (32 B: 16 MiB, and 8 MiB to find them by; about 96 B more for
/// each that is in use).
pub const BINDINGS: u32 = (2 * NAT_SOURCES) << 16;
/// Buckets of connections that SYN cookies opened, four each, a power of two (64 B: 4 MiB).
pub const PROXIED_BUCKETS: u32 = 1 << 16;
/// Groups of addresses of a pair at most (8 B: 128 B).
pub const GROUPS: u32 = 16;
/// Bytes of the ring that tells the agent what packets met.
pub const NOTICE_BYTES: u32 = 1 << 14;

/// Rated flows that can be asked for: 2^6 to 2^25 (64 B each, up to 2 GiB).
pub const MIN_FLOWS: u32 = 64;
/// See [`MIN_FLOWS`].
pub const MAX_FLOWS: u32 = 1 << 25;

/// Buckets of the affinity table for `flows` rated flows: one bucket of four
/// slots each, rounded up to a power of two.
#[must_use]
pub const fn flow_buckets(flows: u32) -> u32 {
    flows.next_power_of_two()
}

/// Lines of marks for the buckets of the affinity table (64 B for 32 buckets: a
/// thirty-second of its memory).
#[must_use]
pub const fn change_lines(buckets: u32) -> u32 {
    buckets.div_ceil(crate::change::BUCKETS)
}

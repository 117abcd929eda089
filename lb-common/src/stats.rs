//! What is counted, under which name.

use core::iter::Sum;

use crate::pod::map_type;

map_type! {
    /// Traffic of one backend on one CPU. Services are the sums over their
    /// backends.
    pub struct BackendStats: 64 {
        /// Packets sent to the backend.
        0 => pub packets: u64,
        /// Bytes of these frames.
        8 => pub bytes: u64,
        /// Replies rewritten (mode `nat`).
        16 => pub reply_packets: u64,
        /// Bytes of these frames.
        24 => pub reply_bytes: u64,
        /// Flows entered into the affinity table.
        32 => pub flows: u64,
        /// Handshakes timed, see [`crate::handshake`].
        40 => pub handshakes: u64,
        /// Microseconds that they took together.
        48 => pub handshake_us: u64,
        56 => pub _pad: u64,
    }
}

impl Sum for BackendStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, |sum, one| Self {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            reply_packets: sum.reply_packets + one.reply_packets,
            reply_bytes: sum.reply_bytes + one.reply_bytes,
            flows: sum.flows + one.flows,
            handshakes: sum.handshakes + one.handshakes,
            handshake_us: sum.handshake_us + one.handshake_us,
            ..Self::ZERO
        })
    }
}

/// Defines the counters once: number, name, meaning.
macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $number:literal => $name:literal, )*) => {
        /// Index into `COUNTERS`. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter {
            $( $(#[doc = $doc])+ $variant = $number, )*
        }

        impl Counter {
            /// All of them, in order of their numbers.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The name in JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+), )* }
            }
        }
    };
}

counters! {
    /// handed to the kernel untouched: not ours
    Passed = 0 => "passed",
    /// rewritten and handed to the kernel, which knows the way
    HandedOver = 1 => "handed_over",
    /// a packet's flow found no free slot in the affinity table and goes by the lookup tables
    Unrecorded = 2 => "unrecorded",
    /// an echo request to a VIP, answered
    EchoReplied = 3 => "echo_replied",
    /// a packet that no backend of its service may take, answered with a TCP reset or an ICMP error
    Rejected = 4 => "rejected",
    /// a packet of a TCP flow whose backend serves no more, answered with a reset
    Reset = 5 => "reset",
    /// an established TCP flow whose backend serves no more, given to another one, or to none
    Moved = 6 => "moved",
    /// a packet longer than the way to its backend carries, answered with an ICMP error that says how long one may be
    TooBig = 7 => "too_big",
    /// a SYN above the service's `syn_cookies_above`, answered with a cookie
    SynCookieSent = 8 => "syn_cookie_sent",
    /// a cookie that a client has confirmed: its connection with a backend is opened
    SynCookieConfirmed = 9 => "syn_cookie_confirmed",

    /// the frame ends before its headers do
    Truncated = 16 => "truncated",
    /// a header contradicts itself or the frame's length
    Malformed = 17 => "malformed",
    /// a fragment for a service, but the first one of its datagram has not come: its ports are unknown
    Fragment = 18 => "fragment",
    /// more IPv6 extension headers than are walked
    ExtensionHeaders = 19 => "extension_headers",
    /// a VIP, but no service and no permission for this port
    PortNotAllowed = 20 => "port_not_allowed",
    /// a VIP, but neither TCP nor UDP nor an ICMP message it answers
    ProtocolNotAllowed = 21 => "protocol_not_allowed",
    /// the source is in `firewall.deny_sources`
    SourceDenied = 22 => "source_denied",
    /// for this host, which `firewall.host = "drop"` protects
    HostProtected = 23 => "host_protected",
    /// the service has no backend that may take the flow
    NoBackend = 24 => "no_backend",
    /// the backend's next hop is not known and the kernel cannot be asked
    NoNextHop = 25 => "no_next_hop",
    /// the packet's time to live is spent
    TtlExceeded = 26 => "ttl_exceeded",
    /// an ICMP error that quotes no flow of ours
    IcmpUnmatched = 27 => "icmp_unmatched",
    /// another flow of the same client port holds this shared backend
    NatConflict = 28 => "nat_conflict",
    /// the map that should answer has no such entry: a defect of ours
    Internal = 29 => "internal",
    /// a source that cannot be: no host's, such as multicast or loopback, or a VIP
    BadSource = 30 => "bad_source",
    /// a packet to be answered with a reset or an ICMP error, but too many were of late
    RefusalLimited = 31 => "refusal_limited",
    /// for an address of a group that this node does not serve: its peer is to
    NotActive = 32 => "not_active",
    /// fragment longer than the way to its backend carries; its sender was told of the first
    Oversized = 33 => "oversized",
    /// no room around the frame for the longer packet that it is to become
    NoHeadroom = 34 => "no_headroom",
    /// ICMP error about a packet that wraps another: taken in here
    TunnelError = 35 => "tunnel_error",
    /// a fragment that overlaps with the first one of its datagram
    FragmentOverlap = 36 => "fragment_overlap",
    /// TCP flags that no stack sends together: SYN and FIN, SYN and RST, FIN alone, none
    BadFlags = 40 => "bad_flags",
    /// the service's `allow_sources` does not have the source
    SourceNotAllowed = 41 => "source_not_allowed",
    /// the source begins more flows than `firewall.new_flows_per_source` lets it
    SourceRate = 42 => "source_rate",
    /// a new flow of a service that has as many as `max_flows` lets it
    FlowQuota = 43 => "flow_quota",

    /// a packet of a QUIC service sent where its connection ID says
    QuicRouted = 50 => "quic_routed",
    /// a packet of a QUIC service whose connection ID names no server that may take it, sent by addresses and ports
    QuicUnrouted = 51 => "quic_unrouted",

    /// no port of `node.nat_sources` is free for a new flow in mode `fullnat`
    NatPortsExhausted = 55 => "nat_ports_exhausted",
    /// a packet to an address of `node.nat_sources` that is of no flow in mode `fullnat`
    NatUnbound = 56 => "nat_unbound",

    /// a packet of a connection that a SYN cookie opened, but whose backend has not answered yet
    Unopened = 60 => "unopened",
    /// no room for one more connection that a SYN cookie opened; its client is sent a reset
    ProxiedFull = 61 => "proxied_full",
}

/// Entries of `COUNTERS`.
pub const COUNTERS: u32 = 64;

/// Counters from here on are reasons to drop, but for those of QUIC.
pub const FIRST_DROP: u32 = 16;

impl Counter {
    /// The counter with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|&counter| counter as u32 == number)
    }

    /// Whether it counts dropped packets.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        self as u32 >= FIRST_DROP && !matches!(self, Self::QuicRouted | Self::QuicUnrouted)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn counters_have_distinct_names_and_fit() {
        let names: HashSet<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.iter().all(|&c| (c as u32) < COUNTERS && !c.meaning().is_empty()));
    }
}

//! What `lb decap` and its program agree on.

/// VIPs of a host at most.
pub const VIPS: u32 = 1024;
/// Prefixes of sources at most.
pub const SOURCES: u32 = 64;

/// The program.
pub const PROGRAM: &str = "lb_decap";
/// VIPs, two words each.
pub const VIPS_MAP: &str = "DECAP_VIPS";
/// Sources, a longest-prefix-match trie.
pub const SOURCES_MAP: &str = "DECAP_SOURCES";
/// The port of GUE.
pub const PORT_MAP: &str = "DECAP_PORT";
/// Packets by [`Counter`], per CPU.
pub const COUNTERS_MAP: &str = "DECAP_COUNTERS";
/// Every map, each pinned under its own name.
pub const MAPS: [&str; 4] = [VIPS_MAP, SOURCES_MAP, PORT_MAP, COUNTERS_MAP];

/// Index into the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Unwrapped from IP.
    Ipip = 0,
    /// Unwrapped from UDP.
    Gue = 1,
    /// Dropped: from somebody who is not to send such.
    BadSource = 2,
    /// Dropped: the packet inside is none.
    Malformed = 3,
    /// Dropped: the network was congested, and the packet inside cannot say so
    /// (RFC 6040, section 4.2).
    Congestion = 4,
}

impl Counter {
    /// All of them, in order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Ipip, Self::Gue, Self::BadSource, Self::Malformed, Self::Congestion];

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::BadSource => "bad_source",
            Self::Malformed => "malformed",
            Self::Congestion => "congestion",
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ipip => "unwrapped, mode ipip",
            Self::Gue => "unwrapped, mode gue",
            Self::BadSource => "dropped: from no source that may send such",
            Self::Malformed => "dropped: no whole packet inside",
            Self::Congestion => "dropped: met congestion, and cannot say so",
        }
    }
}

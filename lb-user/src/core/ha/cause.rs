//! Why a node began to serve a group, or stopped.

/// What decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It begins: nothing was heard of the peer for too long.
    Silence,
    /// It begins: the peer gave the group up.
    HandedOver,
    /// It begins: neither served the group, and this node is to.
    Unserved,
    /// It stops: an operator said so.
    Ordered,
    /// It stops: the agent is about to end.
    Leaving,
    /// It stops: the peer outranks it, and claimed the group.
    Preempted,
    /// It stops: the group's interfaces work at the peer, and not here.
    Interface,
    /// It stops: both served, and the peer goes on.
    PeerWon,
    /// It stops: the peer did not say any more that it waits.
    LeaseEnded,
    /// It stops: the process stood still for too long.
    Slept,
    /// It stops: there is no clock to give leases by.
    NoClock,
}

impl Cause {
    /// It in one word, in JSON and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::HandedOver => "handed_over",
            Self::Unserved => "unserved",
            Self::Ordered => "ordered",
            Self::Leaving => "leaving",
            Self::Preempted => "preempted",
            Self::Interface => "interface",
            Self::PeerWon => "peer_won",
            Self::LeaseEnded => "lease_ended",
            Self::Slept => "slept",
            Self::NoClock => "no_clock",
        }
    }
}

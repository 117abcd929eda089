//! What a heartbeat says.

use std::time::Duration;

/// A frame of one run of a node: of all frames with the pair's key only the
/// sender's latest are newer, so who repeats it heard the sender lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the run, drawn at its start.
    pub boot: u64,
    /// Number of the frame, counted from 1.
    pub sequence: u64,
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Name of the node.
    pub node: String,
    /// Which frame it is.
    pub stamp: Stamp,
    /// Whether it answers one: answers are not answered.
    pub answer: bool,
    /// Time between the sender's heartbeats.
    pub interval: Duration,
    /// The latest frame of the peer's, while it is there.
    pub heard: Option<Stamp>,
    /// For how long after that frame came the sender does not take over.
    pub grant: Duration,
    /// A frame of a run that has still to prove that it is not replayed, which
    /// this one answers.
    pub echo: Option<Stamp>,
    /// Run of the witness that answers the sender; 0: none does.
    pub witness: u64,
    /// See [`crate::core::model::ha::Ha::priority`].
    pub priority: u8,
    /// Its groups, in the order of its configuration.
    pub groups: Vec<GroupBeat>,
}

/// What a heartbeat says of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBeat {
    /// Hash of the group's name.
    pub id: u64,
    /// Hash of its addresses, and of what places flows: nodes that say different
    /// ones are configured differently.
    pub digest: u64,
    /// Highest term known.
    pub term: u64,
    /// What it does.
    pub stance: Stance,
    /// Whether its configuration prefers this node.
    pub preferred: bool,
    /// Whether the node is able to serve it: its interfaces work.
    pub fit: bool,
}

/// What a node does about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Waits.
    Standby,
    /// Waits, but would rather serve.
    Claiming,
    /// Leaves it to the peer.
    Resigned,
    /// Serves.
    Active,
}

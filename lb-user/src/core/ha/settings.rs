//! What a pair does by.

use std::time::Duration;

/// What a pair does by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// See [`crate::core::model::ha::Ha::priority`].
    pub priority: u8,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Whether to claim a group from a peer of lower rank, once the flows are
    /// known, see [`super::Pair::inform`].
    pub preempt: bool,
    /// Whether a witness is asked, see [`super::Pair::question`].
    pub witness: bool,
    /// Whether a silent peer is to be fenced before this node takes over, see
    /// [`super::Pair::wants_fence`].
    pub fence: bool,
    /// The groups.
    pub groups: Vec<GroupSettings>,
}

/// What a pair does by about a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupSettings {
    /// See [`super::GroupBeat::id`].
    pub id: u64,
    /// See [`super::GroupBeat::digest`].
    pub digest: u64,
    /// Whether this node is to serve it.
    pub preferred: bool,
}

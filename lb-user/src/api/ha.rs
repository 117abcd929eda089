//! The pair: `/v1/ha`.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `lb status` says of the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaSummary {
    /// `active`, `standby`, or `both` where it depends on the group.
    pub role: String,
    /// The latest term of the pair that this node knows of.
    #[serde(default)]
    pub term: u64,
    /// Name of the peer, once it was heard.
    pub peer: Option<String>,
    /// Whether it is there.
    pub connected: bool,
}

/// `lb ha status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaStatus {
    /// Name of the pair.
    pub pair: String,
    /// The key.
    pub key: HaKey,
    /// The peer, once it was heard.
    pub peer: Option<HaPeer>,
    /// What is there instead of it.
    pub stranger: Option<HaStranger>,
    /// The ways to it, the service path first.
    pub paths: Vec<HaPath>,
    /// The witness, if there is one.
    #[serde(default)]
    pub witness: Option<HaWitness>,
    /// The groups.
    pub groups: Vec<HaGroup>,
    /// Frames without effect, by reason: `foreign`, `version`, `length`, `key`,
    /// `malformed`, `replayed`, `unproven`, `reflected`.
    pub refused: BTreeMap<String, u64>,
    /// Flows that the nodes tell each other.
    pub sync: HaSync,
    /// The configuration that they share.
    #[serde(default)]
    pub config: HaConfig,
    /// The latest changes of who serves, the newest first.
    pub transitions: Vec<HaTransition>,
    /// How many there were since the agent started.
    pub transition_counts: Vec<HaTransitions>,
}

/// This node began to serve a group, or stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaTransition {
    /// Name of the group.
    pub group: String,
    /// `active` or `standby`.
    pub to: String,
    /// What decided it. To active: `silence` of the peer, `handed_over` by it,
    /// `unserved` by both. To standby: `ordered`, `leaving` (the agent ends),
    /// `preempted`, `interface` (the group's work at the peer only), `peer_won`
    /// (both served), `lease_ended` (the peer was not heard to wait), `slept` (the
    /// agent stood still), `no_clock`.
    pub cause: String,
    /// The group's term then.
    pub term: u64,
    /// Milliseconds since then.
    pub ago_ms: u64,
}

/// Such changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaTransitions {
    /// Name of the group.
    pub group: String,
    /// `active` or `standby`.
    pub to: String,
    /// See [`HaTransition::cause`].
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// The configuration that the nodes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaConfig {
    /// `replicate`, or `independent`: they share none.
    pub mode: String,
    /// What this node goes by: the pair's term and the number of changes.
    pub version: Option<String>,
    /// Whether the peer is there and goes by the same.
    pub agreed: bool,
    /// Changes that gave way to others and that nobody has cleared.
    pub conflicts: u64,
    /// Why the peer does not have this node's.
    pub trouble: Option<String>,
}

impl Default for HaConfig {
    fn default() -> Self {
        let mode = "independent".to_owned();
        Self { mode, version: None, agreed: false, conflicts: 0, trouble: None }
    }
}

/// A change that was ordered on one node, and gave way to what was ordered on the
/// other while they did not hear each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HaConflict {
    /// UNIX second at which it was found.
    pub at: u64,
    /// What was changed, such as `edits.services.web.backends.b1.keys.weight`.
    pub path: String,
    /// What stays; `null`: nothing.
    pub kept: Option<serde_json::Value>,
    /// What gave way; `null`: that it was removed.
    pub dropped: Option<serde_json::Value>,
    /// The node where that was ordered.
    pub node: String,
}

/// Flows that the nodes tell each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaSync {
    /// What the peer is told.
    pub told: HaTold,
    /// What the peer tells.
    pub heard: HaHeard,
}

/// What the peer is told of the flows of groups that this node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaTold {
    /// Whether it listens.
    pub connected: bool,
    /// Whether it has confirmed all flows.
    pub complete: bool,
    /// Records sent since the agent started.
    pub records: u64,
    /// How old the changes were, at most, that it confirmed last.
    pub lag_ms: Option<u64>,
    /// Why it does not listen.
    pub trouble: Option<String>,
}

/// What the peer tells of the flows of groups that it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaHeard {
    /// Whether it calls.
    pub connected: bool,
    /// Whether it has told all flows.
    pub complete: bool,
    /// Records that came since the agent started.
    pub records: u64,
    /// Of those the ones that made an entry, or changed its backend.
    pub entered: u64,
    /// Of those the ones that were noticed by comparison only.
    pub repaired: u64,
    /// Entries of flows that the peer did not tell of while it told all: it does not
    /// have them any more.
    pub removed: u64,
    /// Records of backends that this node does not have.
    pub unknown: u64,
    /// Records for which the affinity table has no room.
    pub no_room: u64,
}

/// The peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaPeer {
    /// Its name.
    pub node: String,
    /// Milliseconds since it was heard.
    pub heard_ms: u64,
}

/// The key that the nodes know each other by. Keys are named by fingerprints, 16
/// hexadecimal digits from which nothing of them can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaKey {
    /// That which this node speaks with: the newest that the peer has as well.
    pub spoken: String,
    /// The newest of this node.
    pub newest: String,
    /// The newest of the peer; `null` while it is not there.
    pub peer_newest: Option<String>,
}

/// A node of the pair that speaks another version of heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaStranger {
    /// Its version.
    pub version: u8,
    /// Version of this node.
    pub expected: u8,
    /// Milliseconds since it was heard.
    pub heard_ms: u64,
}

/// A way to the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaPath {
    /// The peer's end.
    #[schema(value_type = String)]
    pub peer: SocketAddr,
    /// Milliseconds since it brought something.
    pub heard_ms: Option<u64>,
}

/// The pair's third vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaWitness {
    /// Where it is.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Milliseconds since it answered.
    pub heard_ms: Option<u64>,
}

/// A group of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaGroup {
    /// Its name.
    pub name: String,
    /// `active` or `standby`.
    pub role: String,
    /// Counts the changes of who serves it.
    pub term: u64,
    /// What the peer says; `null` while it is not there.
    pub peer_role: Option<String>,
    /// Milliseconds for which this node may serve without a new lease.
    pub lease_ms: Option<u64>,
    /// What is wrong with its addresses here, or with their interfaces.
    pub trouble: Option<String>,
}

/// `lb ha failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailoverOrder {
    /// The group; all that this node serves if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Also if the peer does not know all flows yet.
    #[serde(default)]
    pub force: bool,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedOver {
    /// Names of the groups.
    pub groups: Vec<String>,
}

//! The pair: `/v1/ha`.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `lb status` says of the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaSummary {
    /// `active`, `standby`, or `both` where it depends on the group.
    pub role: String,
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
    /// The peer, once it was heard.
    pub peer: Option<HaPeer>,
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

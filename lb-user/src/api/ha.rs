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
    /// The groups.
    pub groups: Vec<HaGroup>,
    /// Frames without effect, by reason: `foreign`, `version`, `length`, `key`,
    /// `malformed`, `replayed`, `unproven`, `namesake`.
    pub refused: BTreeMap<String, u64>,
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
}

/// `lb ha failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailoverOrder {
    /// The group; all that this node serves if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedOver {
    /// Names of the groups.
    pub groups: Vec<String>,
}

//! The admin API's JSON: what the agent serves under `/v1/` on its socket and
//! what the command line reads. Field names are a contract: they are added,
//! never renamed.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/services` | | list of [`Service`] |
//! | `GET /v1/services/{name}` | | [`ServiceDetail`] |
//! | `POST /v1/services` | [`Table`] of `[[service]]` | [`Done`] |
//! | `PATCH /v1/services/{name}` | [`Table`] of the keys to set | [`Done`] |
//! | `DELETE /v1/services/{name}` | | [`Done`] |
//! | `GET /v1/backends?service=NAME` | | list of [`Backend`] |
//! | `POST /v1/services/{name}/backends` | [`Table`] of `[[service.backend]]` | [`Done`] |
//! | `PATCH /v1/services/{name}/backends/{name}` | [`Table`] of the keys to set | [`Done`] |
//! | `PUT /v1/services/{name}/backends/{name}/admin` | [`AdminOrder`] | [`Done`] |
//! | `DELETE /v1/services/{name}/backends/{name}` | | [`Done`] |
//! | `GET /v1/firewall` | | [`Firewall`] |
//! | `PUT /v1/firewall/allow` | [`AllowOrder`] | [`Done`] |
//! | `PUT /v1/firewall/deny` | [`DenyOrder`] | [`Done`] |
//! | `GET /v1/flows?service=&client=&backend=&limit=` | | list of [`Flow`] |
//! | `GET /v1/flows/count?…` | | [`FlowCount`] |
//! | `DELETE /v1/flows?…` | | [`FlowCount`] |
//! | `GET /v1/stats` | | [`Stats`] |
//! | `POST /v1/plan` | [`FileText`] | [`Outlook`] |
//! | `POST /v1/reload` | [`Reload`] | [`Done`] |
//! | `POST /v1/reload/confirm` | | [`Done`] |
//! | `POST /v1/explain` | [`Question`] | [`Explanation`] |
//! | `GET /v1/ha` | | [`HaStatus`] |
//! | `GET /v1/ha/conflicts` | | list of [`HaConflict`] |
//! | `DELETE /v1/ha/conflicts` | | [`Done`] |
//! | `POST /v1/ha/failover` | [`FailoverOrder`] | [`FailedOver`] |
//! | `GET /v1/openapi.json` | | the OpenAPI document |
//!
//! Whatever is refused is answered with a status of 4xx or 5xx and a
//! [`Refusal`]; nothing was changed then.

mod explain;
mod ha;

use std::net::IpAddr;

pub use explain::{Explanation, Question, Step};
pub use ha::{
    FailedOver, FailoverOrder, HaConfig, HaConflict, HaGroup, HaHeard, HaKey, HaPath, HaPeer,
    HaStatus, HaStranger, HaSummary, HaSync, HaTold, HaTransition, HaTransitions, HaWitness,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Keys and values as in the configuration file, in JSON.
pub type Table = serde_json::Map<String, serde_json::Value>;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every mistake in a configuration, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<String>,
}

/// A change that is in force and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Number of the generation.
    pub generation: u64,
    /// What the operator should know beside.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// `lb status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Number of the generation.
    pub generation: u64,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Interfaces attached to.
    pub interfaces: Vec<Interface>,
    /// Live entries of the affinity table.
    pub flows: u64,
    /// Concurrent flows it is rated for.
    pub flow_capacity: u64,
    /// Edits in force that the configuration file does not have.
    pub edits: u64,
    /// Seconds until an unconfirmed reload is taken back.
    pub confirm_s: Option<u64>,
    /// The pair; `None`: a single balancer.
    pub ha: Option<HaSummary>,
}

/// An interface attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native`, `generic` or `offload`; `None` while it is away.
    pub xdp_mode: Option<String>,
}

/// An element of `lb service list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Address clients connect to.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// As in the file: a number, a range or "any".
    pub port: String,
    /// `nat`, `fullnat`, `dsr`, `ipip`, `gue`.
    pub mode: String,
    /// `static`, `latency`, `least-flows`.
    pub policy: String,
    /// `flow`, `client`, `none`.
    pub affinity: String,
    /// Backends configured.
    pub backends: u64,
    /// Backends that are ready, also by what they report, and not down.
    pub up: u64,
    /// Live entries of the affinity table.
    pub flows: u64,
    /// With as many it takes no new ones; 0: it takes any number.
    #[serde(default)]
    pub max_flows: u64,
    /// Whether it takes no new flows for that.
    #[serde(default)]
    pub full: bool,
    /// Packets sent to its backends.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// `lb service show NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub service: Service,
    /// Its backends.
    pub members: Vec<Backend>,
    /// Every key in force, as in the configuration file.
    #[schema(value_type = Object)]
    pub config: Table,
    /// Whether edits changed it.
    pub edited: bool,
}

/// An element of `lb backend list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Name of its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port that packets arrive at; `None`: each packet's own.
    pub port: Option<u16>,
    /// Configured weight.
    pub weight: u16,
    /// What the table is built from.
    pub effective_weight: u16,
    /// `ready`, `drain` or `maint`.
    pub admin: String,
    /// Seconds until its drain ends.
    pub deadline_s: Option<u64>,
    /// `unknown`, `up` or `down`.
    pub health: String,
    /// The last probe's words.
    pub reason: String,
    /// Where it is.
    pub zone: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// Whether it is a backup.
    pub backup: bool,
    /// Live entries of the affinity table.
    pub flows: u64,
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Smoothed time of a probe.
    pub latency_us: Option<u64>,
    /// Smoothed time from a client's SYN to the backend's answer, if there were
    /// enough lately (`policy = "latency"` of a TCP service in mode `nat`).
    pub handshake_us: Option<u64>,
}

/// Orders a backend's admin state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminOrder {
    /// `ready`, `drain` or `maint`.
    pub state: String,
    /// Seconds after which a drain ends what flows are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// `lb firewall list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Firewall {
    /// `pass` or `drop`.
    pub host: String,
    /// Ports open to the host.
    pub allow: Vec<String>,
    /// Sources dropped.
    pub deny: Vec<Denied>,
    /// How many flows a source may begin; `None`: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flows_per_source: Option<NewFlows>,
}

/// How many flows begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewFlows {
    /// In a second.
    pub rate: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// A source that is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Denied {
    /// The prefix.
    pub prefix: String,
    /// Seconds left; `None`: for good.
    pub left_s: Option<u64>,
}

/// Opens a port to the host, or closes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowOrder {
    /// Such as `tcp/443`.
    pub rule: String,
    /// Whether it is to be open.
    pub allow: bool,
}

/// Denies a source, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyOrder {
    /// The prefix.
    pub prefix: String,
    /// Whether it is to be denied.
    pub deny: bool,
    /// For how many seconds; `None`: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
}

/// An element of `lb flow list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Name of its service.
    pub service: String,
    /// The client; `None` where the table keeps but a hash of it (IPv6,
    /// services with several ports).
    #[schema(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// Its port.
    pub client_port: Option<u16>,
    /// Name of its backend.
    pub backend: String,
    /// `embryonic`, `established` or `closing`.
    pub state: String,
    /// Seconds since its last packet.
    pub idle_s: u64,
}

/// Which flows: those that all given conditions hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowFilter {
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// IPv4 address of the client, of services with one port; of others the
    /// affinity table has hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// Name of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// How many flows match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowCount {
    /// Their number.
    pub flows: u64,
}

/// `lb stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// By service.
    pub services: Vec<Traffic>,
    /// By backend.
    pub backends: Vec<Traffic>,
    /// Dropped packets by reason.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Packets handed to the kernel untouched.
    pub passed: u64,
    /// Flows that found no slot in the affinity table.
    pub unrecorded: u64,
    /// TCP flows that were answered with a reset, since their backend serves no
    /// more (`on_down = "reset"`).
    pub reset: u64,
    /// Established TCP flows that were given to another backend, or to none, since
    /// theirs serves no more.
    #[serde(default)]
    pub moved: u64,
    /// Packets of QUIC services sent where their connection ID says.
    #[serde(default)]
    pub quic_routed: u64,
    /// Those whose connection ID names no server that may take them.
    #[serde(default)]
    pub quic_unrouted: u64,
    /// SYNs that were answered with a cookie.
    #[serde(default)]
    pub syn_cookies_sent: u64,
    /// Cookies that a client confirmed.
    #[serde(default)]
    pub syn_cookies_confirmed: u64,
}

/// Counters of a service or backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Name of the service.
    pub service: String,
    /// Name of the backend; `None`: of the whole service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Replies rewritten.
    pub reply_packets: u64,
    /// Bytes of these frames.
    pub reply_bytes: u64,
    /// Flows entered into the affinity table.
    pub new_flows: u64,
}

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileText {
    /// Its name, for messages.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// `lb reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// The file; `None`: the agent's own.
    #[serde(default)]
    pub file: Option<FileText>,
    /// Go back after so many seconds unless confirmed.
    #[serde(default)]
    pub confirm_s: Option<u64>,
    /// Forget all edits: the file is all.
    #[serde(default)]
    pub discard_edits: bool,
}

/// `lb plan FILE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outlook {
    /// What would differ from what is in force, in words.
    pub changes: Vec<String>,
    /// Edits that go on overriding the file, in words.
    pub edits: Vec<String>,
    /// By service, those with anything to move.
    pub services: Vec<Movement>,
}

/// What a change moves of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Movement {
    /// Its name.
    pub service: String,
    /// Share of slots that would name another backend, 0 to 1.
    pub slots: f64,
    /// Live flows whose backend would leave.
    pub flows_ended: u64,
    /// Live flows.
    pub flows: u64,
}

//! `lb explain`: what the loaded program does with a packet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Source address.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// Source port.
    pub client_port: u16,
    /// Destination address.
    #[schema(value_type = String)]
    pub vip: IpAddr,
    /// Destination port.
    pub vip_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whether it opens a connection (TCP SYN).
    #[serde(default)]
    pub syn: bool,
    /// Interface it comes in by; `None`: the first.
    #[serde(default)]
    pub interface: Option<String>,
}

/// What the loaded program does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// `transmit`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// Name of the counter, where there is one.
    pub reason: Option<String>,
}

/// One step of the packet path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Its name: `policy`, `service`, `affinity`, `table`, `backend`, `rewrite`, `egress`.
    pub step: String,
    /// Its answer.
    pub answer: String,
}

//! What a backend gets: effective weight = configured x admin state x health
//! x slow start x policy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::identity::BackendIdentity;

/// What the operator ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Serve.
    #[default]
    Ready,
    /// No new flows; existing ones go on.
    Drain,
    /// Nothing at all.
    Maint,
}

/// What probes say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Too early to say; served like one that is up.
    #[default]
    Unknown,
    /// Enough successes in a row.
    Up,
    /// Enough failures in a row.
    Down,
}

/// What the data plane is to know of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Effective weight.
    pub weight: u16,
    /// Whether existing flows may still go there.
    pub serving: bool,
}

/// Standings that differ from "serving, at the configured weight".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standings(pub BTreeMap<BackendIdentity, Standing>);

impl Standings {
    /// Of a backend with this configured weight.
    #[must_use]
    pub fn of(&self, identity: &BackendIdentity, configured: u16) -> Standing {
        self.0.get(identity).copied().unwrap_or(Standing { weight: configured, serving: true })
    }
}

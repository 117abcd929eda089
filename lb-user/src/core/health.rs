//! Health of backends: from the outcomes of probes to up and down.

use std::time::Duration;

use super::weight::AdminState;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// `Ok`: success, and how long it took; else why not, in the words that
    /// an operator reads.
    pub outcome: Result<Duration, String>,
    /// What an `agent` backend says of itself.
    pub report: Option<Report>,
}

/// A line that a backend says of itself, as HAProxy's agent-check reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Share of its configured weight in percent; `None`: not said.
    pub percent: Option<u16>,
    /// `ready`, `drain` or `maint`; `None`: not said.
    pub admin: Option<AdminState>,
}

//! What the controller counts, beside the data plane.

use std::collections::BTreeMap;

use prometheus_client::metrics::histogram::Histogram;

use crate::core::{health::Outcome, plan::identity::ServiceIdentity};

/// Upper bounds of how long probes take, in seconds.
const BOUNDS: [f64; 12] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counts since the agent started.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Reloads, also by SIGHUP.
    pub reloads: Outcomes,
    /// Edits by command.
    pub edits: Outcomes,
    /// Probes by service.
    pub probes: BTreeMap<ServiceIdentity, Probes>,
}

/// How orders ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// In force.
    pub done: u64,
    /// Refused, or failed: nothing changed.
    pub refused: u64,
}

/// Probes of the backends of a service.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Seconds that the successful ones took.
    pub seconds: Histogram,
    /// That succeeded.
    pub successes: u64,
    /// That failed.
    pub failures: u64,
    /// That could not be made.
    pub inconclusive: u64,
}

impl Outcomes {
    /// Counts one.
    pub fn add<T, E>(&mut self, done: &Result<T, E>) {
        match done {
            Ok(_) => self.done += 1,
            Err(_) => self.refused += 1,
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self { seconds: Histogram::new(BOUNDS), successes: 0, failures: 0, inconclusive: 0 }
    }
}

impl Probes {
    /// Counts one.
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Success(took) => {
                self.successes += 1;
                self.seconds.observe(took.as_secs_f64());
            }
            Outcome::Failure(_) => self.failures += 1,
            Outcome::Inconclusive(_) => self.inconclusive += 1,
        }
    }
}

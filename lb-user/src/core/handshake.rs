//! How long a backend's handshakes take, from what the packet path counts.
//!
//! Samples come as connections do, so a mean is taken over as long as it takes
//! to have [`ENOUGH`] of them, and means are smoothed like times of probes. A
//! backend with fewer than that in [`LATELY`] is idle: of how fast it is now
//! nothing is known.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::health::smooth;

/// Samples that make a mean.
pub const ENOUGH: u64 = 8;
/// After which too few samples are forgotten, and what earlier ones said.
pub const LATELY: Duration = Duration::from_secs(30);

/// What the packet path counted of a backend so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Handshakes.
    pub handshakes: u64,
    /// Microseconds that they took together.
    pub us: u64,
}

impl Counted {
    /// What was counted since `before`; `None` where counting began anew.
    fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            handshakes: self.handshakes.checked_sub(before.handshakes)?,
            us: self.us.checked_sub(before.us)?,
        })
    }
}

/// Follows the handshakes of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    /// What was counted when the current mean began, and when that was.
    began: Option<(Counted, Duration)>,
    latency: Option<Duration>,
}

impl Handshakes {
    /// Takes in what has been counted by `now`: to be called about once a
    /// second.
    pub fn observe(&mut self, counted: Counted, now: Duration) {
        let fresh = self.began.and_then(|(before, since)| Some((counted.since(before)?, since)));
        let Some((new, since)) = fresh else {
            *self = Self { began: Some((counted, now)), latency: None };
            return;
        };
        if new.handshakes >= ENOUGH {
            let mean = Duration::from_micros(new.us / new.handshakes);
            self.latency = Some(smooth(self.latency, mean));
        } else if now.saturating_sub(since) >= LATELY {
            self.latency = None;
        } else {
            return;
        }
        self.began = Some((counted, now));
    }

    /// Smoothed time of a handshake; `None` where there were too few lately.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }
}

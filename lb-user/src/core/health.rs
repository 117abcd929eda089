//! Health of backends: from the outcomes of probes to up and down.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{
    model::health::{Health as Settings, Probe},
    weight::{AdminState, Health},
};

/// Part of a new latency that enters the smoothed one: 1/8, as of round-trip
/// times in TCP (alpha of RFC 6298, section 2.3).
pub const SMOOTHING: u32 = 8;

/// A smoothed latency and a new one, smoothed.
#[must_use]
pub fn smooth(smoothed: Option<Duration>, new: Duration) -> Duration {
    smoothed.map_or(new, |smoothed| (smoothed * (SMOOTHING - 1) + new) / SMOOTHING)
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// How it ended.
    pub outcome: Outcome,
    /// What an `agent` backend says of itself.
    pub report: Option<Report>,
}

/// How one probe ended. Reasons are in the words that an operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend serves; how long that took to find out.
    Success(Duration),
    /// The backend does not serve, or cannot be reached; why.
    Failure(String),
    /// The probe could not be made, which says nothing of the backend; why.
    Inconclusive(String),
}

/// A line that a backend says of itself, as HAProxy's agent-check reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Share of its configured weight in percent; `None`: not said.
    pub percent: Option<u16>,
    /// `ready`, `drain` or `maint`; `None`: not said.
    pub admin: Option<AdminState>,
}

impl Report {
    /// This report, and of what it does not say what was said before: "parameters
    /// which are not advertised by the agent are not changed" (HAProxy
    /// configuration manual, `agent-check`).
    #[must_use]
    pub fn or(self, before: Self) -> Self {
        Self { percent: self.percent.or(before.percent), admin: self.admin.or(before.admin) }
    }
}

/// Follows the health of one backend.
///
/// ```text
///                    ┌─────────┐
///        one success │ unknown │ `fall` failures in a row
///         ┌──────────┤         ├──────────┐
///         ▼          └─────────┘          ▼
///     ┌──────┐  `fall` failures in a row  ┌──────┐
///     │  up  ├───────────────────────────►│ down │
///     │      │◄───────────────────────────┤      │
///     └──────┘  `rise` successes in a row └──────┘
/// ```
///
/// An unknown backend is served like one that is up. A backend that is not
/// probed is up. An inconclusive probe changes nothing but the reason, and those
/// before and after it count as in a row. Other settings restart the count of outcomes in a row, and
/// leave the state as it is.
#[derive(Clone, Debug)]
pub struct Tracker {
    rules: Rules,
    health: Health,
    since: Duration,
    /// Outcomes in a row that speak against `health`.
    against: u32,
    reason: String,
    latency: Option<Duration>,
    report: Option<Report>,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    probed: bool,
    rise: u32,
    fall: u32,
}

impl Rules {
    fn of(settings: &Settings) -> Self {
        let Settings { rise, fall, .. } = *settings;
        Self { probed: settings.probe != Probe::None, rise, fall }
    }
}

impl Tracker {
    /// Of a backend that appears at `now`.
    #[must_use]
    pub fn new(settings: &Settings, now: Duration) -> Self {
        let mut tracker = Self {
            rules: Rules::of(settings),
            health: Health::Unknown,
            since: now,
            against: 0,
            reason: "not probed yet".into(),
            latency: None,
            report: None,
        };
        tracker.reconfigure(settings, now);
        tracker
    }

    /// Takes over that the backend was down before the agent started: it is up
    /// again after `rise` successes, not at once. Whether that changes anything.
    pub fn presume_down(&mut self, now: Duration) -> bool {
        if !self.rules.probed || self.health != Health::Unknown {
            return false;
        }
        self.reason = "down before the agent started".into();
        self.turn(Health::Down, now)
    }

    /// Takes other settings. Who is not probed any more is up; what a backend
    /// said of itself holds only while it is asked.
    pub fn reconfigure(&mut self, settings: &Settings, now: Duration) {
        let unasked = !self.rules.probed;
        self.rules = Rules::of(settings);
        self.against = 0;
        self.report = self.report.filter(|_| settings.probe == Probe::Agent);
        if !self.rules.probed {
            self.reason = "not probed".into();
            self.latency = None;
            self.turn(Health::Up, now);
        } else if unasked {
            self.reason = "not probed yet".into();
        }
    }

    /// Takes in what a probe found. Whether that changes the health, or what
    /// the backend says of itself.
    pub fn observe(&mut self, observation: Observation, now: Duration) -> bool {
        // A probe may still be on its way when probing is switched off.
        if !self.rules.probed {
            return false;
        }
        let report = observation.report.map(|new| new.or(self.report.unwrap_or_default()));
        let reported = report.is_some() && report != self.report;
        self.report = report.or(self.report);
        let turned = match observation.outcome {
            Outcome::Success(latency) => self.succeed(latency, now),
            Outcome::Failure(reason) => self.fail(reason, now),
            Outcome::Inconclusive(reason) => {
                self.reason = reason;
                false
            }
        };
        turned || reported
    }

    fn succeed(&mut self, latency: Duration, now: Duration) -> bool {
        self.latency = Some(smooth(self.latency, latency));
        self.reason = "ok".into();
        let needed = if self.health == Health::Unknown { 1 } else { self.rules.rise };
        self.count(Health::Up, needed, now)
    }

    fn fail(&mut self, reason: String, now: Duration) -> bool {
        self.reason = reason;
        self.count(Health::Down, self.rules.fall, now)
    }

    /// Counts an outcome that speaks for `health`; enough of them bring it about.
    fn count(&mut self, health: Health, needed: u32, now: Duration) -> bool {
        if self.health == health {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        self.against >= needed && self.turn(health, now)
    }

    fn turn(&mut self, health: Health, now: Duration) -> bool {
        self.against = 0;
        if self.health == health {
            return false;
        }
        // How fast it was before it failed says nothing of how fast it will be.
        if health == Health::Down {
            self.latency = None;
        }
        self.health = health;
        self.since = now;
        true
    }

    /// Unknown, up or down.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// When the health last changed, or the backend appeared.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.since
    }

    /// The last probe's words.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Smoothed time of the successful probes since it was last down.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// What the backend says of itself.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.report
    }
}

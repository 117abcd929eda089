//! What probes found goes to the controller: at once where it may change
//! something, else together with what else is found meanwhile. Of 1,000 backends
//! that are up and probed each second, the controller is woken four times a
//! second, not a thousand times.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::Event;
use crate::core::health::{Observation, Outcome, Report};

/// How long what changes nothing may wait: it only says how fast a backend is.
const HOLD: Duration = Duration::from_millis(250);

/// An event, and whether it may change something.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) event: Event,
    pub(super) urgent: bool,
}

/// Forwards events in their order until nobody sends or takes any.
pub(super) async fn deliver(mut found: mpsc::Receiver<Found>, events: mpsc::Sender<Event>) {
    while let Some(first) = found.recv().await {
        let (mut urgent, mut held) = (first.urgent, vec![first.event]);
        let until = Instant::now() + HOLD;
        while !urgent && let Ok(Some(next)) = timeout_at(until, found.recv()).await {
            urgent = next.urgent;
            held.push(next.event);
        }
        for event in held {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Tells what may change something from one more success of a backend that is
/// known to be up.
#[derive(Debug)]
pub(super) struct Urgency {
    rise: u32,
    /// Successes in a row.
    streak: u32,
    report: Option<Report>,
}

impl Urgency {
    /// Of a backend that is up after `rise` successes in a row.
    pub(super) fn new(rise: u32) -> Self {
        Self { rise, streak: 0, report: None }
    }

    /// Whether this may change something.
    pub(super) fn of(&mut self, observation: &Observation) -> bool {
        self.streak = match observation.outcome {
            Outcome::Success(_) => self.streak.saturating_add(1),
            Outcome::Failure(_) => 0,
            Outcome::Inconclusive(_) => return false,
        };
        let reports = observation.report != self.report;
        self.report = observation.report;
        reports || self.streak <= self.rise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        model::{Mode, Protocol, sample},
        plan::identity::BackendIdentity,
    };

    fn success(percent: Option<u16>) -> Observation {
        let report = percent.map(|percent| Report { percent: Some(percent), admin: None });
        Observation { outcome: Outcome::Success(Duration::from_millis(1)), report }
    }

    #[test]
    fn successes_are_urgent_until_the_backend_is_up_and_failures_always() {
        let mut urgency = Urgency::new(2);
        let failure = Observation { outcome: Outcome::Failure("refused".into()), report: None };
        let mut urgent = |observation: &Observation| urgency.of(observation);
        assert_eq!([0; 4].map(|_| urgent(&success(None))), [true, true, false, false]);
        assert_eq!([0; 3].map(|_| urgent(&failure)), [true; 3]);
        assert_eq!([0; 3].map(|_| urgent(&success(None))), [true, true, false]);
    }

    #[test]
    fn what_is_inconclusive_is_not_urgent_and_breaks_no_streak() {
        let mut urgency = Urgency::new(2);
        let outcome = Outcome::Inconclusive("too many open files".into());
        let inconclusive = Observation { outcome, report: None };
        for urgent in [true, true, false] {
            assert!(!urgency.of(&inconclusive));
            assert_eq!(urgency.of(&success(None)), urgent);
        }
    }

    #[test]
    fn another_report_is_urgent() {
        let mut urgency = Urgency::new(1);
        let percents = [Some(50), Some(50), Some(75), Some(75), None, None];
        let urgent = percents.map(|percent| urgency.of(&success(percent)));
        assert_eq!(urgent, [true, false, true, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_comes_in_its_order_with_what_is_urgent_or_after_a_while() {
        let (finds, found) = mpsc::channel(16);
        let (events, mut arrived) = mpsc::channel(16);
        tokio::spawn(deliver(found, events));
        let service = sample::service("203.0.113.1", (80, 80), Protocol::Tcp, Mode::Nat);
        let backend = sample::backend([10, 0, 0, 1].into(), None, 1);
        let key = BackendIdentity::of(&service, &backend);
        let event = |ms| Event {
            key,
            observation: Observation {
                outcome: Outcome::Success(Duration::from_millis(ms)),
                report: None,
            },
        };
        let begin = Instant::now();
        for (ms, urgent) in [(1, false), (2, false), (3, true), (4, false)] {
            finds.send(Found { event: event(ms), urgent }).await.expect("a reader");
        }
        for ms in 1..=3 {
            assert_eq!(arrived.recv().await, Some(event(ms)));
        }
        assert!(begin.elapsed() < HOLD);
        assert_eq!(arrived.recv().await, Some(event(4)));
        assert!(begin.elapsed() >= HOLD);
        drop(finds);
        assert_eq!(arrived.recv().await, None);
    }
}

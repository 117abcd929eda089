use proptest::prelude::*;

use super::*;

fn settings(rise: u32, fall: u32) -> Settings {
    Settings { probe: Probe::Tcp, rise, fall, ..Settings::default() }
}

fn outcome(ok: bool) -> Observation {
    let failure = || Outcome::Failure("refused".into());
    let outcome = if ok { Outcome::Success(Duration::from_millis(1)) } else { failure() };
    Observation { outcome, report: None }
}

fn inconclusive() -> Observation {
    let outcome = Outcome::Inconclusive("too many open files".into());
    Observation { outcome, report: None }
}

fn report(percent: Option<u16>, admin: Option<AdminState>) -> Observation {
    Observation { report: Some(Report { percent, admin }), ..outcome(true) }
}

fn seconds(n: usize) -> Duration {
    Duration::from_secs(n as u64)
}

/// The rules by their wording, from the whole history.
fn naive(history: &[bool], rise: usize, fall: usize) -> Health {
    let mut health = Health::Unknown;
    let mut begin = 0;
    for end in 1..=history.len() {
        let run = &history[begin..end];
        let last =
            |n: usize, ok: bool| run.len() >= n && run[run.len() - n..].iter().all(|&o| o == ok);
        let next = match health {
            Health::Unknown if last(1, true) => Health::Up,
            Health::Down if last(rise, true) => Health::Up,
            Health::Unknown | Health::Up if last(fall, false) => Health::Down,
            same => same,
        };
        if next != health {
            (health, begin) = (next, end);
        }
    }
    health
}

proptest! {
    #[test]
    fn it_does_what_the_rules_say(
        history in proptest::collection::vec(any::<bool>(), 0..60), rise in 1u32..5, fall in 1u32..5,
    ) {
        let mut tracker = Tracker::new(&settings(rise, fall), Duration::ZERO);
        let mut since = Duration::ZERO;
        for (n, &ok) in history.iter().enumerate() {
            let before = tracker.health();
            let changed = tracker.observe(outcome(ok), seconds(n + 1));
            let expected = naive(&history[..=n], rise as usize, fall as usize);
            prop_assert_eq!(tracker.health(), expected);
            prop_assert_eq!(changed, expected != before);
            if changed {
                since = seconds(n + 1);
            }
            prop_assert_eq!(tracker.since(), since);
            prop_assert_eq!(tracker.reason(), if ok { "ok" } else { "refused" });
        }
    }

    #[test]
    fn what_is_inconclusive_changes_only_the_reason(
        history in proptest::collection::vec((any::<bool>(), 0usize..3), 0..60),
        rise in 1u32..5, fall in 1u32..5,
    ) {
        let mut tracker = Tracker::new(&settings(rise, fall), Duration::ZERO);
        let mut spared = tracker.clone();
        for (n, &(ok, inconclusives)) in history.iter().enumerate() {
            for _ in 0..inconclusives {
                let before = (tracker.health(), tracker.since(), tracker.latency());
                prop_assert!(!tracker.observe(inconclusive(), seconds(n)));
                prop_assert_eq!((tracker.health(), tracker.since(), tracker.latency()), before);
                prop_assert_eq!(tracker.reason(), "too many open files");
            }
            let changed = tracker.observe(outcome(ok), seconds(n + 1));
            prop_assert_eq!(changed, spared.observe(outcome(ok), seconds(n + 1)));
            prop_assert_eq!(tracker.health(), spared.health());
            prop_assert_eq!(tracker.reason(), spared.reason());
        }
    }

    #[test]
    fn other_settings_keep_the_state_and_restart_the_count(
        history in proptest::collection::vec(any::<bool>(), 0..20), rise in 1u32..5, fall in 1u32..5,
    ) {
        let mut tracker = Tracker::new(&settings(3, 3), Duration::ZERO);
        for (n, &ok) in history.iter().enumerate() {
            tracker.observe(outcome(ok), seconds(n));
        }
        let before = (tracker.health(), tracker.since());
        tracker.reconfigure(&settings(rise, fall), seconds(100));
        prop_assert_eq!((tracker.health(), tracker.since()), before);
        if before.0 != Health::Down {
            let downs: Vec<_> =
                (1..=fall).map(|_| tracker.observe(outcome(false), seconds(101))).collect();
            prop_assert!(!downs[..downs.len() - 1].contains(&true));
            prop_assert_eq!(tracker.health(), Health::Down);
        }
    }

    #[test]
    fn latency_stays_between_the_measured_ones(
        measured in proptest::collection::vec(1u64..1_000_000, 1..50)
    ) {
        let mut tracker = Tracker::new(&settings(1, 1), Duration::ZERO);
        for &us in &measured {
            let outcome = Outcome::Success(Duration::from_micros(us));
            tracker.observe(Observation { outcome, report: None }, Duration::ZERO);
        }
        let latency = tracker.latency().unwrap();
        let bound = |us: Option<&u64>| Duration::from_micros(*us.unwrap());
        prop_assert!(latency <= bound(measured.iter().max()));
        // Division rounds down by less than a nanosecond each time.
        prop_assert!(latency + Duration::from_nanos(50) >= bound(measured.iter().min()));
    }
}

#[test]
fn who_is_not_probed_is_up() {
    let mut tracker = Tracker::new(&Settings::default(), seconds(5));
    assert_eq!((tracker.health(), tracker.reason()), (Health::Up, "not probed"));
    assert!(!tracker.observe(outcome(false), seconds(6)));
    assert_eq!((tracker.health(), tracker.reason()), (Health::Up, "not probed"));
    tracker.reconfigure(&settings(1, 1), seconds(7));
    assert_eq!((tracker.health(), tracker.reason()), (Health::Up, "not probed yet"));
    assert!(tracker.observe(outcome(false), seconds(8)));
    tracker.reconfigure(&Settings::default(), seconds(9));
    assert_eq!((tracker.health(), tracker.since()), (Health::Up, seconds(9)));
}

#[test]
fn the_latency_of_a_backend_that_failed_is_forgotten() {
    let mut tracker = Tracker::new(&settings(1, 1), Duration::ZERO);
    tracker.observe(outcome(true), seconds(1));
    assert_eq!(tracker.latency(), Some(Duration::from_millis(1)));
    tracker.observe(outcome(false), seconds(2));
    assert_eq!(tracker.latency(), None);
}

#[test]
fn what_a_report_leaves_out_stays() {
    let agent = Settings { probe: Probe::Agent, ..settings(1, 1) };
    let mut tracker = Tracker::new(&agent, Duration::ZERO);
    assert!(tracker.observe(report(Some(50), None), seconds(1)));
    assert!(tracker.observe(report(None, Some(AdminState::Drain)), seconds(2)));
    assert!(!tracker.observe(outcome(true), seconds(3)));
    let both = Report { percent: Some(50), admin: Some(AdminState::Drain) };
    assert_eq!(tracker.report(), Some(both));
    tracker.reconfigure(&Settings { fall: 9, ..agent }, seconds(4));
    assert_eq!(tracker.report(), Some(both));
    tracker.reconfigure(&settings(1, 1), seconds(5));
    assert_eq!(tracker.report(), None);
}

#[test]
fn who_was_down_before_is_up_after_rise_successes() {
    let mut tracker = Tracker::new(&settings(2, 3), Duration::ZERO);
    assert!(tracker.presume_down(Duration::ZERO));
    assert!(!tracker.observe(outcome(true), seconds(1)));
    assert!(tracker.observe(outcome(true), seconds(2)));
    assert_eq!(tracker.health(), Health::Up);
    assert!(!tracker.presume_down(Duration::from_secs(3)));
}

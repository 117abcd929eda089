use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A backend that is looked at each second.
#[derive(Default)]
struct Watched {
    counted: Counted,
    now: Duration,
    handshakes: Handshakes,
}

impl Watched {
    fn new() -> Self {
        let mut new = Self::default();
        new.look(0, 0);
        new
    }

    /// A second with `count` handshakes of so many microseconds each.
    fn look(&mut self, count: u64, us: u64) -> Option<u64> {
        self.now += SECOND;
        self.counted.handshakes += count;
        self.counted.us += count * us;
        self.handshakes.observe(self.counted, self.now);
        self.handshakes.latency().map(|latency| latency.as_micros() as u64)
    }
}

proptest! {
    #[test]
    fn it_lies_between_what_was_measured(
        seconds in proptest::collection::vec((0u64..40, 1u64..900_000), 1..100)
    ) {
        let mut watched = Watched::new();
        let (mut least, mut most) = (u64::MAX, 0);
        for (count, us) in seconds {
            if count > 0 {
                (least, most) = (least.min(us), most.max(us));
            }
            if let Some(latency) = watched.look(count, us) {
                // A microsecond for each division that was rounded down.
                prop_assert!(latency <= most && latency + 2 >= least, "{latency}");
            }
        }
    }

    #[test]
    fn it_is_known_just_while_there_are_enough(
        counts in proptest::collection::vec(prop_oneof![3 => Just(0u64), 1 => 0u64..12], 1..200)
    ) {
        let mut watched = Watched::new();
        // Since when, and how many.
        let (mut since, mut seen) = (watched.now, 0);
        for count in counts {
            let before = watched.handshakes.latency().is_some();
            let known = watched.look(count, 1_000).is_some();
            seen += count;
            let (enough, late) = (seen >= ENOUGH, watched.now - since >= LATELY);
            prop_assert_eq!(known, enough || (before && !late));
            if enough || late {
                (since, seen) = (watched.now, 0);
            }
        }
    }
}

#[test]
fn what_was_counted_before_the_first_look_says_nothing() {
    let mut handshakes = Handshakes::default();
    handshakes.observe(Counted { handshakes: 1_000, us: 900_000_000 }, SECOND);
    assert_eq!(handshakes.latency(), None);
    handshakes.observe(Counted { handshakes: 1_010, us: 900_005_000 }, 2 * SECOND);
    assert_eq!(handshakes.latency(), Some(Duration::from_micros(500)));
}

#[test]
fn few_samples_add_up() {
    let mut watched = Watched::new();
    for _ in 1..ENOUGH {
        assert_eq!(watched.look(1, 200), None);
    }
    assert_eq!(watched.look(1, 200), Some(200));
}

#[test]
fn a_slow_backend_shows_within_seconds_and_one_slow_answer_does_not() {
    let mut watched = Watched::new();
    assert_eq!(watched.look(1_000, 500), Some(500));
    watched.counted.handshakes += 1;
    watched.counted.us += 400_000;
    let outlier = watched.look(1_000, 500).unwrap();
    assert!((500..=550).contains(&outlier), "{outlier}");
    for _ in 0..10 {
        watched.look(1_000, 20_000);
    }
    assert!(watched.look(1_000, 20_000).unwrap() > 10_000);
}

#[test]
fn counting_that_begins_anew_is_another_backend() {
    let mut watched = Watched::new();
    assert_eq!(watched.look(100, 700), Some(700));
    watched.counted = Counted::default();
    assert_eq!(watched.look(10, 10), None);
    assert_eq!(watched.look(10, 10), Some(10));
}

//! Costly work that must neither be put off for ever nor take all the time.

use tokio::time::Instant;

/// The rest after it is this many times as long as it took, however often it is
/// wanted.
const REST: u32 = 2;

/// Something that is done some time after it was found necessary.
#[derive(Debug)]
pub(super) struct Chore {
    due: Option<Instant>,
    rest_until: Instant,
}

impl Chore {
    /// Not wanted; if wanted, it may be done from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: None, rest_until: now }
    }

    /// Wanted; a later wish while one is waiting adds nothing.
    pub(super) fn want(&mut self, at: Instant) {
        self.due.get_or_insert(at.max(self.rest_until));
    }

    /// When it is to be done; `None`: it is not wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is being done; a wish from now on is a new one.
    pub(super) fn begin(&mut self) {
        self.due = None;
    }

    /// It was done, from `began` to `now`; what was wanted meanwhile waits.
    pub(super) fn done(&mut self, began: Instant, now: Instant) {
        self.rest_until = now + (now - began) * REST;
        self.due = self.due.map(|due| due.max(self.rest_until));
    }

    /// Whether it is to be done at `now`.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);

    #[test]
    fn chore_wanted_again_and_again_is_due_as_first_wanted() {
        let start = Instant::now();
        let mut chore = Chore::new(start);
        chore.want(start + MOMENT);
        chore.want(start + MOMENT * 2);
        assert!(!chore.is_due(start));
        assert!(chore.is_due(start + MOMENT));
    }

    #[test]
    fn costly_chore_rests_longer_than_it_took() {
        let start = Instant::now();
        let mut chore = Chore::new(start);
        let end = start + Duration::from_millis(100);
        chore.done(start, end);
        chore.want(end);
        assert!(!chore.is_due(end + Duration::from_millis(199)));
        assert!(chore.is_due(end + Duration::from_millis(200)));
    }
}

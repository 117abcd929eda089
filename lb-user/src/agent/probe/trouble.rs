//! What keeps this host from making probes is told once, when it begins: it
//! mostly concerns many targets, at each of their probes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::core::health::Outcome;

/// How many targets' last probes could not be made, by reason.
#[derive(Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<HashMap<String, usize>>>);

/// One target's part in a trouble, which lasts until this is dropped.
pub(super) struct Trouble {
    reason: String,
    all: Troubles,
}

impl Troubles {
    /// What a target has after a probe that ended like this, if before it had
    /// `trouble`. A reason that no other target has is logged.
    pub(super) fn after(&self, outcome: &Outcome, trouble: Option<Trouble>) -> Option<Trouble> {
        let Outcome::Inconclusive(reason) = outcome else { return None };
        Some(trouble.filter(|old| old.reason == *reason).unwrap_or_else(|| self.begin(reason)))
    }

    fn begin(&self, reason: &str) -> Trouble {
        let mut counts = self.counts();
        let count = counts.entry(reason.into()).or_default();
        *count += 1;
        if *count == 1 {
            tracing::warn!(
                reason,
                "this host cannot make some of its probes, the backends keep their health meanwhile"
            );
        }
        Trouble { reason: reason.into(), all: self.clone() }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.reason) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trouble_lasts_while_any_target_has_it() {
        let troubles = Troubles::default();
        let lacking = |what: &str| Outcome::Inconclusive(what.into());
        let first = troubles.after(&lacking("files"), None);
        let second = troubles.after(&lacking("files"), None);
        let second = troubles.after(&lacking("files"), second);
        assert_eq!(*troubles.counts(), [("files".into(), 2)].into());
        let second = troubles.after(&lacking("ports"), second);
        assert_eq!(*troubles.counts(), [("files".into(), 1), ("ports".into(), 1)].into());
        assert!(troubles.after(&Outcome::Success(Duration::ZERO), first).is_none());
        assert!(troubles.after(&Outcome::Failure("refused".into()), second).is_none());
        assert!(troubles.counts().is_empty());
    }
}

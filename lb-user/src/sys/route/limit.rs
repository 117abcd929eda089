//! How often clients' neighbours may be asked for.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);

/// Addresses at most in a window: whoever makes up sources must not be able to
/// fill the neighbour table.
const MOST: usize = 100;

/// Admits each address once per second, and few of them.
#[derive(Debug)]
pub(super) struct Limit {
    since: Instant,
    seen: HashSet<IpAddr>,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, seen: HashSet::new() }
    }

    /// Whether `address` may be asked for at `now`.
    pub(super) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            self.since = now;
            self.seen.clear();
        }
        self.seen.len() < MOST && self.seen.insert(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_address_is_admitted_once_a_second() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert!(limit.admits(address, start));
        assert!(!limit.admits(address, start + Duration::from_millis(999)));
        assert!(limit.admits(address, start + WINDOW));
    }

    #[test]
    fn few_addresses_are_admitted_in_a_second() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let admitted = |limit: &mut Limit, now| {
            (0..1000_u32).filter(|i| limit.admits(IpAddr::from(i.to_be_bytes()), now)).count()
        };
        assert_eq!(admitted(&mut limit, start), MOST);
        assert_eq!(admitted(&mut limit, start), 0);
        assert_eq!(admitted(&mut limit, start + WINDOW), MOST);
    }
}

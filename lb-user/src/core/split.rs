//! A/B: which group of backends a client belongs to.
//!
//! Clients fall into blocks by a hash of their address; blocks belong to
//! groups by the shares of `service.split`. The groups take the blocks in one
//! fixed, mixed order, one group after the other by name, up to the rounded
//! sum of the shares so far. From this follows:
//!
//! - A group has its exact part of the blocks, rounded down or up; with two
//!   groups, rounded to the nearest (the largest remainder).
//! - A group whose part grows while no other's does keeps every block it has:
//!   ramping 1, 5, 25 % moves no client back. This holds for any number of
//!   groups, and is why sums are rounded: the largest remainder of three or
//!   more parts may take a block from a group that grows (the population
//!   paradox).
//! - With three or more groups, where one grows and another is let shrink
//!   alone, groups that lie between the two by name exchange blocks with
//!   their neighbours; their sizes stay.

use std::collections::BTreeMap;

use super::{
    maglev::mix,
    model::{Backend, Service},
    plan::identity::BackendIdentity,
    weight::Standings,
};

/// The group of each of `blocks` blocks, as its place among the names; empty
/// where no group has a share.
#[must_use]
pub fn blocks(shares: &BTreeMap<String, u16>, blocks: u32) -> Vec<usize> {
    let total: u64 = shares.values().map(|&share| u64::from(share)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..blocks as usize).collect();
    order.sort_by_key(|&block| mix(block as u64));
    let mut groups = vec![0; order.len()];
    let (mut sum, mut begin) = (0, 0);
    for (group, &share) in shares.values().enumerate() {
        sum += u64::from(share);
        let end = ((sum * u64::from(blocks) * 2 + total) / (total * 2)) as usize;
        for &block in &order[begin..end] {
            groups[block] = group;
        }
        begin = end;
    }
    groups
}

/// The backends that take new flows of a group, with their weights.
///
/// A group without any falls back to all backends of the service: groups say
/// whom a client is better served by, and anybody serves better than nobody.
/// (Who must not be served elsewhere is kept out by `allow_sources`.)
#[must_use]
pub fn members<'a>(
    service: &'a Service,
    standings: &Standings,
    group: &str,
) -> Vec<(&'a Backend, u16)> {
    let able: Vec<_> = weighed(service, standings).filter(|(_, weight)| *weight > 0).collect();
    let own = |backend: &Backend| backend.group.as_deref() == Some(group);
    let of_group: Vec<_> = able.iter().copied().filter(|(backend, _)| own(backend)).collect();
    if of_group.is_empty() { able } else { of_group }
}

/// All backends of a service, with their weights.
pub fn weighed<'a>(
    service: &'a Service,
    standings: &Standings,
) -> impl Iterator<Item = (&'a Backend, u16)> {
    service.backends.iter().map(|backend| {
        let identity = BackendIdentity::of(service, backend);
        (backend, standings.of(&identity, backend.weight).weight)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{
        model::{
            Mode, Protocol,
            sample::{backend, service},
        },
        weight::Standing,
    };

    fn shares(shares: &[u16]) -> BTreeMap<String, u16> {
        shares.iter().enumerate().map(|(n, &share)| (format!("group-{n:02}"), share)).collect()
    }

    fn count(groups: &[usize], group: usize) -> usize {
        groups.iter().filter(|&&g| g == group).count()
    }

    proptest! {
        #[test]
        fn each_group_has_its_part(
            parts in proptest::collection::vec(0u16..=1000, 1..8), number in 1u32..3000
        ) {
            let total: u64 = parts.iter().map(|&part| u64::from(part)).sum();
            prop_assume!(total > 0);
            let groups = blocks(&shares(&parts), number);
            prop_assert_eq!(groups.len(), number as usize);
            for (group, &part) in parts.iter().enumerate() {
                let (exact, found) = (u64::from(part) * u64::from(number), count(&groups, group) as u64);
                prop_assert!(found == exact / total || found == exact.div_ceil(total));
            }
        }

        #[test]
        fn ramping_takes_nothing_back(
            others in proptest::collection::vec(0u16..=100, 1..6), at in 0usize..6,
            from in 1u16..=1000, more in 0u16..=1000, number in 1u32..3000,
        ) {
            let at = at.min(others.len());
            let with = |share| {
                let mut parts = others.clone();
                parts.insert(at, share);
                blocks(&shares(&parts), number)
            };
            for (before, after) in with(from).into_iter().zip(with(from + more)) {
                prop_assert!(before != at || after == at);
            }
        }
    }

    #[test]
    fn every_ramp_in_percent_of_two_groups_is_nested() {
        let at = |green: u16| blocks(&shares(&[100 - green, green]), 1024);
        for green in 0..100 {
            let (before, after) = (at(green), at(green + 1));
            assert!(before.iter().zip(&after).all(|(before, after)| before <= after));
            let exact = usize::from(green) * 1024;
            assert!(count(&before, 1).abs_diff(exact / 100) <= 1);
            assert!((count(&before, 1) * 100).abs_diff(exact) <= 50);
        }
    }

    #[test]
    fn neighbours_are_spread() {
        let groups = blocks(&shares(&[1, 1]), 1024);
        let ones = groups.chunks(64).map(|chunk| count(chunk, 1));
        assert!(ones.into_iter().all(|ones| (12..=52).contains(&ones)));
    }

    /// Balancers of one VIP may run different versions: which client belongs
    /// to which group is part of what they agree on.
    #[test]
    fn the_order_of_blocks_is_the_same_in_every_version() {
        assert_eq!(blocks(&shares(&[1; 4]), 8), PINNED);
    }

    const PINNED: [usize; 8] = [3, 2, 2, 0, 1, 0, 3, 1];

    #[test]
    fn without_shares_there_are_no_groups() {
        assert!(blocks(&BTreeMap::new(), 64).is_empty());
        assert!(blocks(&shares(&[0, 0]), 64).is_empty());
    }

    #[test]
    fn a_group_without_backends_falls_back_to_all() {
        let mut service = service("192.0.2.1", (80, 80), Protocol::Tcp, Mode::Nat);
        for (address, group) in [("10.0.0.1", "blue"), ("10.0.0.2", "green"), ("10.0.0.3", "green")]
        {
            let mut backend = backend(address.parse().unwrap(), None, 10);
            backend.group = Some(group.into());
            service.backends.push(backend);
        }
        let names = |standings: &Standings, group| -> Vec<_> {
            members(&service, standings, group).iter().map(|(b, _)| b.name.as_str()).collect()
        };
        let mut standings = Standings::default();
        assert_eq!(names(&standings, "green"), ["10.0.0.2", "10.0.0.3"]);
        let out = Standing { weight: 0, serving: false };
        standings.0.insert(BackendIdentity::of(&service, &service.backends[1]), out);
        assert_eq!(names(&standings, "green"), ["10.0.0.3"]);
        standings.0.insert(BackendIdentity::of(&service, &service.backends[2]), out);
        assert_eq!(names(&standings, "green"), ["10.0.0.1"]);
        assert_eq!(names(&standings, "red"), ["10.0.0.1"]);
    }
}

//! Weighted Maglev lookup tables (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Every backend has its own permutation of the slots and claims the next
//! free one of it whenever it has a turn. Turns are proportional to weights:
//! turn `k` of a backend with weight `w` comes at time `k / w`. So a backend's
//! number of slots is its number of turns, exact to a slot or so, its first
//! turn comes at time 0 (every positive weight has at least one slot), and the
//! order among the others does not change when one backend comes, goes or
//! changes its weight.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Slots of tables by the number of backends; all prime, so that every skip
/// makes a permutation.
const SIZES: [(usize, u32); 3] = [(16, 4093), (64, 16_381), (usize::MAX, 65_537)];

/// A backend that may have slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<I> {
    /// What makes it the same backend on every balancer; unique.
    pub identity: I,
    /// What its slots hold; not 0.
    pub id: u16,
    /// Effective weight; 0 gets no slot.
    pub weight: u16,
}

/// Slots of a table for `backends` backends: 255 or more for each of up to 257
/// of them, and 4 at the least.
#[must_use]
pub fn size(backends: usize) -> u32 {
    SIZES.iter().find(|(most, _)| backends <= *most).map_or(65_537, |(_, slots)| *slots)
}

/// The table of `slots` slots (a prime; at least as many as candidates), each
/// the id of a candidate; empty where no candidate has a weight. It depends on
/// the set of (identity, weight) and `seed` only.
#[must_use]
pub fn table<I>(candidates: &[Candidate<I>], slots: u32, seed: [u64; 2]) -> Vec<u16>
where
    I: AsRef<[u8]> + Ord,
{
    let mut takers: Vec<_> = candidates.iter().filter(|c| c.weight > 0).collect();
    takers.sort_by(|a, b| a.identity.cmp(&b.identity));
    if takers.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<_> =
        takers.iter().map(|c| Walk::new(c.identity.as_ref(), slots, seed)).collect();
    let mut turns: BinaryHeap<_> = (0..takers.len()).map(|i| Reverse(turn(0, 1, i))).collect();
    let mut table = vec![0; slots as usize];
    for _ in 0..slots {
        let Some(mut next) = turns.peek_mut() else { break };
        let taker = (next.0 & 0xffff) as usize;
        let walk = &mut walks[taker];
        while table[walk.position as usize] != 0 {
            walk.step(slots);
        }
        table[walk.position as usize] = takers[taker].id;
        walk.taken += 1;
        *next = Reverse(turn(walk.taken, takers[taker].weight, taker));
    }
    table
}

/// Time of turn `k` at `weight`, then the taker: ordered as one word. `k` is
/// below 2^17, so the time fits 48 bits; what rounding makes equal goes by taker.
fn turn(k: u64, weight: u16, taker: usize) -> u64 {
    ((k << 31) / u64::from(weight)) << 16 | taker as u64
}

/// A backend's way through its permutation.
struct Walk {
    position: u32,
    skip: u32,
    taken: u64,
}

impl Walk {
    fn new(identity: &[u8], slots: u32, seed: [u64; 2]) -> Self {
        let offset = hash(identity, seed[0]) % u64::from(slots);
        let skip = hash(identity, seed[1] ^ 0xc2b2_ae3d_27d4_eb4f) % u64::from(slots - 1) + 1;
        Self { position: offset as u32, skip: skip as u32, taken: 0 }
    }

    fn step(&mut self, slots: u32) {
        self.position += self.skip;
        if self.position >= slots {
            self.position -= slots;
        }
    }
}

/// A seeded hash of bytes with the finalizer of splitmix64 after every word
/// (Steele, Lea, Flood, OOPSLA 2014), stable across versions and machines.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut h = mix(seed ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        h = mix(h ^ u64::from_le_bytes(word));
    }
    h
}

/// The finalizer of splitmix64: a permutation of all words.
pub(crate) fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: [u64; 2] = [1, 2];

    fn candidates(weights: &[u16]) -> Vec<Candidate<[u8; 4]>> {
        let make = |(i, &weight): (usize, &u16)| Candidate {
            identity: (i as u32 * 7919).to_be_bytes(),
            id: i as u16 + 1,
            weight,
        };
        weights.iter().enumerate().map(make).collect()
    }

    fn shares(table: &[u16], candidates: usize) -> Vec<usize> {
        let mut shares = vec![0; candidates + 1];
        table.iter().for_each(|&id| shares[id as usize] += 1);
        assert_eq!(shares.remove(0), 0, "a slot without a backend");
        shares
    }

    /// Slots that differ although neither side is the backend `id`.
    fn needless(a: &[u16], b: &[u16], id: u16) -> usize {
        a.iter().zip(b).filter(|&(&a, &b)| a != b && a != id && b != id).count()
    }

    fn moved(a: &[u16], b: &[u16]) -> f64 {
        a.iter().zip(b).filter(|(a, b)| a != b).count() as f64 / a.len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(0u16..1000, 1..100)) {
            prop_assume!(weights.iter().any(|&w| w > 0));
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let table = table(&candidates(&weights), 65_537, SEED);
            for (share, &weight) in shares(&table, weights.len()).into_iter().zip(&weights) {
                let ideal = f64::from(weight) / total * 65_537.0;
                prop_assert_eq!(share == 0, weight == 0);
                let error = (share as f64 - ideal).abs();
                prop_assert!(error <= 1.5 || error / ideal < 0.02, "{} of {}", share, ideal);
            }
        }

        #[test]
        fn order_of_input_does_not_matter(
            shuffled in Just(candidates(&[5, 1, 9, 100, 0, 3, 3, 7])).prop_shuffle()
        ) {
            let sorted = candidates(&[5, 1, 9, 100, 0, 3, 3, 7]);
            prop_assert_eq!(table(&shuffled, 4093, SEED), table(&sorted, 4093, SEED));
        }

        #[test]
        fn removing_one_moves_its_share_and_little_else(n in 2usize..60, gone in 0usize..60) {
            let gone = gone % n;
            let mut weights = vec![100; n];
            let slots = size(n);
            let before = table(&candidates(&weights), slots, SEED);
            weights[gone] = 0;
            let after = table(&candidates(&weights), slots, SEED);
            let bound = 1.0 / n as f64 + 0.05;
            prop_assert!(moved(&before, &after) <= bound, "{} > {}", moved(&before, &after), bound);
        }

        #[test]
        fn changing_one_weight_moves_little(n in 2usize..60, weight in 1u16..=200) {
            let mut weights = vec![100; n];
            let slots = size(n);
            let before = table(&candidates(&weights), slots, SEED);
            weights[0] = weight;
            let after = table(&candidates(&weights), slots, SEED);
            prop_assert!(needless(&before, &after, 1) as f64 / f64::from(slots) < 0.08);
        }
    }

    #[test]
    fn every_positive_weight_has_a_slot() {
        let mut weights = vec![1; 1000];
        weights[500] = u16::MAX;
        let table = table(&candidates(&weights), 65_537, SEED);
        assert!(shares(&table, 1000).into_iter().all(|share| share >= 1));
    }

    #[test]
    fn without_weights_the_table_is_empty() {
        assert!(table(&candidates(&[0, 0]), 4093, SEED).is_empty());
        assert!(table(&candidates(&[]), 4093, SEED).is_empty());
    }

    #[test]
    fn the_seed_changes_the_table() {
        let c = candidates(&[1; 10]);
        assert!(moved(&table(&c, 4093, SEED), &table(&c, 4093, [3, 4])) > 0.8);
    }

    #[test]
    fn sizes_are_prime_and_hold_every_backend() {
        for (most, slots) in SIZES {
            assert!((2..slots).take_while(|d| d * d <= slots).all(|d| slots % d != 0));
            assert!(most == usize::MAX || most < slots as usize);
        }
        assert!(lb_common::limits::BACKENDS < size(usize::MAX));
    }

    /// Balancers of one VIP may run different versions: the table is part of
    /// what they agree on.
    #[test]
    fn the_table_is_the_same_in_every_version() {
        let table = table(&candidates(&[1, 2, 3]), 13, SEED);
        assert_eq!(table, PINNED_TABLE);
    }

    const PINNED_TABLE: [u16; 13] = [1, 2, 1, 2, 3, 3, 1, 3, 2, 3, 3, 2, 3];
}

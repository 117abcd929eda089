//! Reads and clears the affinity table, beside the packets that use it.

use std::{mem::offset_of, ops::Range, sync::atomic::Ordering};

use lb_common::{
    addr,
    flow::{Bucket, FlowValue, SLOTS},
    hash, limits,
};

use super::mmap::Mapped;
use crate::core::plan::{
    BackendId, ServiceId, Snapshot, identity::BackendIdentity, ids::present_backends,
};

/// An entry of the affinity table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// [`lb_common::hash::flow_key_v4`] or a hash.
    pub key: u64,
    /// Its value.
    pub value: FlowValue,
}

/// What the keys of entries are, by their backends.
#[derive(Debug)]
pub struct Keys {
    /// By backend id: the service that its flows' keys name; 0: they are hashes.
    exact: Vec<ServiceId>,
}

impl Keys {
    /// Of the backends of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut exact = vec![0; limits::BACKENDS as usize];
        let is_exact = |who: &BackendIdentity| {
            let v4 = addr::from_bytes(who.service.vip).is_ipv4();
            v4 && who.service.single_port().is_some()
        };
        for (who, id) in present_backends(snapshot) {
            if is_exact(&who) {
                exact[usize::from(id)] = snapshot.backends[&id].service;
            }
        }
        Self { exact }
    }

    /// Whether the keys of a backend's flows are [`hash::flow_key_v4`].
    #[must_use]
    pub fn are_exact(&self, backend: BackendId) -> bool {
        self.exact.get(usize::from(backend)).is_some_and(|&service| service != 0)
    }

    /// Whether an entry is a flow's. Where services share a backend's port,
    /// there are others, for replies: see [`hash::reply_key`]. (One in 65,536
    /// of them looks like a flow of IPv4.)
    #[must_use]
    pub fn is_flow(&self, entry: &Entry) -> bool {
        match self.exact.get(usize::from(entry.value.backend())) {
            Some(&service) if service != 0 => entry.key >> 48 == u64::from(service),
            _ => !hash::is_reply_key(entry.key),
        }
    }
}

impl Mapped<Bucket> {
    /// All entries whose time is not up at `now`.
    pub fn live(&self, now: u16) -> impl Iterator<Item = Entry> + '_ {
        (0..self.entries()).flat_map(move |bucket| {
            let bucket = self.read(bucket);
            let entries = bucket.keys.into_iter().zip(bucket.values);
            entries
                .map(|(key, value)| Entry { key, value: FlowValue(value) })
                .filter(move |entry| entry.key != 0 && entry.value.left(now) >= 0)
        })
    }

    /// Live flows by backend id.
    #[must_use]
    pub fn count(&self, now: u16, keys: &Keys) -> Vec<u32> {
        let mut counts = vec![0; limits::BACKENDS as usize];
        for entry in self.live(now).filter(|entry| keys.is_flow(entry)) {
            if let Some(count) = counts.get_mut(usize::from(entry.value.backend())) {
                *count += 1;
            }
        }
        counts
    }

    /// Clears the slots of buckets whose key and value are `spent`; a slot
    /// that a packet claims meanwhile is left to it. Returns how many.
    pub fn clear(&self, buckets: Range<u32>, spent: impl Fn(u64, FlowValue) -> bool) -> u32 {
        buckets.map(|bucket| self.clear_bucket(bucket, &spent)).sum()
    }

    fn clear_bucket(&self, bucket: u32, spent: &impl Fn(u64, FlowValue) -> bool) -> u32 {
        let mut cleared = 0;
        for slot in 0..SLOTS {
            let key = self.word64(bucket, offset_of!(Bucket, keys) + slot * 8);
            let value = self.word64(bucket, offset_of!(Bucket, values) + slot * 8);
            let owner = key.load(Ordering::Acquire);
            if owner != 0 && spent(owner, FlowValue(value.load(Ordering::Acquire))) {
                let swap = key.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed);
                cleared += u32::from(swap.is_ok());
            }
        }
        cleared
    }

    /// Clears what is expired. Packets treat a slot whose time is up as free,
    /// but a slot's clock wraps after 18 hours: the agent clears what is
    /// expired long before, so that no flow comes back to life.
    pub fn sweep(&self, buckets: Range<u32>, now: u16) -> u32 {
        self.clear(buckets, |_, value| value.left(now) < 0)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{FlowState, MAX_TIMEOUT};

    use super::*;

    #[test]
    fn only_what_is_expired_is_swept_and_only_the_rest_is_live() {
        let flows = Mapped::anonymous(4).unwrap();
        let now = 5_u16;
        let value = |left: i16| {
            FlowValue::new(7, 1, FlowState::Established, now.wrapping_add_signed(left)).0
        };
        let values = [value(-1), value(0), value(-2000), value(MAX_TIMEOUT.cast_signed())];
        flows.write(2, &Bucket { keys: [1, 3, 5, 7], values });
        assert_eq!(flows.live(now).map(|entry| entry.key).collect::<Vec<_>>(), [3, 7]);
        let counts = flows.count(now, &Keys { exact: vec![0; 16] });
        assert_eq!((counts[7], counts[8]), (2, 0));
        assert_eq!(flows.sweep(0..4, now), 2);
        assert_eq!(flows.read(2).keys, [0, 3, 0, 7]);
    }

    #[test]
    fn each_flow_to_a_shared_endpoint_is_counted_once() {
        const EXACT: BackendId = 1;
        const HASHED: BackendId = 2;
        let keys = Keys { exact: vec![0, 9, 0] };
        assert!(keys.are_exact(EXACT) && !keys.are_exact(HASHED));
        let flows = Mapped::anonymous(4).unwrap();
        let hashed = |salt| hash::flow_key_hashed([1, 2], 3, salt, [4, 5]);
        let replies = hash::reply_key(hashed(7));
        let value = |id| FlowValue::new(id, 1, FlowState::Established, 10).0;
        let values = [value(EXACT), value(EXACT), value(HASHED), value(HASHED)];
        let of_flows = [hash::flow_key_v4(1, 2, 9), hashed(8)];
        flows.write(1, &Bucket { keys: [of_flows[0], replies, of_flows[1], replies], values });
        let counts = flows.count(5, &keys);
        assert_eq!(counts[..3], [0, 1, 1]);
    }
}

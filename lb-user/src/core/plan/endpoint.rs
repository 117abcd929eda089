//! Lays out the endpoint table of one generation so that the packet path
//! answers with a single probe: no bucket overflows, no two keys are equal.

use lb_common::{
    addr::{self, AddrBytes},
    limits::ENDPOINT_BUCKETS,
    service::{
        ENDPOINT_SLOTS, EndpointBucket, EndpointKind, endpoint_bucket, endpoint_key_v4,
        endpoint_key_v6,
    },
};

/// Salts tried before the table is doubled.
const TRIES: u32 = 64;
/// Salts tried at the largest size: cheap, as most fail early.
const LAST_TRIES: u32 = 4096;

/// One entry to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// What is asked.
    pub kind: Kind,
    /// Address asked for.
    pub addr: AddrBytes,
    /// Port asked for (host byte order), or 0.
    pub port: u16,
    /// IP protocol number, or 0.
    pub proto: u8,
    /// The answer.
    pub id: u32,
}

/// [`EndpointKind`], ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`EndpointKind::Service`].
    Service,
    /// [`EndpointKind::Address`].
    Address,
    /// [`EndpointKind::Reply`].
    Reply,
}

impl From<Kind> for EndpointKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Service => Self::Service,
            Kind::Address => Self::Address,
            Kind::Reply => Self::Reply,
        }
    }
}

impl Endpoint {
    /// The key as the packet path computes it.
    #[must_use]
    pub fn key(&self, salt: u64) -> u64 {
        let (kind, port) = (self.kind.into(), self.port.to_be());
        if addr::from_bytes(self.addr).is_ipv4() {
            endpoint_key_v4(kind, addr::v4_of(self.addr), port, self.proto)
        } else {
            endpoint_key_v6(kind, addr::words(self.addr), port, self.proto, salt)
        }
    }
}

/// A finished table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTable {
    /// Salt of keys and buckets.
    pub salt: u64,
    /// The buckets, a power of two of them.
    pub buckets: Vec<EndpointBucket>,
}

impl EndpointTable {
    /// Mask of a bucket number.
    #[must_use]
    pub fn mask(&self) -> u32 {
        self.buckets.len() as u32 - 1
    }

    /// Lays out `endpoints`, which are distinct in all but the id, with the
    /// first salt derived from `seed` that fits; at most a quarter of the
    /// slots are used, less where no salt fits at that. `None`: not even the
    /// largest table holds them.
    #[must_use]
    pub fn build(endpoints: &[Endpoint], seed: u64) -> Option<Self> {
        let mut buckets = endpoints.len().next_power_of_two().max(16);
        let mut salt = seed;
        while buckets <= ENDPOINT_BUCKETS as usize {
            let tries = if buckets == ENDPOINT_BUCKETS as usize { LAST_TRIES } else { TRIES };
            for _ in 0..tries {
                salt = salt.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                if fits(endpoints, salt, buckets)
                    && let Some(buckets) = fill(endpoints, salt, buckets)
                {
                    return Some(Self { salt, buckets });
                }
            }
            buckets *= 2;
        }
        None
    }
}

fn bucket_of(key: u64, salt: u64, buckets: usize) -> usize {
    endpoint_bucket(key, salt) as usize & (buckets - 1)
}

/// Whether no bucket overflows: the cheap test, by counting.
fn fits(endpoints: &[Endpoint], salt: u64, buckets: usize) -> bool {
    let mut counts = vec![0u8; buckets];
    endpoints.iter().all(|endpoint| {
        let count = &mut counts[bucket_of(endpoint.key(salt), salt, buckets)];
        *count += 1;
        usize::from(*count) <= ENDPOINT_SLOTS
    })
}

/// Fills the buckets; `None` where two keys are equal.
fn fill(endpoints: &[Endpoint], salt: u64, buckets: usize) -> Option<Vec<EndpointBucket>> {
    let mut table = vec![EndpointBucket::ZERO; buckets];
    for endpoint in endpoints {
        let key = endpoint.key(salt);
        let bucket = &mut table[bucket_of(key, salt, buckets)];
        // Equal keys share a bucket, and free slots are the last ones.
        let slot = bucket.keys.iter().position(|&k| k == 0 || k == key)?;
        if bucket.keys[slot] == key {
            return None;
        }
        bucket.keys[slot] = key;
        bucket.ids[slot] = endpoint.id;
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(kind: Kind, n: u32) -> Endpoint {
        let addr = if n.is_multiple_of(2) {
            addr::to_bytes(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
        } else {
            addr::to_bytes(std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)).into())
        };
        Endpoint { kind, addr, port: n as u16, proto: 6, id: n + 1 }
    }

    fn find(table: &EndpointTable, wanted: &Endpoint) -> Option<u32> {
        let key = wanted.key(table.salt);
        let bucket = &table.buckets[(endpoint_bucket(key, table.salt) & table.mask()) as usize];
        bucket.keys.iter().position(|&k| k == key).map(|slot| bucket.ids[slot])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn everything_put_in_is_found_with_one_probe(n in 0u32..3000, seed: u64) {
            let endpoints: Vec<_> = (0..n).map(|i| endpoint(Kind::Service, i)).collect();
            let table = EndpointTable::build(&endpoints, seed).unwrap();
            for wanted in &endpoints {
                prop_assert_eq!(find(&table, wanted), Some(wanted.id));
            }
            prop_assert_eq!(find(&table, &endpoint(Kind::Reply, 4)), None);
            prop_assert!(endpoints.len() <= table.buckets.len());
        }
    }

    #[test]
    fn sixteen_thousand_endpoints_fit() {
        let endpoints: Vec<_> = (0..16_000).map(|i| endpoint(Kind::Service, i)).collect();
        assert!(EndpointTable::build(&endpoints, 1).is_some());
    }

    #[test]
    fn too_many_are_refused() {
        let endpoints: Vec<_> = (0..40_000).map(|i| endpoint(Kind::Service, i)).collect();
        assert_eq!(EndpointTable::build(&endpoints, 1), None);
    }
}

//! Sweeps the affinity table. Packets treat a slot whose time is up as free,
//! but a slot's clock wraps after 18 hours: the agent clears what is expired
//! long before, so that no flow comes back to life.

use std::{collections::BTreeMap, ops::Range};

use lb_common::{
    flow::{FlowValue, Timeouts},
    service::Service,
};

use super::tables::Tables;
use crate::core::plan::ServiceId;

/// Ages from here on are seconds that packets wrote after `now` was read.
const FUTURE: u16 = 0xff00;

/// How long flows of each service are kept.
pub struct Expiry {
    services: BTreeMap<ServiceId, Timeouts>,
    backends: Vec<ServiceId>,
}

impl Tables {
    /// Timeouts as they are in force.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        let active = self.config.read(0).active & 1;
        let services = self.services_of(active);
        Expiry {
            services: services.into_iter().map(|(id, entry)| (id, timeouts(&entry))).collect(),
            backends: (0..self.backends.entries())
                .map(|id| self.backends.read(id).service)
                .collect(),
        }
    }

    /// Clears the expired slots of these buckets; `now` is the data plane's
    /// second. Returns how many.
    #[must_use]
    pub fn sweep(&self, buckets: Range<u32>, now: u16, expiry: &Expiry) -> u32 {
        let expired = |_, value: FlowValue| {
            let age = value.age(now);
            age < FUTURE && age > expiry.of(value.backend()).of(value.state())
        };
        buckets.map(|bucket| self.clear_slots(bucket, expired)).sum()
    }
}

impl Expiry {
    /// Timeouts of a backend's flows; of nobody's: none.
    fn of(&self, backend: u16) -> Timeouts {
        let service = self.backends.get(usize::from(backend));
        let gone = Timeouts { embryonic: 0, established: 0, closing: 0 };
        service.and_then(|service| self.services.get(service)).copied().unwrap_or(gone)
    }
}

fn timeouts(entry: &Service) -> Timeouts {
    Timeouts {
        embryonic: entry.embryonic_timeout,
        established: entry.established_timeout,
        closing: entry.closing_timeout,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        backend::Backend,
        flow::{Bucket, FlowState},
        service::flags,
    };

    use super::*;
    use crate::dataplane::fake;

    #[test]
    fn only_what_is_expired_is_cleared() {
        let tables = fake::tables(4).unwrap();
        let service = Service {
            flags: flags::IN_USE,
            embryonic_timeout: 10,
            established_timeout: 100,
            closing_timeout: 20,
            ..Service::ZERO
        };
        tables.services.write(3, &service);
        tables.backends.write(7, &Backend { service: 3, ..Backend::ZERO });
        let now = 5_u16;
        let value = |age: u16, state| FlowValue::new(7, now.wrapping_sub(age), state, 1).0;
        let values = [
            value(11, FlowState::Embryonic),
            value(100, FlowState::Established),
            value(21, FlowState::Closing),
            value(u16::MAX, FlowState::Established),
        ];
        tables.flows.write(2, &Bucket { keys: [1, 2, 3, 4], values });
        assert_eq!(tables.sweep(0..4, now, &tables.expiry()), 2);
        assert_eq!(tables.flows.read(2).keys, [0, 2, 0, 4]);
    }
}

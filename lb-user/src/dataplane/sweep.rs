//! Sweeps the affinity table. Packets treat a slot whose time is up as free,
//! but a slot's clock wraps after 18 hours: the agent clears what is expired
//! long before, so that no flow comes back to life.

use std::ops::Range;

use lb_common::flow::FlowValue;

use super::tables::Tables;

impl Tables {
    /// Clears the expired slots of these buckets; `now` is the data plane's
    /// second. Returns how many.
    #[must_use]
    pub fn sweep(&self, buckets: Range<u32>, now: u16) -> u32 {
        let expired = |_, value: FlowValue| value.left(now) < 0;
        buckets.map(|bucket| self.clear_slots(bucket, expired)).sum()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{Bucket, FlowState, MAX_TIMEOUT};

    use super::*;
    use crate::dataplane::fake;

    #[test]
    fn only_what_is_expired_is_cleared() {
        let tables = fake::tables(4).unwrap();
        let now = 5_u16;
        let value = |left: i16| {
            FlowValue::new(7, 1, FlowState::Established, now.wrapping_add_signed(left)).0
        };
        let values = [value(-1), value(0), value(-2000), value(MAX_TIMEOUT.cast_signed())];
        tables.flows.write(2, &Bucket { keys: [1, 2, 3, 4], values });
        assert_eq!(tables.sweep(0..4, now), 2);
        assert_eq!(tables.flows.read(2).keys, [0, 2, 0, 4]);
    }
}

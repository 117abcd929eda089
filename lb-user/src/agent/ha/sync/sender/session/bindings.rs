//! Bindings of mode `fullnat` among what is told.

use std::{sync::Arc, time::Instant};

use lb_common::{
    flow::{FlowState, FlowValue},
    lease,
};

use super::{Groups, MOST_BINDINGS, Message, Part, Session, length};
use crate::{agent::ha::sync::channel::Error, core::sync::binding::Record};

impl Session {
    /// Tells the bindings that changed.
    pub(super) async fn tell_changed_bindings(&mut self, now: u16) -> Result<(), Error> {
        let names = Arc::clone(&self.at.names);
        let (mut changed, mut records) = (Vec::new(), Vec::new());
        for position in 0..names.sources().entries() {
            let index = names.sources().entry(position);
            let value = self.common.changes.bindings.entries.value(index);
            if self.at.bindings.changed(index, value) && self.read_binding(index, now, &mut records)
            {
                changed.push(index);
            }
        }
        if !records.is_empty() {
            let until = self.at.sequence + records.len().div_ceil(MOST_BINDINGS) as u64;
            self.at.open(until, Part::Bindings(changed));
            self.tell_bindings(&records, false, Some(self.marks.whole)).await?;
        }
        Ok(())
    }

    /// Adds the binding of an entry if it is to be told, as flows are; whether it is. One of
    /// a single packet, or of a handshake that goes on, is not: floods are of these.
    pub(super) fn read_binding(&self, index: u32, now: u16, records: &mut Vec<Record>) -> bool {
        let more = 2 * length(&self.at).as_secs() as u16 + 1;
        let Some(entry) = self.common.changes.bindings.entries.held(index, now) else {
            return false;
        };
        let value = FlowValue(entry.value);
        if value.state() == FlowState::Embryonic as u8 {
            return false;
        }
        let left = value.left(now).unsigned_abs().saturating_add(more);
        let told = self.at.names.tell_binding(index, &entry, left);
        let is_told = |group| self.at.told() & Groups::from(1_u8) << lease::index(group) != 0;
        let told = told.filter(|(_, group)| is_told(*group));
        records.extend(told.map(|(record, _)| record));
        told.is_some()
    }

    /// Tells bindings; see [`Session::tell`].
    pub(super) async fn tell_bindings(
        &mut self,
        records: &[Record],
        pass: bool,
        since: Option<Instant>,
    ) -> Result<(), Error> {
        for some in records.chunks(MOST_BINDINGS) {
            let (sequence, records) = (self.number(some.len()), some.to_vec());
            self.confirmable(&Message::Bindings { sequence, pass, records }, since).await?;
        }
        Ok(())
    }
}

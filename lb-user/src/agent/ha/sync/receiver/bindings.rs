//! Bindings of mode `fullnat` among what is heard.

use std::sync::Arc;

use lb_common::{flow::MAX_TIMEOUT, lease};

use super::{Error, Hearing, Inward};
use crate::core::sync::binding::Record;

impl Hearing {
    /// Enters what the peer has, see [`Hearing::enter`].
    pub(super) fn enter_bindings(&mut self, records: &[Record], pass: bool) -> Result<(), Error> {
        let now = self.common.changes.second()?;
        let serving = self.common.serving.borrow().clone();
        let names = Arc::clone(&self.common.names.borrow());
        let mut news = Inward::default();
        for record in records {
            let Some(ours) = self.translation.of_binding(record, &names) else {
                news.unknown += 1;
                continue;
            };
            let group = lease::index(ours.group) as usize;
            let yields = !serving.get(group).is_some_and(|group| group.active);
            let expires = now.wrapping_add(record.left.min(MAX_TIMEOUT));
            let new = (ours.backend, record.state, expires);
            let bindings = &self.common.changes.bindings;
            news.note(bindings.enter(ours.index, &ours.flow, new, now, yields)?);
            self.comparison.note_binding(ours.index);
        }
        news.records = records.len() as u64;
        self.publish(&news, pass);
        Ok(())
    }
}

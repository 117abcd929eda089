//! Connections that SYN cookies opened among what is heard.

use lb_common::{flow::MAX_TIMEOUT, lease};

use super::{Error, Hearing, Inward};
use crate::agent::ha::sync::message::Connection;

impl Hearing {
    /// Enters what the peer has of a group, by its id, see [`Hearing::enter`].
    pub(super) fn enter_connections(
        &mut self,
        group: u64,
        records: &[Connection],
        pass: bool,
    ) -> Result<(), Error> {
        let now = self.common.changes.second()?;
        let mut news = Inward::default();
        // What this node serves it knows better.
        let position = self.common.groups.iter().position(|ours| *ours == group);
        let yields = position.is_some_and(|position| {
            !self.common.serving.borrow().get(position).is_some_and(|group| group.active)
        });
        for record in records {
            let (Some(position), true) = (position, record.key != 0) else {
                news.unknown += 1;
                continue;
            };
            let expires = match record.left {
                0 => now.wrapping_sub(1),
                left => now.wrapping_add(left.min(MAX_TIMEOUT)),
            };
            let value = record.value.of_group(lease::group(position));
            let value = value.touched(value.stage(), expires);
            let (entered, number) =
                self.common.changes.enter_connection(record.key, value, now, yields);
            news.note(entered);
            self.comparison.note_connection(number);
        }
        news.records = records.len() as u64;
        self.publish(&news, pass);
        Ok(())
    }
}

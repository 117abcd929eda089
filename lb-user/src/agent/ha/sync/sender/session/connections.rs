//! Connections that SYN cookies opened among what is told.

use std::{collections::BTreeMap, time::Instant};

use lb_common::{lease, synproxy::Proxied};

use super::{Groups, Message, Part, Session, length};
use crate::agent::ha::sync::{
    channel::Error,
    message::{Connection, MOST_CONNECTIONS},
};

/// What is to be told, by group: nodes number groups as they have them in their files.
pub(super) type Connections = BTreeMap<u16, Vec<Connection>>;

/// Messages that these take.
pub(super) fn messages(connections: &Connections) -> u64 {
    connections.values().map(|of| of.len().div_ceil(MOST_CONNECTIONS) as u64).sum()
}

impl Session {
    /// Buckets of connections that a pass tells: none, unless a service of a group has, or
    /// had, SYN cookies.
    pub(super) fn proxied_buckets(&self) -> u32 {
        let table = &self.common.changes.proxied.table;
        if self.at.names.has_cookies() { table.entries() } else { 0 }
    }

    /// Tells the connections of buckets that are marked.
    pub(super) async fn tell_changed_connections(&mut self, now: u16) -> Result<(), Error> {
        if self.proxied_buckets() == 0 {
            return Ok(());
        }
        let marks = &self.common.changes.proxied.marks;
        let buckets: Vec<_> = marks.take(0..marks.entries()).map(|(bucket, _)| bucket).collect();
        let mut connections = Connections::default();
        buckets.iter().for_each(|bucket| self.read_connections(*bucket, now, &mut connections));
        if !connections.is_empty() {
            let until = self.at.sequence + messages(&connections);
            self.at.open(until, Part::Connections(buckets));
            self.tell_connections(&connections, false, Some(self.marks.whole)).await?;
        }
        Ok(())
    }

    /// Adds the connections of a bucket that are to be told. One whose backend has not
    /// accepted it is not: the client's next packet opens it again. One that is over is, as
    /// long as its entry says so: another one may have its ports, and no need of the entry.
    pub(super) fn read_connections(&self, bucket: u32, now: u16, all: &mut Connections) {
        let more = 2 * length(&self.at).as_secs() as u16 + 1;
        for (key, value) in self.common.changes.proxied.table.entries_of(bucket) {
            let group = value.group();
            let told = group != 0
                && !value.is_opening()
                && self.at.told() & Groups::from(1_u8) << lease::index(group) != 0;
            if told {
                let left = match value.left(now) {
                    left @ 0.. => left.unsigned_abs().saturating_add(more),
                    _ => 0,
                };
                let value = Proxied(value.of_group(0).touched(value.stage(), 0).0);
                all.entry(group).or_default().push(Connection { key, value, left });
            }
        }
    }

    /// Tells connections; see [`Session::tell`].
    pub(super) async fn tell_connections(
        &mut self,
        connections: &Connections,
        pass: bool,
        since: Option<Instant>,
    ) -> Result<(), Error> {
        for (&group, records) in connections {
            let Some(&group) = self.common.groups.get(lease::index(group) as usize) else {
                continue;
            };
            for some in records.chunks(MOST_CONNECTIONS) {
                let (sequence, records) = (self.number(some.len()), some.to_vec());
                let message = Message::Connections { sequence, pass, group, records };
                self.confirmable(&message, since).await?;
            }
        }
        Ok(())
    }
}

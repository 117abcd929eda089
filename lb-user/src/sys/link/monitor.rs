//! Interfaces that are looked at again whenever one changed.

use std::future::pending;

use rtnetlink::MulticastGroup;

use super::{Error, Interface, named};
use crate::sys::route::{Events, Requests};

/// Tells when an interface may have changed, and how one is now.
pub struct Monitor {
    requests: Requests,
    /// `None` after it failed, until the next look.
    events: Option<Events>,
}

impl Monitor {
    /// Of the network namespace of the calling thread, which must be in a
    /// runtime.
    ///
    /// # Errors
    /// If there are no netlink sockets.
    pub fn open() -> Result<Self, Error> {
        let events = Events::open(&[MulticastGroup::Link]).map_err(Error::Open)?;
        Ok(Self { requests: Requests::open().map_err(Error::Open)?, events: Some(events) })
    }

    /// Waits until an interface may have changed since it was looked at. May be
    /// cancelled. Should the kernel end the connection, nothing is told until
    /// the next look: look from time to time.
    pub async fn changed(&mut self) {
        let Some(events) = &mut self.events else { return pending().await };
        match events.next().await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => self.events = None,
            // Lost events are a change as well.
            _ => {}
        }
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// If there is none, or the kernel cannot be asked.
    pub async fn look(&mut self, name: &str) -> Result<Interface, Error> {
        if self.requests.is_lost() {
            self.requests = Requests::open().map_err(Error::Open)?;
        }
        if self.events.is_none() {
            self.events = Some(Events::open(&[MulticastGroup::Link]).map_err(Error::Open)?);
        }
        named(&self.requests, name).await
    }
}

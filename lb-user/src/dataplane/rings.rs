//! What the packet path tells the agent.

use std::{io, os::fd::AsRawFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use lb_common::notice::Notice;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use super::load::DataPlane;

/// Most that are taken at once: a flood of packets tells as fast as they are read, and the agent has other things to do.
const TURN: usize = 512;

/// What packets met that the agent should know of.
pub struct Notices(AsyncFd<RingBuf<MapData>>);

impl Notices {
    /// Waits for some and takes those there are, up to a number; what is left is
    /// there at once the next time.
    pub async fn next(&mut self) -> Vec<Notice> {
        let Ok(mut guard) = self.0.readable_mut().await else {
            // The descriptor has left the event loop: nothing will come.
            return std::future::pending().await;
        };
        let ring = guard.get_inner_mut();
        let mut notices = Vec::new();
        for _ in 0..TURN {
            let Some(item) = ring.next() else {
                guard.clear_ready();
                break;
            };
            notices.extend(bytemuck::try_pod_read_unaligned::<Notice>(&item));
        }
        notices
    }
}

/// Forwards the program's own log until dropped.
pub struct LogTask(JoinHandle<()>);

impl Drop for LogTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DataPlane {
    /// Begins to listen; `None` the second time.
    ///
    /// # Errors
    /// The descriptor cannot be waited for.
    pub fn notices(&mut self) -> io::Result<Option<Notices>> {
        let ring = self.take_notices();
        Ok(ring.map(readable).transpose()?.map(Notices))
    }

    /// Begins to forward the program's own log to the agent's.
    ///
    /// # Errors
    /// The program has none, or its descriptor cannot be waited for.
    pub fn forward_log(&mut self) -> io::Result<LogTask> {
        let logger = EbpfLogger::init(self.ebpf_mut()).map_err(io::Error::other)?;
        let mut logger = readable(logger)?;
        Ok(LogTask(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })))
    }
}

fn readable<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: both of our sources own their descriptor for as long as they
    // live and always answer with the same one.
    let registered = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
    registered.map_err(Into::into)
}

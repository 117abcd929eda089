//! Threads for what may not wait. The agent's own may be busy for a while, with a
//! plan or a disk: that must neither delay probes nor count as the backends'
//! time, and a peer must not take it for death.

use std::{io, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// A thread with a runtime. Dropping it ends what runs there.
#[derive(Debug)]
pub struct Thread {
    handle: Handle,
    /// What the thread waits for, and the thread; `None` once it is to end.
    running: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Thread {
    /// Starts it, under a name.
    ///
    /// # Errors
    /// The kernel gives no thread, or no descriptors for the runtime.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nothing is ever sent: the sender is dropped.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { handle, running: Some((end, thread)) })
    }

    /// By which tasks are started there.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.running.take() {
            drop(end);
            // It is waited for, so that no program outlives it; that it
            // panicked was told where it did.
            let _ = thread.join();
        }
    }
}

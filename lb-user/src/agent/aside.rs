//! Work that may never end, such as to look at a file on a server that is gone.

use std::{io, thread};

use tokio::sync::oneshot;

/// Does it on a thread of its own, which nobody waits for, not even the agent's
/// end: tokio waits for its own such threads.
///
/// # Errors
/// The kernel gives no thread.
pub(super) fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name("aside".into()).spawn(move || drop(done.send(work())))?;
    Ok(result)
}

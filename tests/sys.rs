//! The agent's dealings with the kernel, each on its own.

mod address;
mod announce;
mod link;

use lb_tests::harness::{Netns, Result};

/// An address of each family that moves.
const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

/// Runs `work` in a namespace, in a runtime of one thread.
fn inside<T: Send>(netns: &Netns, work: impl AsyncFnOnce() -> T + Send) -> Result<T> {
    netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work())
    })
}

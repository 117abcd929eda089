//! What the driver does besides: it asks the witness, and runs what has to be done
//! before a role may change.

use std::{future::pending, time::Duration};

use tokio::{spawn, task::JoinHandle};

use super::{
    ballot::MOST_BYTES,
    driver::{AT_ONCE, Driver, word},
    fence,
    socket::Way,
};

impl Driver {
    /// Asks the witness, if there is one.
    pub(super) fn ask_witness(&mut self, now: Duration) {
        let (Some(way), Some(question)) = (&mut self.witness, self.pair.question(now)) else {
            return;
        };
        let voice = self.voice.borrow();
        way.send(&voice.ballots().question(question));
        if voice.probes_witness()
            && let Some(question) = self.pair.knock(now)
        {
            way.send(&voice.ballots().question_by_newest(question));
        }
    }

    /// Takes in what the witness answered.
    pub(super) fn hear_witness(&mut self) {
        let Some(address) = self.ha.witness else { return };
        let mut buffer = [0; MOST_BYTES + 1];
        for _ in 0..AT_ONCE {
            let Some(way) = &self.witness else { return };
            let Some(length) = way.receive(&mut buffer) else { return };
            let now = self.now();
            let read = self.voice.borrow().ballots().read_answer(&buffer[..length]);
            match read {
                Ok((answer, key)) => {
                    self.voice.send_if_modified(|voice| voice.hear_witness(key));
                    self.pair.receive_answer(&answer, now);
                }
                Err(error) => self.refuse(word(error), address, now),
            }
        }
    }

    /// Begins to tell the peer the latest flows, or to fence it, if that is wanted.
    pub(super) fn run_errands(&mut self) {
        if self.pair.wants_flush() && self.flushing.is_none() {
            let sync = self.sync.clone();
            self.flushing = Some(spawn(async move { sync.flush().await }));
        }
        if self.pair.wants_fence()
            && self.fencing.is_none()
            && let Some(fence) = self.ha.fence.clone()
        {
            self.fencing = Some(spawn(fence::run(fence, self.ha.pair.clone())));
        }
    }
}

/// Waits for the end of a task, if there is one: whether it did what it was to.
pub(super) async fn done(task: &mut Option<JoinHandle<bool>>) -> bool {
    let done = match task {
        // One that panicked did not; that was told where it did.
        Some(task) => task.await.unwrap_or(false),
        None => pending().await,
    };
    *task = None;
    done
}

/// Waits until the witness has answered.
pub(super) async fn answered(witness: Option<&Way>) {
    match witness {
        Some(way) => way.readable().await,
        None => pending().await,
    }
}

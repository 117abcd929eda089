//! The store beside the controller. A disk may stand still for as long as it
//! likes (a network is gone, a controller resets), and who writes to it does with
//! it: roles, flows and orders that need no disk go on meanwhile.

use std::{
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::store::{Kept, Store, StoreError, set_aside};

/// What is to be saved, and who waits for that.
type Job = (Kept, oneshot::Sender<Result<(), StoreError>>);

/// A store on a thread of its own, which nobody waits for: it goes with the process.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    jobs: mpsc::Sender<Job>,
    /// What is on it, as far as that is known.
    has: Option<Kept>,
    /// What it has not come to the end of.
    late: Option<Late>,
}

/// A job that nobody waited for to its end.
#[derive(Debug)]
struct Late {
    kept: Kept,
    since: Instant,
    answer: oneshot::Receiver<Result<(), StoreError>>,
}

impl Disk {
    /// Of a store that has this.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn new(mut store: Store, has: Kept) -> std::io::Result<Self> {
        let directory = store.directory().to_owned();
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("disk".to_owned()).spawn(move || {
            for (kept, reply) in queue {
                // Who asked may have lost patience, and looks later.
                let _ = reply.send(store.save(&kept));
            }
        })?;
        Ok(Self { directory, jobs, has: Some(has), late: None })
    }

    /// See [`set_aside`].
    ///
    /// # Errors
    /// See there.
    pub(super) fn set_aside(&mut self) -> Result<PathBuf, StoreError> {
        self.has = None;
        set_aside(&self.directory)
    }

    /// Puts this on disk; it is there when this returns. While an earlier call has not
    /// come to its end, this one does not begin.
    ///
    /// # Errors
    /// See [`Store::save`]; and [`StoreError::Late`] where that takes longer than
    /// `patience`: it may come to its end later, or not.
    pub(super) async fn save(&mut self, kept: &Kept, patience: Duration) -> Result<(), StoreError> {
        self.look();
        if let Some(late) = &self.late {
            return Err(self.is_late(late.since));
        }
        if self.has.as_ref() == Some(kept) {
            return Ok(());
        }
        let since = Instant::now();
        let (reply, mut answer) = oneshot::channel();
        // A thread that has failed told why, and answers no more.
        let _ = self.jobs.send((kept.clone(), reply));
        let Ok(Ok(saved)) = timeout(patience, &mut answer).await else {
            self.late = Some(Late { kept: kept.clone(), since, answer });
            return Err(self.is_late(since));
        };
        self.has = saved.is_ok().then(|| kept.clone());
        saved
    }

    /// Takes in what came to its end meanwhile.
    fn look(&mut self) {
        let Some(mut late) = self.late.take() else { return };
        match late.answer.try_recv() {
            Ok(saved) => self.has = saved.is_ok().then_some(late.kept),
            Err(_) => self.late = Some(late),
        }
    }

    fn is_late(&self, since: Instant) -> StoreError {
        StoreError::Late { directory: self.directory.clone(), waited: since.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        process::Command,
    };

    use super::*;
    use crate::core::edit::{Denial, Edits};

    const PATIENCE: Duration = Duration::from_millis(50);

    fn denying(prefix: &str) -> Kept {
        let mut edits = Edits::default();
        let prefix = prefix.parse().expect("a prefix");
        edits.firewall.deny.insert(prefix, Denial { deny: true, until: None });
        Kept { edits, ..Kept::default() }
    }

    /// A file that is opened for writing once somebody reads it stands for a disk that
    /// stands still.
    #[tokio::test]
    async fn a_disk_that_stands_still_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let (store, kept) = Store::open(directory.path()).expect("a store");
        let mut disk = Disk::new(store, kept.clone()).expect("a thread");
        let [first, second] = ["192.0.2.0/24", "198.51.100.0/24"].map(denying);
        disk.save(&first, PATIENCE).await.expect("it is saved");

        let file = directory.path().join("edits.json.new");
        let made = Command::new("mkfifo").arg(&file).status().expect("mkfifo");
        assert!(made.success());
        let late = |saved: Result<(), StoreError>| matches!(saved, Err(StoreError::Late { .. }));
        assert!(late(disk.save(&second, PATIENCE).await));
        // It is not asked again, whatever it is asked for, and however patiently.
        assert!(late(disk.save(&first, Duration::MAX).await));

        // It goes on; that this cannot be synced is known before it is asked again.
        let reader = OpenOptions::new().read(true).open(&file).expect("its reader");
        while late(disk.save(&second, PATIENCE).await) {}
        drop(reader);
        disk.save(&second, Duration::MAX).await.expect("it is saved");
        drop(disk);
        let text = fs::read_to_string(directory.path().join("edits.json")).expect("a file");
        assert!(text.contains("198.51.100.0") && !text.contains("192.0.2.0"), "{text}");
    }
}

//! Terms on disk, so that none is used twice: a file `term` in
//! `node.state_dir` with a number up to which all may have been used. It is
//! ahead of the terms by enough that no takeover waits for the disk.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::agent::{
    aside::aside,
    store::{StoreError, replace},
};

/// The file.
const FILE: &str = "term";
/// Terms that are taken at a time.
const BLOCK: u64 = 1_000;
/// The highest term that can be meant: who changes roles a thousand times a
/// second gets there in 8,900 years. From above, no peer could overtake.
pub(super) const HIGHEST: u64 = 1 << 48;
/// How long to wait before a disk that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The terms that were used are not known.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// The file cannot be read.
    #[error("`{}` cannot be read: {reason}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// The file is not what an agent wrote.
    #[error("`{}` cannot be understood: expected a number, {HIGHEST} at most", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
    },
}

impl TermError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let Self::Damaged { file } = self else { return None };
        Some(format!(
            "move `{}` away while the peer runs: without it terms begin at 0, and this node has to \
             learn the peer's",
            file.display()
        ))
    }
}

/// The terms that are this node's to use.
#[derive(Debug)]
pub(super) struct Terms {
    directory: PathBuf,
    /// The number in the file.
    reserved: u64,
    /// A block that is being taken: its number, once the file has it.
    taking: Option<oneshot::Receiver<Result<u64, StoreError>>>,
    /// When a disk that failed is tried again.
    again: Option<Duration>,
}

impl Terms {
    /// Takes a block of terms; which they begin after. Where the disk does not
    /// take it, that is told, and the node begins all the same: it would be
    /// missed more than the number.
    ///
    /// # Errors
    /// The file cannot be read, or is no term.
    pub(super) fn open(directory: &Path) -> Result<(Self, u64), TermError> {
        let file = directory.join(FILE);
        let used = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(TermError::Damaged { file });
            }
            Err(reason) => return Err(TermError::Read { file, reason }),
            Ok(text) => match text.trim().parse() {
                Ok(term @ 0..=HIGHEST) => term,
                _ => return Err(TermError::Damaged { file }),
            },
        };
        let directory = directory.to_owned();
        let mut terms = Self { directory, reserved: used, taking: None, again: None };
        let taken = write(&terms.directory, terms.block(used));
        terms.note(taken, Duration::ZERO);
        Ok((terms, used))
    }

    /// Takes the next block in time, beside this thread: a disk that hangs must
    /// not cost a lease.
    pub(super) fn keep_ahead(&mut self, term: u64, now: Duration) {
        if let Some(taking) = &mut self.taking {
            match taking.try_recv() {
                Err(TryRecvError::Empty) => return,
                Ok(taken) => self.note(taken, now),
                // The thread panicked, which was told where it did.
                Err(TryRecvError::Closed) => self.again = Some(now + AGAIN),
            }
            self.taking = None;
        }
        if self.is_short(term) && self.again.is_none_or(|again| now >= again) {
            let (directory, block) = (self.directory.clone(), self.block(term));
            match aside(move || write(&directory, block)) {
                Ok(taking) => self.taking = Some(taking),
                Err(error) => self.fail(&error, now),
            }
        }
    }

    /// Whether the next block is to be taken.
    fn is_short(&self, term: u64) -> bool {
        term.saturating_add(BLOCK / 2).min(HIGHEST) > self.reserved
    }

    /// The number of the block after a term.
    fn block(&self, term: u64) -> u64 {
        term.max(self.reserved).saturating_add(BLOCK).min(HIGHEST)
    }

    fn note(&mut self, taken: Result<u64, StoreError>, now: Duration) {
        match taken {
            Ok(reserved) => (self.reserved, self.again) = (reserved, None),
            Err(error) => self.fail(&error, now),
        }
    }

    fn fail(&mut self, error: &dyn std::error::Error, now: Duration) {
        self.again = Some(now + AGAIN);
        let error = error.to_string();
        tracing::error!(
            error,
            "terms cannot be kept: an agent that starts here while the peer is away may use them \
             again, and serve beside the peer until they hear each other"
        );
    }
}

fn write(directory: &Path, block: u64) -> Result<u64, StoreError> {
    replace(directory, FILE, format!("{block}\n").as_bytes()).map(|()| block)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use tempfile::TempDir;

    use super::*;

    /// How long a disk may take.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn directory() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn on_disk(directory: &TempDir) -> u64 {
        let text = fs::read_to_string(directory.path().join(FILE)).expect("the file");
        text.trim().parse().expect("a number")
    }

    /// Waits for a block that is being taken.
    fn settle(terms: &mut Terms, now: Duration) {
        let begun = Instant::now();
        while terms.taking.is_some() {
            assert!(begun.elapsed() < PATIENCE, "the disk hangs");
            thread::yield_now();
            terms.keep_ahead(0, now);
        }
    }

    #[test]
    fn no_term_is_used_twice() {
        let directory = directory();
        let (mut terms, first) = Terms::open(directory.path()).expect("no file");
        assert_eq!((first, on_disk(&directory)), (0, BLOCK));
        terms.keep_ahead(BLOCK / 2, Duration::ZERO);
        assert!(terms.taking.is_none());
        terms.keep_ahead(BLOCK / 2 + 1, Duration::ZERO);
        settle(&mut terms, Duration::ZERO);
        assert_eq!((terms.reserved, on_disk(&directory)), (2 * BLOCK, 2 * BLOCK));
        let (_, next) = Terms::open(directory.path()).expect("a term");
        assert_eq!((next, on_disk(&directory)), (2 * BLOCK, 3 * BLOCK));
    }

    #[test]
    fn a_disk_that_takes_nothing_keeps_no_node_out_and_is_tried_again() {
        let directory = directory();
        fs::write(directory.path().join(FILE), "7\n").expect("a file");
        let in_the_way = directory.path().join(format!("{FILE}.new"));
        fs::create_dir(&in_the_way).expect("a directory");
        let (mut terms, used) = Terms::open(directory.path()).expect("a term");
        assert_eq!((used, terms.reserved), (7, 7));
        terms.keep_ahead(8, AGAIN - Duration::from_nanos(1));
        assert!(terms.taking.is_none(), "tried again too soon");
        terms.keep_ahead(8, AGAIN);
        settle(&mut terms, AGAIN);
        assert_eq!((on_disk(&directory), terms.again), (7, Some(2 * AGAIN)));
        fs::remove_dir(&in_the_way).expect("the directory");
        terms.keep_ahead(8, 2 * AGAIN);
        settle(&mut terms, 2 * AGAIN);
        assert_eq!((on_disk(&directory), terms.again), (8 + BLOCK, None));
    }

    #[test]
    fn what_is_no_term_is_refused_with_a_hint_of_its_own() {
        let directory = directory();
        let file = directory.path().join(FILE);
        let above = (HIGHEST + 1).to_string();
        let wrong: [&[u8]; 6] =
            [b"", b"many", b"-1", above.as_bytes(), b"18446744073709551615", b"\xff"];
        for text in wrong {
            fs::write(&file, text).expect("a file");
            let error = Terms::open(directory.path()).expect_err("no term");
            assert!(matches!(error, TermError::Damaged { .. }), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("while the peer runs")));
            assert_eq!(fs::read(&file).expect("the file"), text);
        }
        fs::remove_file(&file).expect("the file");
        fs::create_dir(&file).expect("a directory");
        assert!(matches!(Terms::open(directory.path()), Err(TermError::Read { .. })));
    }

    #[test]
    fn the_file_never_has_more_than_the_highest_term() {
        let directory = directory();
        fs::write(directory.path().join(FILE), HIGHEST.to_string()).expect("a file");
        let (mut terms, used) = Terms::open(directory.path()).expect("a term");
        assert_eq!((used, on_disk(&directory)), (HIGHEST, HIGHEST));
        terms.keep_ahead(u64::MAX, Duration::ZERO);
        assert!(terms.taking.is_none());
    }
}

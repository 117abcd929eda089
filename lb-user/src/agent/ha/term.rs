//! Terms on disk, so that none is used twice: a file `term` in
//! `node.state_dir` with a number up to which all may have been used. It is
//! ahead of the terms by enough that no takeover waits for the disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::agent::store::{StoreError, replace};

/// The file.
const FILE: &str = "term";
/// Terms that are taken at a time.
const BLOCK: u64 = 1_000;

/// The terms that are this node's to use.
#[derive(Debug)]
pub(super) struct Terms {
    directory: PathBuf,
    /// The number in the file.
    reserved: u64,
}

impl Terms {
    /// Takes a block of terms; which they begin after.
    ///
    /// # Errors
    /// The file is no number, or cannot be read or written.
    pub(super) fn open(directory: &Path) -> Result<(Self, u64), StoreError> {
        let file = directory.join(FILE);
        let used = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(reason) => return Err(StoreError::Io { path: file, action: "read", reason }),
            Ok(text) => text.trim().parse().map_err(|_| StoreError::Damaged {
                file,
                reason: "expected a number".to_owned(),
            })?,
        };
        let mut terms = Self { directory: directory.to_owned(), reserved: used };
        terms.reserve(used)?;
        Ok((terms, used))
    }

    /// Whether the next block is to be taken.
    pub(super) fn are_short(&self, term: u64) -> bool {
        term + BLOCK / 2 > self.reserved
    }

    /// Takes the block after a term.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn reserve(&mut self, term: u64) -> Result<(), StoreError> {
        let reserved = term.max(self.reserved).saturating_add(BLOCK);
        replace(&self.directory, FILE, format!("{reserved}\n").as_bytes())?;
        self.reserved = reserved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_term_is_used_twice() {
        let directory = tempfile::tempdir().unwrap();
        let (mut terms, first) = Terms::open(directory.path()).unwrap();
        assert_eq!(first, 0);
        assert!(!terms.are_short(BLOCK / 2) && terms.are_short(BLOCK / 2 + 1));
        terms.reserve(BLOCK / 2 + 1).unwrap();
        assert!(!terms.are_short(BLOCK));
        drop(terms);
        let (_, next) = Terms::open(directory.path()).unwrap();
        assert!(next > BLOCK, "{next}");
        fs::write(directory.path().join(FILE), "many").unwrap();
        assert!(matches!(Terms::open(directory.path()), Err(StoreError::Damaged { .. })));
    }
}

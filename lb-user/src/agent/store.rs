//! Edits on disk, so that they outlive the agent: `edits.json` in
//! `node.state_dir`. Beside them stands a configuration file that is not to be
//! gone by, since nobody confirmed it, and what the nodes of a pair share.
//!
//! The part of a file that is shared may be large and seldom changes: it has a file
//! of its own, named by its digest and written before anything names it.
//!
//! The file is replaced as a whole: written beside it, synced, renamed over
//! it, and the directory synced. Whenever the machine stops, the file is the
//! old one or the new one; a leftover beside it is removed at the next start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write as _},
    iter,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::core::{
    edit::Edits,
    replica::{Base, Digest, Ledger},
};

/// The file.
const FILE: &str = "edits.json";
/// Edits that were discarded at a start.
const DISCARDED: &str = "edits.json.discarded";
/// Held locked by the agent that uses the directory.
const LOCK: &str = "lock";
/// A shared part of a file has a name between these.
const BASE: [&str; 2] = ["base.", ".json"];
/// What files are written as first ends so.
const TEMPORARY: &str = ".json.new";
/// What cannot be done last.
const SYNCED: &str = "synced";
/// Layout of the file.
const VERSION: u32 = 1;

/// A directory of edits, locked for this agent.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// The shared parts of files that are on disk.
    bases: BTreeSet<Digest>,
    /// The lock goes with the process, however it ends.
    _lock: File,
}

/// What outlives the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept<B = Arc<Base>> {
    /// The edits to begin with.
    pub edits: Edits,
    /// A file that was not confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Withdrawn>,
    /// What the nodes of a pair share; left as it was while they do not.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub shared: Option<Ledger<B>>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { edits: Edits::default(), withdrawn: None, shared: None }
    }
}

impl<B> Kept<B> {
    /// The same with bases of another kind.
    fn try_map<C, E>(self, convert: impl FnMut(B) -> Result<C, E>) -> Result<Kept<C>, E> {
        let Self { edits, withdrawn, shared } = self;
        let shared = shared.map(|ledger| ledger.try_map(convert)).transpose()?;
        Ok(Kept { edits, withdrawn, shared })
    }
}

/// The text of a configuration file that is not to be gone by, although the
/// file may still have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The text.
    pub text: String,
    /// The text to go by instead.
    pub instead: String,
}

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Document<K> {
    version: u32,
    #[serde(flatten)]
    kept: K,
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why edits cannot be kept, or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent uses the directory.
    #[error("`{}` is in use by another agent: `{}` is locked", directory.display(), directory.join(LOCK).display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The file is not what an agent wrote.
    #[error("`{}` cannot be understood: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is of another version of lb.
    #[error("`{}` has version {version}, expected {VERSION}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The disk stands still.
    #[error("`{}` has not been written for {:.1} s: its disk does not answer", directory.display(), waited.as_secs_f64())]
    Late {
        /// The directory.
        directory: PathBuf,
        /// How long a write waits already.
        waited: Duration,
    },
    /// The kernel refused.
    #[error("`{}` cannot be {action}: {reason}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: io::Error,
    },
}

impl StoreError {
    /// Whether what was to be written may be on the disk all the same, or be there later.
    pub(super) fn is_in_doubt(&self) -> bool {
        match self {
            Self::Late { .. } => true,
            Self::Io { path, action, .. } => *action == SYNCED && path.is_dir(),
            _ => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { .. } => {
                Some("stop the other agent, or set another `node.state_dir`".to_owned())
            }
            Self::Damaged { file, .. } | Self::Version { file, .. } => {
                let file = file.with_file_name(FILE);
                let file = file.display();
                Some(format!(
                    "put it right, or move `{file}` away to go by the configuration alone"
                ))
            }
            Self::Late { .. } => Some(
                "look after that disk: forwarding and takeover go on without it; what is in force \
                 is written as soon as it answers, and until then a restart may bring back what \
                 was refused"
                    .to_owned(),
            ),
            Self::Io { reason, .. } => match reason.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    Some("make room there: nothing was changed".to_owned())
                }
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Some(
                    "`node.state_dir` must be a directory that the agent can write to".to_owned(),
                ),
                _ => None,
            },
        }
    }
}

/// Names what was tried, and on what.
fn tried<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<T, StoreError> {
    result.map_err(|reason| StoreError::Io { path: path.to_owned(), action, reason })
}

/// How long a lock may be held by nobody who uses the directory: what an agent that ended
/// was about to run holds it as well, until it runs.
const LINGERING: Duration = Duration::from_millis(500);

fn lock_soon(file: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < LINGERING => {
                thread::sleep(LINGERING / 50);
            }
            answer => return answer,
        }
    }
}

impl Store {
    /// Opens a directory, or makes it, and reads the edits in it.
    ///
    /// # Errors
    /// Another agent uses it, its file cannot be understood (and is left as it
    /// is), or the kernel refuses.
    pub fn open(directory: &Path) -> Result<(Self, Kept), StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        tried(made, "created", directory)?;
        let lock = directory.join(LOCK);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock);
        let file = tried(file, "opened", &lock)?;
        match lock_soon(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { directory: directory.to_owned() });
            }
            Err(TryLockError::Error(source)) => tried(Err(source), "locked", &lock)?,
        }
        let (directory, bases) = (directory.to_owned(), BTreeSet::new());
        let mut store = Self { directory, bases, _lock: file };
        let kept = store.read()?;
        store.bases = bases_of(&kept).into_iter().map(Base::digest).collect();
        store.tidy()?;
        Ok((store, kept))
    }

    fn read(&self) -> Result<Kept, StoreError> {
        let file = self.directory.join(FILE);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Kept::default()),
            text => tried(text, "read", &file)?,
        };
        let Version { version } = parse(&file, &text)?;
        if version != VERSION {
            return Err(StoreError::Version { file, version });
        }
        let document: Document<Kept<Digest>> = parse(&file, &text)?;
        let mut known: BTreeMap<Digest, Arc<Base>> = BTreeMap::new();
        document.kept.try_map(|digest| {
            if let Some(base) = known.get(&digest) {
                return Ok(Arc::clone(base));
            }
            let base = Arc::new(self.read_base(digest)?);
            known.insert(digest, Arc::clone(&base));
            Ok(base)
        })
    }

    fn read_base(&self, digest: Digest) -> Result<Base, StoreError> {
        let file = self.directory.join(base_name(digest));
        let text = fs::read(&file).map_err(|error| StoreError::Damaged {
            file: file.clone(),
            reason: error.to_string(),
        })?;
        let base: Base = parse(&file, &text)?;
        if base.digest() != digest {
            let reason = format!("its digest is {}", base.digest());
            return Err(StoreError::Damaged { file, reason });
        }
        Ok(base)
    }

    /// Removes what nothing names.
    fn tidy(&self) -> Result<(), StoreError> {
        let entries = tried(fs::read_dir(&self.directory), "read", &self.directory)?;
        for entry in entries {
            let entry = tried(entry, "read", &self.directory)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_base = name.starts_with(BASE[0]) && name.ends_with(BASE[1]);
            let named = self.bases.iter().any(|base| base_name(*base) == name);
            if name.ends_with(TEMPORARY) || is_base && !named {
                tried(fs::remove_file(entry.path()), "removed", &entry.path())?;
            }
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts this on disk; it is there when this returns.
    ///
    /// # Errors
    /// The kernel refuses, for instance because the disk is full. Then the
    /// file is the old one. (If only the last step fails, the sync of the
    /// directory, it is the new one until the machine stops.)
    pub fn save(&mut self, kept: &Kept) -> Result<(), StoreError> {
        let bases = bases_of(kept);
        for base in &bases {
            if !self.bases.contains(&base.digest()) {
                self.write(&base_name(base.digest()), serde_json::to_vec(base))?;
                self.bases.insert(base.digest());
            }
        }
        let kept = kept.clone().try_map(|base| Ok::<_, StoreError>(base.digest()))?;
        self.write(FILE, serde_json::to_vec_pretty(&Document { version: VERSION, kept }))?;
        let named: BTreeSet<_> = bases.into_iter().map(Base::digest).collect();
        if named != self.bases {
            self.bases = named;
            // What is left over is removed at the next start.
            let _ = self.tidy();
        }
        Ok(())
    }

    fn write(&self, name: &str, text: serde_json::Result<Vec<u8>>) -> Result<(), StoreError> {
        let text = text.map_err(io::Error::from);
        let mut text = tried(text, "written", &self.directory.join(name))?;
        text.push(b'\n');
        replace(&self.directory, name, &text)
    }
}

/// Puts the file aside, as it is; returns where. There need not be one.
///
/// # Errors
/// The kernel refuses; nothing is lost then.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, StoreError> {
    let (file, aside) = (directory.join(FILE), directory.join(DISCARDED));
    match fs::rename(&file, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        moved => tried(moved, "moved", &file)?,
    }
    Ok(aside)
}

fn parse<'t, T: Deserialize<'t>>(file: &Path, text: &'t [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(text)
        .map_err(|error| StoreError::Damaged { file: file.to_owned(), reason: error.to_string() })
}

/// The shared parts of files that this names.
fn bases_of(kept: &Kept) -> Vec<&Base> {
    let ledger = kept.shared.iter();
    let revisions = ledger.flat_map(|ledger| iter::once(&ledger.current).chain(&ledger.common));
    revisions.map(|revision| &*revision.content.base).collect()
}

fn base_name(digest: Digest) -> String {
    let [head, tail] = BASE;
    format!("{head}{digest}{tail}")
}

/// Replaces a file as a whole; it is on disk when this returns.
///
/// # Errors
/// See [`Store::save`].
pub(super) fn replace(directory: &Path, name: &str, text: &[u8]) -> Result<(), StoreError> {
    let (file, temporary) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = write(&temporary, text)
        .and_then(|()| tried(fs::rename(&temporary, &file), "replaced", &file));
    if written.is_err() {
        // The next start removes it as well; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    tried(synced, SYNCED, directory)
}

fn write(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    let mut file = tried(file, "created", path)?;
    tried(file.write_all(text), "written", path)?;
    tried(file.sync_all(), SYNCED, path)
}

#[cfg(test)]
mod tests;

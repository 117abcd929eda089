//! The directory where the data plane is pinned, and who may work in it.

use std::{
    ffi::CString,
    fs::{self, File, TryLockError},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use lb_common::maps;

/// Where BPF file systems are mounted by convention.
const BPF_ROOT: &str = "/sys/fs/bpf";

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Another process works in it.
    #[error(
        "`{0}` is in use by another process, expected one agent per `node.pin_dir`: stop it first, \
         or give this one a directory of its own"
    )]
    InUse(PathBuf),
    /// It is not where pins can live.
    #[error(
        "`{0}` is not on a BPF file system, expected a directory below one: \
         `mount -t bpf bpf /sys/fs/bpf`"
    )]
    NotBpf(PathBuf),
    /// Somebody else pins there.
    #[error(
        "`{path}` {found}, expected a directory of this program's own: name another one, or move \
         what is there"
    )]
    Strange {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The kernel refused.
    #[error("cannot {doing} `{path}`")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PinError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

/// What is pinned in a directory.
#[derive(Debug)]
pub struct Kind {
    /// The map that shows that the rest is ours: an array of one entry.
    pub mark: &'static str,
    /// Every map, the mark too.
    pub maps: &'static [&'static str],
    /// Every program.
    pub programs: &'static [&'static str],
}

impl Kind {
    /// Whether a map or program of this kind is pinned under that name.
    fn has(&self, name: &str) -> bool {
        self.maps.contains(&name) || self.programs.iter().any(|program| name.starts_with(program))
    }

    /// Whether that is the mark, of whatever layout: older ones are removed, too.
    fn is_mark(&self, info: &MapInfo) -> bool {
        let array = matches!(info.map_type(), Ok(MapType::Array));
        array && info.name_as_str() == Some(self.mark) && info.max_entries() == 1
    }
}

/// The packet path.
pub static PACKET_PATH: Kind =
    Kind { mark: maps::CONFIG, maps: &maps::PINNED, programs: &maps::PROGRAMS };

/// A pin directory, locked for as long as this lives.
#[derive(Debug)]
pub struct PinDir {
    kind: &'static Kind,
    path: PathBuf,
    /// The lock is on the directory itself: a BPF file system holds no files.
    _lock: File,
}

impl PinDir {
    /// Creates the directory where it is missing, mounts a BPF file system at
    /// `/sys/fs/bpf` where that is missing, and locks.
    ///
    /// # Errors
    /// It is in use, or not on a BPF file system.
    pub fn open(path: &Path, kind: &'static Kind) -> Result<Self, PinError> {
        ensure_bpf(path)?;
        fs::create_dir_all(path).map_err(|source| PinError::io("create", path, source))?;
        Self::lock(path, kind)
    }

    /// The directory if something is pinned there.
    ///
    /// # Errors
    /// It is in use, or others pin there.
    pub fn find(path: &Path, kind: &'static Kind) -> Result<Option<Self>, PinError> {
        if !path.is_dir() || !is_bpf(path)? {
            return Ok(None);
        }
        let pins = Self::lock(path, kind)?;
        pins.check()?;
        Ok(pins.pin(kind.mark).exists().then_some(pins))
    }

    fn lock(path: &Path, kind: &'static Kind) -> Result<Self, PinError> {
        let lock = File::open(path).map_err(|source| PinError::io("open", path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { kind, path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(PinError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(PinError::io("lock", path, source)),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pin of a map or program.
    #[must_use]
    pub fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Pin of the link of an interface.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.path.join(format!("{}{ifindex}", maps::LINK_PREFIX))
    }

    /// Indexes of the interfaces with a pinned link.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn links(&self) -> Result<Vec<u32>, PinError> {
        let names = self.names()?;
        let index = |name: &String| name.strip_prefix(maps::LINK_PREFIX)?.parse().ok();
        Ok(names.iter().filter_map(index).collect())
    }

    /// Removes a pin; one that is not there is fine.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, pin: &Path) -> Result<(), PinError> {
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(PinError::io("remove", pin, error))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a directory where others pin: [`Self::clear`] would remove
    /// theirs.
    ///
    /// # Errors
    /// It is the root of its file system, or holds no data plane of ours but
    /// something else.
    pub fn check(&self) -> Result<(), PinError> {
        let strange = |found: String| PinError::Strange { path: self.path.clone(), found };
        let device = |path: &Path| {
            let read = fs::metadata(path).map(|data| data.dev());
            read.map_err(|source| PinError::io("look at", path, source))
        };
        if device(&self.path)? != device(&self.path.join(".."))? {
            return Err(strange("is the root of its file system".to_owned()));
        }
        let mark = self.pin(self.kind.mark);
        if mark.exists() {
            return match MapInfo::from_pin(&mark) {
                Ok(info) if self.kind.is_mark(&info) => Ok(()),
                _ => Err(strange(format!("has another program's `{}`", self.kind.mark))),
            };
        }
        // Without it there are at most leftovers of a start that was cut off,
        // before anything was attached.
        match self.names()?.iter().find(|name| !self.kind.has(name)) {
            Some(name) => Err(strange(format!("holds `{name}` and no `{}`", self.kind.mark))),
            None => Ok(()),
        }
    }

    /// Removes all pins of the data plane, links first: that detaches it.
    /// Returns the indexes of the interfaces.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn clear(&self) -> Result<Vec<u32>, PinError> {
        let links = self.links()?;
        for &ifindex in &links {
            self.remove(&self.link(ifindex))?;
        }
        for name in self.names()?.iter().filter(|name| self.kind.has(name)) {
            self.remove(&self.pin(name))?;
        }
        Ok(links)
    }

    fn names(&self) -> Result<Vec<String>, PinError> {
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        read().map_err(|source| PinError::io("read", &self.path, source))
    }
}

/// What [`detach`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detached {
    /// There was nothing to do.
    Nothing,
    /// The data plane is gone; it was attached to interfaces with these indexes.
    Removed(Vec<u32>),
}

/// Removes the data plane pinned in `path`: links, programs, maps, and the
/// directory, if it is empty then.
///
/// # Errors
/// An agent is at work there, or the kernel refused.
pub fn detach(path: &Path, kind: &'static Kind) -> Result<Detached, PinError> {
    if !path.is_dir() || !is_bpf(path)? {
        return Ok(Detached::Nothing);
    }
    let pins = PinDir::lock(path, kind)?;
    if pins.names()?.is_empty() {
        let _ = fs::remove_dir(path);
        return Ok(Detached::Nothing);
    }
    pins.check()?;
    let links = pins.clear()?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            Err(PinError::io("remove", path, error))
        }
        _ => Ok(Detached::Removed(links)),
    }
}

/// Makes sure that `path` is, or will be, on a BPF file system.
fn ensure_bpf(path: &Path) -> Result<(), PinError> {
    let existing = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(path);
    if is_bpf(existing)? {
        return Ok(());
    }
    if !path.starts_with(BPF_ROOT) || existing != Path::new(BPF_ROOT) {
        return Err(PinError::NotBpf(path.to_owned()));
    }
    mount_bpf().map_err(|source| PinError::io("mount a BPF file system at", existing, source))?;
    tracing::info!(path = BPF_ROOT, "mounted a BPF file system");
    Ok(())
}

fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let read = || -> io::Result<bool> {
        let c_path = CString::new(path.as_os_str().as_bytes())?;
        let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: a C string and room for the answer, both alive.
        if unsafe { libc::statfs(c_path.as_ptr(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded and filled it in.
        Ok(unsafe { stat.assume_init() }.f_type == libc::BPF_FS_MAGIC)
    };
    read().map_err(|source| PinError::io("look at", path, source))
}

fn mount_bpf() -> io::Result<()> {
    // SAFETY: C strings that live forever; the data of this file system is a C string.
    let done = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            c"/sys/fs/bpf".as_ptr(),
            c"bpf".as_ptr(),
            0,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_live_on_a_bpf_file_system_only() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinDir::open(&directory.path().join("lb"), &PACKET_PATH).unwrap_err();
        assert!(matches!(error, PinError::NotBpf(_)), "{error}");
        assert!(!directory.path().join("lb").exists(), "a refusal leaves nothing behind");
    }

    #[test]
    fn detaching_where_nothing_is_pinned_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(detach(directory.path(), &PACKET_PATH).unwrap(), Detached::Nothing);
        assert_eq!(detach(&directory.path().join("lb"), &PACKET_PATH).unwrap(), Detached::Nothing);
    }

    #[test]
    fn a_directory_with_others_pins_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pins = PinDir::lock(directory.path(), &PACKET_PATH).unwrap();
        pins.check().unwrap();
        for leftover in [maps::FLOWS, maps::PROGRAM] {
            File::create(pins.pin(leftover)).unwrap();
        }
        pins.check().unwrap();
        for strange in ["link_2", "other"] {
            File::create(pins.pin(strange)).unwrap();
            let error = pins.check().unwrap_err();
            assert!(error.to_string().contains(&format!("`{strange}`")), "{error}");
            fs::remove_file(pins.pin(strange)).unwrap();
        }
        File::create(pins.pin(maps::CONFIG)).unwrap();
        let error = pins.check().unwrap_err();
        assert!(error.to_string().contains("`CONFIG`"), "{error}");
        let root = PinDir::lock(Path::new("/proc"), &PACKET_PATH).unwrap().check().unwrap_err();
        assert!(root.to_string().contains("root"), "{root}");
    }

    #[test]
    fn one_agent_works_in_a_pin_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = PinDir::lock(directory.path(), &PACKET_PATH).unwrap();
        let error = PinDir::lock(directory.path(), &PACKET_PATH).unwrap_err();
        assert!(matches!(error, PinError::InUse(_)), "{error}");
        drop(first);
        assert!(PinDir::lock(directory.path(), &PACKET_PATH).is_ok());
    }
}

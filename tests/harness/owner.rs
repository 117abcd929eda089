//! Who a lab belongs to, and what a dead owner left behind.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Error, Result, mount,
    netns::{self, NAMES},
};

/// One directory for each lab, named like it; it holds the lab's files and
/// tells whose it is. Made before anything else of the lab and removed last.
const LABS: &str = "/run/lb-lab";
/// Where pins go; a lab's are in directories named like it, and like its parts.
pub(super) const BPF: &str = "/sys/fs/bpf";
/// The agent's state, in a lab's directory; a test may mount another disk there.
pub(super) const STATE: &str = "state";
/// File in a lab's directory: when its owner started, see [`started`].
const STARTED: &str = "started";

/// A lab's claim to its name, `lb-PID-COUNTER`, and its two directories.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) pin_dir: PathBuf,
}

impl Claim {
    /// Claims a name that nobody has.
    pub(super) fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let pid = process::id();
        let name = format!("lb-{pid}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(LABS).join(&name);
        let failed = || Error::io(format!("make directory `{}`", dir.display()));
        fs::create_dir_all(&dir).map_err(failed())?;
        let started = started(pid).unwrap_or_default();
        fs::write(dir.join(STARTED), started.to_string()).map_err(failed())?;
        Ok(Self { pin_dir: Path::new(BPF).join(&name), dir, name })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = remove_pins(&self.name);
        let _ = remove_tree(&self.dir);
    }
}

/// Removes the labs of processes that are gone: their processes, namespaces,
/// pins and files. Returns the names of these labs.
///
/// # Errors
/// Something of such a lab cannot be removed.
pub fn sweep() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for name in names(Path::new(LABS))? {
        let dir = Path::new(LABS).join(&name);
        if is_owned(&name, &dir) {
            continue;
        }
        let prefix = format!("{name}-");
        for netns in names(Path::new(NAMES))?.into_iter().filter(|n| n.starts_with(&prefix)) {
            kill_inside(&Path::new(NAMES).join(&netns))?;
            netns::remove(&netns);
        }
        mount::detach_all(&dir.join(STATE));
        remove_pins(&name)?;
        remove_tree(&dir).map_err(Error::io(format!("remove `{}`", dir.display())))?;
        swept.push(name);
    }
    Ok(swept)
}

/// Whether the process that made the lab lives; a process number may have been
/// given to somebody else since, a pair of number and start time has not.
fn is_owned(name: &str, dir: &Path) -> bool {
    let pid = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
    match (pid.and_then(started), fs::read_to_string(dir.join(STARTED))) {
        (Some(now), Ok(then)) => then == now.to_string(),
        // Its owner is just making it.
        (Some(_), Err(_)) => true,
        (None, _) => false,
    }
}

/// When a process started, in clock ticks since boot: field 22 of
/// `/proc/PID/stat` (proc(5)). Nothing if there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Kills every process that lives in the namespace.
fn kill_inside(netns: &Path) -> Result<()> {
    let Ok(wanted) = fs::metadata(netns) else { return Ok(()) };
    for pid in names(Path::new("/proc"))?.iter().filter_map(|name| name.parse::<i32>().ok()) {
        let inside = fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
        if inside {
            // SAFETY: takes two numbers; the process is inside a namespace that
            // only the dead lab's processes ever entered.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    Ok(())
}

/// Removes what a lab pinned: in the directory named like it, and in those of its parts.
fn remove_pins(lab: &str) -> Result<()> {
    let part = format!("{lab}-");
    for name in names(Path::new(BPF))? {
        if name == lab || name.starts_with(&part) {
            let tree = Path::new(BPF).join(name);
            remove_tree(&tree).map_err(Error::io(format!("remove `{}`", tree.display())))?;
        }
    }
    Ok(())
}

/// Names in a directory; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = || Error::io(format!("list `{}`", dir.display()));
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(failed())?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed()(error)),
    }
}

/// Removes a directory and all in it, if it exists.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

//! Disks that are full, or cannot be written to.

use std::{
    ffi::CString,
    fs,
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Error, Result, run, tool};

/// Takes the room of a full disk.
const BALLAST: &str = "ballast";
/// How long mounting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file system mounted on a directory, unmounted when dropped. Files opened
/// before go on being what they are.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
}

impl Mount {
    /// Makes the directory and mounts an empty disk of 64 KiB there.
    ///
    /// # Errors
    /// We are not privileged.
    pub fn tiny(directory: &Path) -> Result<Self> {
        let made = fs::create_dir_all(directory);
        made.map_err(Error::io(format!("make directory `{}`", directory.display())))?;
        let words = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        run(tool("mount").args(words).arg(directory), PATIENCE)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Makes what is in the directory read-only for who opens it from now on.
    ///
    /// # Errors
    /// There is no such directory, or we are not privileged.
    pub fn read_only(directory: &Path) -> Result<Self> {
        run(tool("mount").arg("--bind").arg(directory).arg(directory), PATIENCE)?;
        let mount = Self { directory: directory.to_owned() };
        run(tool("mount").args(["-o", "remount,bind,ro"]).arg(directory), PATIENCE)?;
        Ok(mount)
    }

    /// Writes until nothing more fits.
    ///
    /// # Errors
    /// It is not room that lacks.
    pub fn fill(&self) -> Result<()> {
        let path = self.directory.join(BALLAST);
        let failed = || Error::io(format!("fill `{}`", path.display()));
        let mut ballast = fs::File::create(&path).map_err(failed())?;
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(failed()(error)),
            }
        }
    }

    /// Gives the room back that [`Self::fill`] took.
    ///
    /// # Errors
    /// It was not filled.
    pub fn clear(&self) -> Result<()> {
        let path = self.directory.join(BALLAST);
        fs::remove_file(&path).map_err(Error::io(format!("remove `{}`", path.display())))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        detach(&self.directory);
    }
}

/// Unmounts all that is mounted on a directory.
pub(super) fn detach_all(directory: &Path) {
    while detach(directory) {}
}

/// Unmounts what is mounted on a directory, whoever uses it; whether something was.
fn detach(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is a string that ends with a zero byte.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0 }
}

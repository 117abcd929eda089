//! The pair's key: 32 random bytes that both nodes have in a file, as
//! hexadecimal digits in one line. Who can read it can speak for a node.
//!
//! The key itself is used for nothing but to derive others, one for each use
//! and pair.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use ring::{
    hkdf, hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Length of the key in bytes.
const LENGTH: usize = 32;
/// Bytes that are read of a file: a longer one is no key.
const MOST_BYTES: u64 = 128;
/// Permissions of anybody but the owner.
const OTHERS: u32 = 0o077;
/// The user that may read everything.
const ROOT: u32 = 0;

/// The key of a pair.
#[derive(Clone, Debug)]
pub struct Key(hkdf::Prk);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel does not give the key.
    #[error("`{}` cannot be read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// The kernel does not take the key.
    #[error("`{}` cannot be written: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// A directory, a device or a pipe.
    #[error("`{}` is no regular file", path.display())]
    Irregular {
        /// The file.
        path: PathBuf,
    },
    /// Others may know the key.
    #[error(
        "`{}` has mode {mode:04o} and owner {owner}, expected 0600 and root or the agent's user",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Number of the user that it belongs to.
        owner: u32,
    },
    /// The file holds something else.
    #[error("`{}` holds no key, expected 64 hexadecimal digits in one line", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to make a key of.
    #[error("the kernel gives no random bytes")]
    Random,
}

impl KeyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, reason } => {
                (reason.kind() == ErrorKind::NotFound).then(|| made(path))
            }
            Self::Write { path, reason } => match reason.kind() {
                ErrorKind::NotFound => {
                    let directory = path.parent()?.display();
                    Some(format!("make its directory first: `mkdir -p {directory}`"))
                }
                ErrorKind::AlreadyExists => {
                    Some("a key is never written over: remove it first if no node has it".into())
                }
                _ => None,
            },
            Self::Irregular { path } | Self::Malformed { path } => Some(made(path)),
            Self::Exposed { path, .. } => {
                let path = path.display();
                Some(format!(
                    "`chown root {path}` and `chmod 600 {path}`, or make another key if somebody \
                     may have read it"
                ))
            }
            Self::Random => None,
        }
    }
}

fn made(path: &Path) -> String {
    let path = path.display();
    format!("make a key with `lb ha keygen {path}` on one node, and copy it to the other")
}

impl From<[u8; LENGTH]> for Key {
    fn from(secret: [u8; LENGTH]) -> Self {
        // The secret is random: extraction needs no salt (RFC 5869, section 3.1).
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret))
    }
}

impl Key {
    /// Reads the key from its file.
    ///
    /// # Errors
    /// It cannot be read, others than the agent and root may read it, or it
    /// holds no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |reason| KeyError::Read { path: path.to_owned(), reason };
        // A pipe is not waited for: it is refused.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = open.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(KeyError::Irregular { path: path.to_owned() });
        }
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if is_exposed(mode, owner, geteuid().as_raw()) {
            return Err(KeyError::Exposed { path: path.to_owned(), mode, owner });
        }
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text).map_err(failed)?;
        let secret = parse(text.trim_ascii_end());
        secret.map(Self::from).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
    }

    /// The key for one use by one pair: HKDF-SHA256 (RFC 5869) with both names
    /// in `info`. `purpose` has no byte 0, so no two of them run together.
    #[must_use]
    pub fn derive(&self, purpose: &str, pair: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.secret(purpose, pair))
    }

    /// The secret that places flows in the affinity tables of both nodes, see
    /// [`lb_common::hash::place`].
    #[must_use]
    pub fn place_seed(&self, pair: &str) -> [u64; 2] {
        let bytes = self.secret("place", pair);
        let (words, _) = bytes.as_chunks();
        [words[0], words[1]].map(u64::from_be_bytes)
    }

    /// [`Self::derive`] as bytes.
    #[must_use]
    pub fn secret(&self, purpose: &str, pair: &str) -> [u8; LENGTH] {
        let info = [b"lb ", purpose.as_bytes(), b"\0", pair.as_bytes()];
        let mut secret = [0; LENGTH];
        let derived = self.0.expand(&info, hkdf::HKDF_SHA256);
        derived.and_then(|derived| derived.fill(&mut secret)).expect("as long as a digest");
        secret
    }
}

/// Whether anybody but root and `user` may read or replace a file's contents.
fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    mode & OTHERS != 0 || ![ROOT, user].contains(&owner)
}

/// The bytes that hexadecimal digits stand for, if they are a key's.
fn parse(digits: &[u8]) -> Option<[u8; LENGTH]> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    pairs.iter().map(byte).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// Makes a key: the line of text that its file holds.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn generate() -> Result<String, KeyError> {
    let mut secret = [0; LENGTH];
    SystemRandom::new().fill(&mut secret).map_err(|_| KeyError::Random)?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits + "\n")
}

/// Makes a key and writes it to a new file that only its owner can read.
///
/// # Errors
/// The file is there already, or cannot be written: then it is gone again.
pub fn create(path: &Path) -> Result<(), KeyError> {
    let text = generate()?;
    let failed = |reason| KeyError::Write { path: path.to_owned(), reason };
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = new.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // Half a key would only be in the way.
        let _ = fs::remove_file(path);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    };

    use tempfile::TempDir;

    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    fn directory() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    /// What reading a file with this content says.
    fn reading(text: &str, mode: u32) -> Result<Key, KeyError> {
        let directory = directory();
        let path = directory.path().join("pair.key");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        Key::read(&path)
    }

    /// What a key makes of a text: keys themselves are not shown.
    fn tag(key: &hmac::Key) -> Vec<u8> {
        hmac::sign(key, b"text").as_ref().to_vec()
    }

    #[test]
    fn a_key_that_is_made_can_be_read_and_is_nobody_elses() {
        let directory = directory();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        for path in [&first, &second] {
            create(path).expect("a key");
            let mode = fs::metadata(path).expect("the file").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
        }
        let [first, second] = [first, second].map(|path| Key::read(&path).expect("a key"));
        assert_ne!(tag(&first.derive("use", "edge")), tag(&second.derive("use", "edge")));
    }

    #[test]
    fn a_key_is_never_written_over() {
        let directory = directory();
        let path = directory.path().join("pair.key");
        fs::write(&path, "mine").expect("a file");
        let error = create(&path).expect_err("there is one");
        assert!(error.to_string().contains("cannot be written: File exists"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("remove it first")));
        assert_eq!(fs::read(&path).expect("the file"), b"mine");
    }

    #[test]
    fn a_key_is_64_digits_in_one_line() {
        for text in [DIGITS.to_owned(), format!("{DIGITS}\n"), DIGITS.to_lowercase() + "\r\n"] {
            let key = reading(&text, 0o600).expect("a key").derive("use", "edge");
            let bytes: [u8; LENGTH] = std::array::from_fn(|index| index as u8);
            assert_eq!(tag(&key), tag(&Key::from(bytes).derive("use", "edge")));
        }
        let short = &DIGITS[2..];
        let wrong = [
            String::new(),
            short.to_owned(),
            format!("{DIGITS}00"),
            format!("{short}0"),
            format!("{short}+1"),
            format!("{short}é"),
            format!(" {DIGITS}"),
            format!("{DIGITS}\n{DIGITS}\n"),
            DIGITS.repeat(1000),
        ];
        for text in wrong {
            let error = reading(&text, 0o600).expect_err("no key");
            assert!(matches!(error, KeyError::Malformed { .. }), "{text}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("lb ha keygen")));
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o604, 0o640, 0o644, 0o660, 0o620, 0o601] {
            let error = reading(DIGITS, mode).expect_err("exposed");
            assert!(error.to_string().contains(&format!("has mode {mode:04o}")), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("chmod 600")));
        }
        for mode in [0o400, 0o600, 0o700] {
            reading(DIGITS, mode).expect("a key");
        }
        assert!(!is_exposed(0o600, 0, 1000) && !is_exposed(0o600, 1000, 1000));
        assert!(is_exposed(0o600, 1001, 1000) && is_exposed(0o600, 1000, 0));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = directory();
        // Who opens a pipe that nobody writes to waits, unless told not to.
        let (pipe, _) = io::pipe().expect("a pipe");
        let pipe = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        for path in [Path::new(&pipe), directory.path(), Path::new("/dev/zero")] {
            let error = Key::read(path).expect_err("no file");
            assert!(matches!(error, KeyError::Irregular { .. }), "{error}");
        }
        let error = Key::read(&directory.path().join("none")).expect_err("no file");
        assert!(error.to_string().contains("cannot be read: No such file"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("lb ha keygen")));
    }

    #[test]
    fn every_use_and_pair_has_its_own_key() {
        let key = Key::from([7; LENGTH]);
        let others = [("use", "edge2"), ("use2", "edge"), ("us", "eedge"), ("", "use edge")];
        for (purpose, pair) in others {
            assert_ne!(tag(&key.derive("use", "edge")), tag(&key.derive(purpose, pair)));
        }
        assert_eq!(tag(&key.derive("use", "edge")), tag(&key.clone().derive("use", "edge")));
        assert!(!format!("{key:?}").contains('7'), "{key:?}");
    }

    #[test]
    fn the_nodes_of_a_pair_place_flows_alike_and_others_do_not() {
        let seed = |secret, pair| Key::from([secret; LENGTH]).place_seed(pair);
        assert_eq!(seed(7, "edge"), seed(7, "edge"));
        assert!(![seed(7, "edge2"), seed(8, "edge")].contains(&seed(7, "edge")));
    }
}

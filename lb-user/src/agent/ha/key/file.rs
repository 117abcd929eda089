//! Keys in their file: hexadecimal digits in lines.
//!
//! | line | what |
//! |---|---|
//! | 64 digits | the newest key |
//! | 64 digits | the one before, until it is retired |
//! | `place` and 64 digits | the secret that places flows, which outlives the keys; while it is left out it follows from the oldest of them |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use ring::rand::{SecureRandom as _, SystemRandom};
use tempfile::NamedTempFile;

use super::{Fingerprint, Key, Keys, LENGTH, PLACE};

/// Keys that a file holds at most.
const MOST: usize = 2;
/// Bytes that are read of a file: a longer one holds no keys.
const MOST_BYTES: u64 = 256;
/// Permissions of anybody but the owner.
const OTHERS: u32 = 0o077;
/// The user that may read everything.
const ROOT: u32 = 0;

/// Why there is no key, or not the one that was asked for.
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
    #[error(
        "`{}` holds no key, expected 64 hexadecimal digits in a line, or two such lines, and \
         after them at most one of `place` and 64 digits",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to make a key of.
    #[error("the kernel gives no random bytes")]
    Random,
    /// There is no room for another key.
    #[error("`{}` holds two keys already", path.display())]
    Two {
        /// The file.
        path: PathBuf,
    },
    /// There would be no key left.
    #[error("`{}` holds one key only", path.display())]
    One {
        /// The file.
        path: PathBuf,
    },
    /// The nodes would not understand each other any more, and both would serve.
    #[error("the peer knows no key of `{}`", path.display())]
    Apart {
        /// The file.
        path: PathBuf,
    },
    /// The same may be so.
    #[error("the peer is away, and may know no key of `{}`", path.display())]
    Unheard {
        /// The file.
        path: PathBuf,
    },
    /// It would not understand the questions of this node any more, nor vote for it.
    #[error("the witness has not answered by the key of `{}` yet", path.display())]
    Unwitnessed {
        /// The file.
        path: PathBuf,
    },
    /// Recorded flows would be forgotten.
    #[error("`{}` places flows otherwise than the keys in use", path.display())]
    Displaced {
        /// The file.
        path: PathBuf,
    },
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
                ErrorKind::AlreadyExists => Some(format!(
                    "a key is never written over: remove it first if no node has it, or change \
                     over to another with `lb ha keygen --rotate {}`",
                    path.display()
                )),
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
            Self::Two { path } => Some(format!(
                "`lb ha keygen --retire {}` removes the older one, once `lb ha status` says on \
                 both nodes that the newest is spoken",
                path.display()
            )),
            Self::One { path } => Some(format!(
                "`lb ha keygen --rotate {}` puts a new one in front of it",
                path.display()
            )),
            Self::Unwitnessed { path } => Some(format!(
                "copy `{}` with both keys to the witness, which reads it by itself, before the \
                 older one is removed",
                path.display()
            )),
            Self::Apart { path } => Some(format!(
                "keep a key that the peer knows: `lb ha keygen --rotate {}` puts a new one in \
                 front of it",
                path.display()
            )),
            Self::Unheard { .. } => Some(
                "wait until it is there (`lb ha status`); one that never comes back needs no key: \
                 start the agent again"
                    .to_owned(),
            ),
            Self::Displaced { .. } => Some(
                "put its line `place` back, which `lb ha keygen` keeps: an agent that starts with \
                 another one forgets recorded flows"
                    .to_owned(),
            ),
        }
    }
}

fn made(path: &Path) -> String {
    let path = path.display();
    format!("make a key with `lb ha keygen {path}` on one node, and copy it to the other")
}

/// What a file holds.
struct Secrets {
    /// The newest first, 1 to [`MOST`].
    keys: Vec<[u8; LENGTH]>,
    place: Option<[u8; LENGTH]>,
}

impl Secrets {
    fn read(path: &Path) -> Result<Self, KeyError> {
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
        let mut text = String::new();
        match file.take(MOST_BYTES).read_to_string(&mut text) {
            Err(error) if error.kind() != ErrorKind::InvalidData => Err(failed(error)),
            read => read
                .ok()
                .and_then(|_| Self::parse(text.trim_ascii_end()))
                .ok_or_else(|| KeyError::Malformed { path: path.to_owned() }),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines: Vec<_> = text.lines().collect();
        let place = lines.pop_if(|line| line.starts_with(PLACE));
        let place = match place {
            Some(line) => Some(secret(line.strip_prefix(PLACE)?.strip_prefix(' ')?)?),
            None => None,
        };
        let keys: Vec<_> = lines.into_iter().map(secret).collect::<Option<_>>()?;
        (1..=MOST).contains(&keys.len()).then_some(Self { keys, place })
    }

    fn text(&self) -> String {
        let keys: String = self.keys.iter().map(|key| digits(key) + "\n").collect();
        let place = self.place.map(|place| format!("{PLACE} {}\n", digits(&place)));
        keys + &place.unwrap_or_default()
    }

    /// The secret that places flows.
    fn place(&self) -> [u8; LENGTH] {
        let oldest = self.keys[self.keys.len() - 1];
        self.place.unwrap_or_else(|| Key::from(oldest).secret(PLACE, ""))
    }

    /// Puts a file in the place of the one at `path`, as a whole or not at all.
    fn replace(&self, path: &Path) -> Result<(), KeyError> {
        let replace = || {
            // A link goes on to point to it.
            let path = fs::canonicalize(path)?;
            let directory = path.parent().unwrap_or(Path::new("/"));
            // Its mode is 0600 from the beginning.
            let mut file = NamedTempFile::new_in(directory)?;
            file.write_all(self.text().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(directory)?.sync_all()
        };
        replace().map_err(|reason| KeyError::Write { path: path.to_owned(), reason })
    }
}

impl Keys {
    /// Reads the keys from their file.
    ///
    /// # Errors
    /// It cannot be read, others than the agent and root may read it, or it
    /// holds no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let secrets = Secrets::read(path)?;
        let place = secrets.place().into();
        Ok(Self { keys: secrets.keys.into_iter().map(Key::from).collect(), place })
    }
}

/// Whether anybody but root and `user` may read or replace a file's contents.
pub(in crate::agent) fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    mode & OTHERS != 0 || ![ROOT, user].contains(&owner)
}

/// The bytes that hexadecimal digits stand for, if they are a secret's.
fn secret(digits: &str) -> Option<[u8; LENGTH]> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    pairs.iter().map(byte).collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn digits(secret: &[u8; LENGTH]) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random() -> Result<[u8; LENGTH], KeyError> {
    let mut secret = [0; LENGTH];
    SystemRandom::new().fill(&mut secret).map_err(|_| KeyError::Random)?;
    Ok(secret)
}

/// Makes a key: the line of text that its file holds.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn generate() -> Result<String, KeyError> {
    Ok(Secrets { keys: vec![random()?], place: None }.text())
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

/// Puts a new key in front of the one in a file: the new one, and the old.
///
/// # Errors
/// There are two already, or the file cannot be read or replaced: then it is as
/// it was.
pub fn rotate(path: &Path) -> Result<[Fingerprint; 2], KeyError> {
    let Secrets { keys, place } = Secrets::read(path)?;
    let [old] = keys[..] else { return Err(KeyError::Two { path: path.to_owned() }) };
    let new = random()?;
    let place = Some(Secrets { keys, place }.place());
    Secrets { keys: vec![new, old], place }.replace(path)?;
    Ok([new, old].map(|key| Key::from(key).fingerprint()))
}

/// Takes the older of two keys out of a file: the one that stays, and the old.
///
/// # Errors
/// There is one only, or the file cannot be read or replaced: then it is as it
/// was.
pub fn retire(path: &Path) -> Result<[Fingerprint; 2], KeyError> {
    let secrets = Secrets::read(path)?;
    let [new, old] = secrets.keys[..] else {
        return Err(KeyError::One { path: path.to_owned() });
    };
    Secrets { keys: vec![new], place: Some(secrets.place()) }.replace(path)?;
    Ok([new, old].map(|key| Key::from(key).fingerprint()))
}

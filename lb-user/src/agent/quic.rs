//! Keys of QUIC connection IDs, each in a file of its own: 32 hexadecimal digits.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::ha::key::file::is_exposed;
use crate::core::model::{
    Model,
    quic::{Key, Keys},
};

/// Bytes that are read of a file: a longer one holds no key.
const MOST_BYTES: u64 = 64;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel does not give it.
    #[error("`{}` cannot be read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// A directory, a device or a pipe.
    #[error("`{}` is no regular file", .0.display())]
    Irregular(PathBuf),
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
    #[error("`{}` holds no key, expected 32 hexadecimal digits in a line", .0.display())]
    Malformed(PathBuf),
}

impl KeyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Read { path, .. } | Self::Irregular(path) | Self::Malformed(path) => format!(
                "`(umask 077; openssl rand -hex 16 > {})` makes a key, which servers need as well",
                path.display()
            ),
            Self::Exposed { path, .. } => {
                let path = path.display();
                format!("`chown root {path}` and `chmod 600 {path}`")
            }
        }
    }
}

/// The keys that `model` names. What cannot be read any more is as it was, of `known`.
///
/// # Errors
/// A key that is not known cannot be read.
pub fn read(model: &Model, known: &Keys) -> Result<Keys, KeyError> {
    let configs = model.services.iter().flat_map(|service| &service.quic);
    let mut keys = Keys::new();
    for path in configs.filter_map(|config| config.key_file.as_ref()) {
        let key = match (key(path), known.get(path)) {
            (Ok(key), _) => key,
            (Err(error), Some(&known)) => {
                tracing::warn!(%error, "the key of before is used on");
                known
            }
            (Err(error), None) => return Err(error),
        };
        keys.insert(path.clone(), key);
    }
    Ok(keys)
}

fn key(path: &Path) -> Result<Key, KeyError> {
    let failed = |reason| KeyError::Read { path: path.to_owned(), reason };
    // A pipe is not waited for: it is refused.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyError::Irregular(path.to_owned()));
    }
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if is_exposed(mode, owner, geteuid().as_raw()) {
        return Err(KeyError::Exposed { path: path.to_owned(), mode, owner });
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    digits(&bytes).ok_or_else(|| KeyError::Malformed(path.to_owned()))
}

fn digits(text: &[u8]) -> Option<Key> {
    let text = str::from_utf8(text).ok()?.trim();
    let whole = text.len() == 2 * size_of::<Key>() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| whole)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use lb_common::aes;
    use ring::{
        aead::quic::{AES_128, HeaderProtectionKey},
        rand::{SecureRandom as _, SystemRandom},
    };
    use tempfile::tempdir;

    use super::*;
    use crate::core::model::{Mode, Protocol, quic::QuicConfig, sample};

    const DIGITS: &str = "8f95f09245765f80256934e50c66207f";

    fn model(path: &Path) -> Model {
        let mut service = sample::service("192.0.2.1", (443, 443), Protocol::Udp, Mode::Nat);
        let key_file = Some(path.to_owned());
        service.quic.push(QuicConfig { id: 0, server_id_length: 3, nonce_length: 4, key_file });
        sample::model(vec![service])
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_the_digits_of_its_file_and_is_kept_while_that_cannot_be_read() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("quic.key");
        write(&path, &format!("{DIGITS}\n"), 0o600);
        let keys = read(&model(&path), &Keys::new()).unwrap();
        assert_eq!(keys[&path][..3], [0x8f, 0x95, 0xf0]);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&model(&path), &keys).unwrap(), keys);
        let error = read(&model(&path), &Keys::new()).unwrap_err();
        assert!(error.hint().contains("openssl rand -hex 16"), "{error}");
    }

    #[test]
    fn other_files_are_refused_and_none_is_repeated() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("quic.key");
        for (text, mode, expected) in [
            (DIGITS, 0o640, "has mode 0640"),
            (DIGITS, 0o604, "has mode 0604"),
            (&DIGITS[1..], 0o600, "holds no key"),
            (&DIGITS.replace('8', "g"), 0o600, "holds no key"),
            (&DIGITS.repeat(2), 0o600, "holds no key"),
            ("", 0o600, "holds no key"),
        ] {
            write(&path, text, mode);
            let error = read(&model(&path), &Keys::new()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("f0924"), "{error}");
        }
        let error = read(&model(directory.path()), &Keys::new()).unwrap_err().to_string();
        assert!(error.contains("is no regular file"), "{error}");
    }

    /// The masks of header protection are the front of a block (RFC 9001, section 5.4.3).
    #[test]
    fn the_cipher_is_that_of_another_library() {
        for _ in 0..1000 {
            let (mut key, mut sample) = ([0; 16], [0; 16]);
            SystemRandom::new().fill(&mut key).unwrap();
            SystemRandom::new().fill(&mut sample).unwrap();
            let mask = HeaderProtectionKey::new(&AES_128, &key).unwrap().new_mask(&sample).unwrap();
            let number = u128::from_be_bytes(sample);
            let [high, _] = aes::encrypt(&aes::expand(key), [(number >> 64) as u64, number as u64]);
            assert_eq!(high.to_be_bytes()[..5], mask);
        }
    }
}

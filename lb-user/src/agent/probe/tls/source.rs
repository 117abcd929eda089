//! Where certificates of authorities come from.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustls_native_certs::{CertificateResult, ErrorKind, load_native_certs};
use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{Found, config};
use crate::{agent::probe::reason::phrase, core::model::health::Tls};

/// Longest `ca_file`, in bytes; four times what systems trust.
const LONGEST: u64 = 1 << 20;

/// Age at which the system's certificates are read again: they are in many
/// files and directories, so that there is no telling whether they are changed.
const AGE: Duration = Duration::from_secs(60);

/// Where to look, and what was read there last that is of use.
pub(super) enum Source {
    File { path: PathBuf, read: Option<Stamp> },
    System { read: Option<Instant> },
}

impl Source {
    /// For these settings; `None`: no certificates are needed.
    pub(super) fn of(settings: &Tls) -> Option<Self> {
        settings.verify.then(|| match settings.ca_file.clone() {
            Some(path) => Self::File { path, read: None },
            None => Self::System { read: None },
        })
    }

    /// Reads what is new. May take as long as a disk does.
    pub(super) fn look(&mut self) -> Found {
        match self {
            Self::File { path, read } => {
                let name = |what| {
                    let path = path.display();
                    format!(
                        "`ca_file` `{path}`: {what}, expected a regular file of certificates \
                         (PEM), 1 MiB at most"
                    )
                };
                if read.is_some() && *read == stamp(path).map_err(name)? {
                    return Ok(None);
                }
                let (stamp, text) = text(path).map_err(name)?;
                let config = config::verified(roots(&text).map_err(name)?)?;
                *read = Some(stamp);
                Ok(Some(config))
            }
            Self::System { read } => {
                let now = Instant::now();
                if read.is_some_and(|read| now - read < AGE) {
                    return Ok(None);
                }
                let config = config::verified(of_the_system(load_native_certs())?)?;
                *read = Some(now);
                Ok(Some(config))
            }
        }
    }
}

/// Tells a file from what it was, and from one that replaced it.
#[derive(PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a regular file: others, to open or to read, may take for ever.
    fn of(metadata: &Metadata) -> Result<Self, String> {
        if !metadata.is_file() {
            return Err("no regular file".into());
        }
        Ok(Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn stamp(path: &Path) -> Result<Option<Stamp>, String> {
    Stamp::of(&fs::metadata(path).map_err(|error| phrase(&error))?).map(Some)
}

fn text(path: &Path) -> Result<(Stamp, Vec<u8>), String> {
    stamp(path)?;
    let say = |error: io::Error| phrase(&error);
    // It may be another file by now.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(say)?;
    // Before reading: what is written meanwhile is then found new.
    let stamp = Stamp::of(&file.metadata().map_err(say)?)?;
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(say)?;
    if text.len() as u64 > LONGEST { Err("longer".into()) } else { Ok((stamp, text)) }
}

fn roots(text: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| phrase(&error))?;
        roots.add(certificate).map_err(|error| phrase(&error))?;
    }
    if roots.is_empty() { Err("no certificate in it".into()) } else { Ok(roots) }
}

/// What the system trusts. Systems carry odd certificates, and files for others:
/// what is left is as good without them. Not so where a file could not be read
/// for the moment: it may have the very authority that is needed.
fn of_the_system(found: CertificateResult) -> Result<RootCertStore, String> {
    let unread = found.errors.iter().filter_map(|error| match &error.kind {
        ErrorKind::Io { inner, path } => Some((inner, path)),
        _ => None,
    });
    let say = |(error, path): (&io::Error, &PathBuf)| {
        format!("the system's certificates: `{}`: {}", path.display(), phrase(error))
    };
    let lasting = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    if let Some(passing) = unread.clone().find(|(error, _)| !lasting.contains(&error.kind())) {
        return Err(say(passing));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let why = unread.map(say).next();
    let why = why.unwrap_or_else(|| "this system trusts no certificates".into());
    Err(format!("{why}, expected `health.ca_file`"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use rcgen::{CertificateParams, KeyPair};
    use rustls_native_certs::Error;
    use tempfile::tempdir;

    use super::*;

    fn certificate() -> rcgen::Certificate {
        certificate_for("web.test")
    }

    fn certificate_for(name: &str) -> rcgen::Certificate {
        let params = CertificateParams::new(vec![name.into()]).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn following(path: PathBuf) -> Source {
        Source::of(&Tls { verify: true, ca_file: Some(path) }).unwrap()
    }

    /// Whether a look finds something new.
    fn news(source: &mut Source) -> bool {
        source.look().unwrap().is_some()
    }

    /// What is wrong with a `ca_file`.
    fn wrong(path: &Path) -> String {
        let error = following(path.into()).look().unwrap_err();
        let what = error.strip_prefix(&format!("`ca_file` `{}`: ", path.display())).unwrap();
        let expected = ", expected a regular file of certificates (PEM), 1 MiB at most";
        what.strip_suffix(expected).unwrap().to_owned()
    }

    #[test]
    fn a_file_is_read_again_only_when_it_is_changed_or_could_not_be_used() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let mut source = following(path.clone());
        assert!(source.look().is_err());
        fs::write(&path, certificate().pem()).unwrap();
        assert_eq!([(); 2].map(|()| news(&mut source)), [true, false]);
        fs::write(&path, "").unwrap();
        assert_eq!([(); 2].map(|()| source.look().is_err()), [true; 2]);
        // Of another length: it may be the same moment to the filesystem.
        fs::write(&path, certificate_for(&"a".repeat(50)).pem()).unwrap();
        assert_eq!([(); 2].map(|()| news(&mut source)), [true, false]);
        let other = directory.path().join("other.pem");
        fs::write(&other, certificate().pem()).unwrap();
        fs::rename(other, &path).unwrap();
        assert_eq!([(); 2].map(|()| news(&mut source)), [true, false]);
    }

    #[test]
    fn what_cannot_be_certificates_is_refused_without_waiting_for_it() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        assert_eq!(wrong(&path), "no such file or directory");
        mkfifo(&path, Mode::S_IRUSR).unwrap();
        assert_eq!(wrong(&path), "no regular file");
        assert_eq!(wrong(directory.path()), "no regular file");
        assert_eq!(wrong(Path::new("/dev/zero")), "no regular file");
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(LONGEST + 1).unwrap();
        assert_eq!(wrong(&path), "longer");
        File::create(&path).unwrap().set_len(LONGEST).unwrap();
        assert_eq!(wrong(&path), "no certificate in it");
    }

    #[test]
    fn a_store_that_could_not_be_read_whole_is_not_taken_for_the_whole() {
        let found = |errors: &[i32], certificates: usize| {
            let mut found = CertificateResult::default();
            found.certs.extend((0..certificates).map(|_| certificate().der().clone()));
            found.errors.extend(errors.iter().map(|&error| Error {
                context: "failed to open file",
                kind: ErrorKind::Io {
                    inner: io::Error::from_raw_os_error(error),
                    path: "/certs".into(),
                },
            }));
            of_the_system(found).map(|roots| roots.len())
        };
        let refused = |what: &str| Err(what.to_owned());
        assert_eq!(found(&[], 2), Ok(2));
        assert_eq!(found(&[libc::EACCES, libc::ENOENT], 2), Ok(2));
        assert_eq!(
            found(&[libc::EACCES, libc::EMFILE], 2),
            refused("the system's certificates: `/certs`: too many open files")
        );
        assert_eq!(
            found(&[], 0),
            refused("this system trusts no certificates, expected `health.ca_file`")
        );
        assert_eq!(
            found(&[libc::EACCES], 0),
            refused(
                "the system's certificates: `/certs`: permission denied, expected `health.ca_file`"
            )
        );
    }
}

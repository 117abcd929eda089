//! Files of this host that a configuration names. That one is not there is no
//! mistake: the configuration may be for another host.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::core::model::{
    Model,
    health::{Http, Probe, Tls},
};

/// A file without which backends cannot be probed or found, or nodes be a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// What names it.
    key: String,
    path: PathBuf,
    kind: Kind,
    /// What this host cannot do without it.
    purpose: &'static str,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It is read.
    Plain,
    /// It is read, and nobody else may.
    Secret,
    /// It is run.
    Program,
}

/// The files that this model needs.
#[must_use]
pub fn files(model: &Model) -> Vec<LocalFile> {
    let files = model.services.iter().filter_map(|service| {
        let (key, path, kind) = match &service.health.probe {
            Probe::Exec(command) => ("health.command", Path::new(command.first()?), Kind::Program),
            Probe::Http(Http { tls: Some(Tls { verify: true, ca_file: Some(path) }), .. }) => {
                ("health.ca_file", path.as_path(), Kind::Plain)
            }
            _ => return None,
        };
        let key = format!("service `{}`: `{key}`", service.name);
        Some(LocalFile { key, path: path.into(), kind, purpose: "probe these backends" })
    });
    let quic = model.services.iter().flat_map(|service| {
        let keyed = service.quic.iter().filter_map(|quic| quic.key_file.as_ref());
        keyed.map(|path| LocalFile {
            key: format!("service `{}`: `quic.key_file`", service.name),
            path: path.clone(),
            kind: Kind::Secret,
            purpose: "read its connection IDs",
        })
    });
    let of_pair = model.ha.iter().map(|ha| LocalFile {
        key: "`ha.key_file`".to_owned(),
        path: ha.key_file.clone(),
        kind: Kind::Secret,
        purpose: "be a node of the pair",
    });
    let fence = model.ha.iter().filter_map(|ha| {
        Some(LocalFile {
            key: "`ha.fence.command`".to_owned(),
            path: ha.fence.as_ref()?.command.first()?.into(),
            kind: Kind::Program,
            purpose: "take over from a silent peer",
        })
    });
    files.chain(quic).chain(of_pair).chain(fence).collect()
}

impl LocalFile {
    /// Says why it cannot be used on this host, if it is plain to see. Looks at
    /// it without opening it, which may take as long as its filesystem does.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        let Self { key, path, kind, purpose } = self;
        let lack = match fs::metadata(path) {
            Ok(found) if !found.is_file() => "is no regular file",
            Ok(found) if *kind == Kind::Program && found.mode() & 0o111 == 0 => {
                "may not be executed"
            }
            Ok(found) if *kind == Kind::Secret && found.mode() & 0o077 != 0 => {
                let (path, mode) = (path.display(), found.mode() & 0o7777);
                return Some(format!(
                    "{key}: `{path}` has mode {mode:04o} on this host, which cannot {purpose} \
                     unless that is 0600"
                ));
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                "does not exist"
            }
            // Others may see what this user may not.
            _ => return None,
        };
        let path = path.display();
        Some(format!("{key}: `{path}` {lack} on this host, which cannot {purpose} without it"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::tempdir;

    use super::*;
    use crate::config::{Surroundings, parse};

    fn lacks_of(text: &str) -> Vec<String> {
        let surroundings = Surroundings { host_name: "host", interfaces: &["eth0".to_owned()] };
        let model = parse(text, surroundings).expect("no mistake");
        files(&model).iter().filter_map(LocalFile::lack).collect()
    }

    fn lacks(health: &str) -> Vec<String> {
        lacks_of(&format!(
            "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n\
             [service.health]\n{health}"
        ))
    }

    #[test]
    fn a_key_that_this_host_lacks_is_told() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("pair.key");
        let name = path.display();
        let pair = format!(
            "[node]\nhash_seed = \"{}\"\n[ha]\npair = \"edge\"\nlisten = [\"10.0.0.2:4790\"]\n\
             peer = [\"10.0.0.3:4790\"]\nkey_file = \"{name}\"\nconfig = \"independent\"\n\
             [[ha.group]]\nname = \"blue\"\n\
             addresses = [{{ address = \"203.0.113.10/32\", interface = \"eth0\" }}]\n",
            "0".repeat(32)
        );
        assert_eq!(
            lacks_of(&pair),
            [format!(
                "`ha.key_file`: `{name}` does not exist on this host, which cannot be a node of the \
                 pair without it"
            )]
        );
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            lacks_of(&pair),
            [format!(
                "`ha.key_file`: `{name}` has mode 0640 on this host, which cannot be a node of the \
                 pair unless that is 0600"
            )]
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lacks_of(&pair), [""; 0]);
    }

    #[test]
    fn files_that_this_host_lacks_are_told() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("file");
        let name = path.display();
        let told = |key: &str, lack: &str| {
            vec![format!(
                "service `web`: `health.{key}`: `{name}` {lack} on this host, which cannot probe \
                 these backends without it"
            )]
        };
        let https = format!("kind = \"https\"\nca_file = \"{name}\"");
        let exec = format!("kind = \"exec\"\ncommand = [\"{name}\", \"-v\"]");
        assert_eq!(lacks(&https), told("ca_file", "does not exist"));
        assert_eq!(lacks(&exec), told("command", "does not exist"));
        assert_eq!(lacks(&format!("{https}\nverify = false")), [""; 0]);
        fs::create_dir(&path).unwrap();
        assert_eq!(lacks(&https), told("ca_file", "is no regular file"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(lacks(&https), [""; 0]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(lacks(&exec), told("command", "may not be executed"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(lacks(&exec), [""; 0]);
    }
}

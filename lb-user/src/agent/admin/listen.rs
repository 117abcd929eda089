//! The socket: who may connect.
//!
//! The file's mode (0660) lets its owner and group in; beside that the kernel
//! says who is at the other end, so that a socket whose mode someone widened
//! still admits root, the file's owner and its group only.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use nix::unistd::Group;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::Peer;
use crate::{core::model::Admin, sys::peer};

/// Mode of the socket.
const MODE: u32 = 0o660;

/// How long to wait when the process has no descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// How long someone who is turned away may take to ask.
const HEARING: Duration = Duration::from_secs(1);

/// How many are told at a time that they are turned away; others find out.
const HEARINGS: usize = 8;

/// The admin socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another agent listens on `{0}`")]
    Taken(PathBuf),
    /// There is something else.
    #[error("`{0}` exists and is no socket")]
    NoSocket(PathBuf),
    /// `admin.group` is nobody's name.
    #[error("`admin.group`: there is no group `{0}`, expected one of this system's")]
    NoGroup(String),
    /// `admin.group` cannot be looked up.
    #[error("cannot look up group `{name}`")]
    Group {
        /// The group.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("cannot listen on `{path}`")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoGroup(name) => {
                Some(format!("`groupadd --system {name}` makes it, `getent group` shows all"))
            }
            Self::NoSocket(_) => Some("name another `admin.socket`".to_owned()),
            Self::Taken(_) | Self::Group { .. } | Self::Refused { .. } => None,
        }
    }
}

/// Accepts those who may.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    hearings: Arc<Semaphore>,
}

impl Listener {
    /// Binds the socket, in place of one that a dead agent left.
    pub(super) fn bind(Admin { socket: path, group, .. }: &Admin) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Refused { path: path.clone(), source };
        let group = group.as_deref().map(number_of).transpose()?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(refused)?;
        }
        expect_unused(path)?;
        // Bound under another name first: nobody connects before group and
        // mode are set. It may be that of a dead agent with our number.
        let new = path.with_file_name(format!(".{}.new", process::id()));
        if expect_unused(&new)? {
            fs::remove_file(&new).map_err(refused)?;
        }
        let socket = UnixListener::bind(&new).map_err(refused)?;
        let shown = chown(&new, None, group)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(MODE)))
            .and_then(|()| fs::rename(&new, path));
        if shown.is_err() {
            // What went wrong is told; what is left is a dead agent's socket.
            let _ = fs::remove_file(&new);
        }
        shown.map_err(refused)?;
        Ok(Self { socket, path: path.clone(), hearings: Arc::new(Semaphore::new(HEARINGS)) })
    }

    /// The next connection of somebody who may.
    pub(super) async fn accept(&self) -> (UnixStream, Peer) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => match self.admitted(&stream) {
                    Ok(Some(peer)) => return (stream, peer),
                    _ => self.turn_away(stream),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the admin socket");
                    sleep(BREATH).await;
                }
            }
        }
    }

    /// The file is asked each time: who owns it can change while we listen.
    fn admitted(&self, stream: &UnixStream) -> io::Result<Option<Peer>> {
        let who = stream.peer_cred()?;
        let peer = Peer { uid: who.uid() };
        if peer.uid == 0 {
            return Ok(Some(peer));
        }
        let file = fs::symlink_metadata(&self.path)?;
        let may = peer.uid == file.uid()
            || who.gid() == file.gid()
            || peer::groups(stream)?.contains(&file.gid());
        Ok(may.then_some(peer))
    }

    fn turn_away(&self, stream: UnixStream) {
        if let Ok(turn) = Arc::clone(&self.hearings).try_acquire_owned() {
            tokio::spawn(async move {
                tell_off(stream).await;
                drop(turn);
            });
        }
    }
}

/// The number of a group of this system.
fn number_of(name: &str) -> Result<u32, ListenError> {
    let found = Group::from_name(name)
        .map_err(|error| ListenError::Group { name: name.to_owned(), source: error.into() })?;
    let group = found.ok_or_else(|| ListenError::NoGroup(name.to_owned()))?;
    Ok(group.gid.as_raw())
}

/// Makes sure that there is nothing, or a socket on which nobody listens; says
/// whether there is one.
fn expect_unused(path: &Path) -> Result<bool, ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        _ => {}
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::Taken(path.to_owned()));
    }
    Ok(true)
}

/// Says why, once something was asked: a client takes an answer to nothing for
/// another protocol's.
async fn tell_off(mut stream: UnixStream) {
    const BODY: &str = r#"{"error":"this user may not use the admin socket","hint":"run it as root, or as a member of the socket's group"}"#;
    tracing::warn!("turned a user away from the admin socket");
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let exchange = async {
        // How much of the request that is makes no difference.
        let _some = stream.read(&mut [0; 4096]).await?;
        stream.write_all(answer.as_bytes()).await
    };
    // Who asked may have gone, and who asks nothing is not waited for.
    let _ = timeout(HEARING, exchange).await;
}

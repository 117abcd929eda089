//! The socket: who may connect.
//!
//! The file's mode (0660) lets its owner and group in; beside that the kernel
//! says who is at the other end, so that a socket whose mode someone widened
//! still admits root, the agent's own user and its group only.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream, unix::UCred},
    time::{sleep, timeout},
};

/// Mode of the socket.
const MODE: u32 = 0o660;

/// How long to wait when the process has no descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// How long someone who is turned away may take to ask.
const HEARING: Duration = Duration::from_secs(1);

/// The admin socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another agent listens on `{0}`")]
    Taken(PathBuf),
    /// There is something else.
    #[error("`{0}` exists and is no socket")]
    NoSocket(PathBuf),
    /// The kernel refuses.
    #[error("cannot listen on `{path}`")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Accepts those who may.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    /// User and group of the socket's file.
    owner: (u32, u32),
}

impl Listener {
    /// Binds the socket, in place of one that a dead agent left.
    pub(super) fn bind(path: &Path) -> Result<Self, ListenError> {
        let refused = |source| ListenError::Refused { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(refused)?;
        }
        clear(path)?;
        // Bound under another name first: nobody connects before the mode is set.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let socket = UnixListener::bind(&new).map_err(refused)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(MODE)).map_err(refused)?;
        let metadata = fs::metadata(&new).map_err(refused)?;
        fs::rename(&new, path).map_err(refused)?;
        Ok(Self { socket, owner: (metadata.uid(), metadata.gid()) })
    }

    fn admits(&self, peer: &UCred) -> bool {
        peer.uid() == 0 || peer.uid() == self.owner.0 || peer.gid() == self.owner.1
    }
}

/// Removes a socket on which nobody listens.
fn clear(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        _ => {}
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::Taken(path.to_owned()));
    }
    Ok(())
}

impl axum::serve::Listener for Listener {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if self.admits(&peer) => return (stream, ()),
                    _ => drop(tokio::spawn(turn_away(stream))),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the admin socket");
                    sleep(BREATH).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Says why, once something was asked: a client takes an answer to nothing for
/// another protocol's.
async fn turn_away(mut stream: UnixStream) {
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

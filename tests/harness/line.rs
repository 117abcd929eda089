//! A server that says of itself how it is.

use std::{
    io::Write as _,
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use super::{Error, Netns, Result};

/// Says one line to whoever connects, as the server of an `agent` probe does.
#[derive(Debug)]
pub struct LineServer {
    line: Arc<Mutex<String>>,
    /// The listening socket, under the type that can be shut down.
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl LineServer {
    /// Listens inside `netns`, and says `line`.
    ///
    /// # Errors
    /// The address is not there or its port is taken.
    pub fn start(netns: &Netns, address: IpAddr, port: u16, line: &str) -> Result<Self> {
        let failed = || Error::io(format!("listen for TCP on `{address}` port {port}"));
        let listener = netns.within(|| TcpListener::bind((address, port)))?.map_err(failed())?;
        let socket = OwnedFd::from(listener.try_clone().map_err(failed())?).into();
        let line = Arc::new(Mutex::new(line.to_owned()));
        let said = Arc::clone(&line);
        let thread = thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let line = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Who asked may have gone.
                let _ = stream.write_all(format!("{line}\n").as_bytes());
            }
        });
        Ok(Self { line, socket, thread: Some(thread) })
    }

    /// Says something else from now on.
    pub fn say(&self, line: &str) {
        line.clone_into(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for LineServer {
    fn drop(&mut self) {
        // Ends the wait for a connection.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
    }
}

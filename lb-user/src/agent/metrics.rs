//! Metrics over HTTP: `/metrics` and `/healthz` at `admin.http`. On a thread of its
//! own, so that it can say that the agent does not answer. Nothing that is asked
//! here changes anything, and nobody is asked who they are.

mod families;
mod serve;
mod tally;
#[cfg(test)]
mod tests;
mod text;

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

pub use self::tally::{Probes, Tally};
use super::{controller::Member, ha, thread::Thread};
use crate::api;

/// Questions that wait for the controller.
const WAITING: usize = 4;

/// Metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel refuses.
    #[error("cannot listen at `{address}` for who reads metrics")]
    Refused {
        /// `admin.http`.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start the thread that serves metrics")]
    Thread(#[source] io::Error),
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { .. } => Some(
                "`admin.http` must be an address of this host and a port that is free".to_owned(),
            ),
            Self::Thread(_) => None,
        }
    }
}

/// What the controller is asked.
#[derive(Debug)]
pub enum Ask {
    /// All that is counted; an error in words.
    Figures(oneshot::Sender<Result<Figures, String>>),
    /// Whether this node does its work.
    Health(oneshot::Sender<Health>),
}

/// Whether this node does its work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Interfaces of the configuration that the data plane is not attached to.
    pub away: Vec<String>,
    /// What it is to its pair, if it is one of a pair.
    pub role: Option<String>,
}

/// All that is counted and known, at one moment.
#[derive(Debug)]
pub struct Figures {
    /// `lb status`.
    pub status: api::Status,
    /// The services.
    pub services: Vec<Service>,
    /// Their backends.
    pub members: Vec<Member>,
    /// `lb stats`.
    pub stats: api::Stats,
    /// What the controller counts.
    pub tally: Tally,
    /// By which the pair is asked for its own.
    pub pair: Option<ha::Asking>,
}

/// What tells a service apart, and its probes.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its address.
    pub vip: IpAddr,
    /// Probes of its backends, if there were any.
    pub probes: Option<Probes>,
}

/// Serves metrics until it is dropped.
#[derive(Debug)]
pub struct Server {
    _thread: Thread,
}

/// Listens at `address`, if there is one. Without a server nobody asks.
///
/// # Errors
/// See [`ListenError`].
pub async fn serve(
    address: Option<SocketAddr>,
) -> Result<(mpsc::Receiver<Ask>, Option<Server>), ListenError> {
    let (asks, asked) = mpsc::channel(WAITING);
    let Some(address) = address else { return Ok((asked, None)) };
    let thread = Thread::start("metrics").map_err(ListenError::Thread)?;
    // Sockets belong to the runtime that they are opened in.
    let opened = thread.handle().spawn(TcpListener::bind(address)).await;
    let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
    let listener = opened.map_err(|source| ListenError::Refused { address, source })?;
    thread.handle().spawn(serve::serve(listener, asks));
    Ok((asked, Some(Server { _thread: thread })))
}

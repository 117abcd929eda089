//! The admin socket: HTTP/1.1 with JSON, see [`crate::api`]. Requests become
//! [`Call`]s that the controller answers one after the other, so edits are
//! serialised and every answer is about one generation.

mod connections;
mod listen;
mod routes;
#[cfg(test)]
mod tests;

use axum::http::StatusCode;
use nix::unistd::geteuid;
use tokio::sync::{mpsc, oneshot};

pub use listen::ListenError;

use crate::{api, core::model::Admin};

/// Requests that wait for the controller; further ones wait in their sockets.
const WAITING: usize = 64;

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// Takes the answer; who asked may have gone.
    pub reply: oneshot::Sender<Reply>,
}

/// Who asks, as the kernel says: the user who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
}

impl Peer {
    /// The agent itself.
    #[must_use]
    pub fn own() -> Self {
        Self { uid: geteuid().as_raw() }
    }

    /// Whether this user can do all that the agent can, without asking it.
    #[must_use]
    pub fn is_equal(self) -> bool {
        self.uid == 0 || self == Self::own()
    }
}

/// The answer as JSON, or why not.
pub type Reply = Result<serde_json::Value, Refused>;

/// What can be asked of the agent.
#[derive(Clone, Debug)]
pub enum Request {
    /// `GET /v1/status`.
    Status,
    /// `GET /v1/services`.
    Services,
    /// `GET /v1/services/{name}`.
    Service(String),
    /// `GET /v1/backends`, of a service or all.
    Backends(Option<String>),
    /// `GET /v1/firewall`.
    Firewall,
    /// `GET /v1/stats`.
    Stats,
    /// `GET /v1/flows`, at most so many.
    Flows(api::FlowFilter, usize),
    /// `GET /v1/flows/count`.
    CountFlows(api::FlowFilter),
    /// `DELETE /v1/flows`.
    FlushFlows(api::FlowFilter),
    /// `POST /v1/plan`.
    Plan(api::FileText),
    /// `POST /v1/explain`.
    Explain(api::Question),
    /// `POST /v1/reload`.
    Reload(api::Reload),
    /// `POST /v1/reload/confirm`.
    Confirm,
    /// `GET /v1/ha`.
    Ha,
    /// To have both nodes of the pair tell each other all flows again.
    Resync,
    /// `GET /v1/ha/conflicts`.
    Conflicts,
    /// `DELETE /v1/ha/conflicts`.
    ClearConflicts,
    /// `POST /v1/ha/failover`.
    Failover(api::FailoverOrder),
    /// Everything that changes the configuration piece by piece.
    Edit(Change),
}

/// One edit.
#[derive(Clone, Debug)]
pub enum Change {
    /// `POST /v1/services`.
    AddService(api::Table),
    /// `PATCH /v1/services/{name}`.
    SetService(String, api::Table),
    /// `DELETE /v1/services/{name}`.
    RemoveService(String),
    /// `POST /v1/services/{name}/backends`.
    AddBackend(String, api::Table),
    /// `PATCH /v1/services/{name}/backends/{name}`.
    SetBackend(String, String, api::Table),
    /// `PUT /v1/services/{name}/backends/{name}/admin`.
    Order(String, String, api::AdminOrder),
    /// `DELETE /v1/services/{name}/backends/{name}`.
    RemoveBackend(String, String),
    /// `PUT /v1/firewall/allow`.
    Allow(api::AllowOrder),
    /// `PUT /v1/firewall/deny`.
    Deny(api::DenyOrder),
}

/// A refusal and its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub refusal: api::Refusal,
}

impl Refused {
    /// A refusal without a hint.
    #[must_use]
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let refusal = api::Refusal { error: error.into(), hint: None, mistakes: Vec::new() };
        Self { status, refusal }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.refusal.hint = Some(hint.into());
        self
    }

    /// Adds a hint, if there is one.
    #[must_use]
    pub fn hint_if(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Adds the mistakes in a configuration.
    #[must_use]
    pub fn mistakes(mut self, mistakes: Vec<String>) -> Self {
        self.refusal.mistakes = mistakes;
        self
    }
}

/// Listens on the admin socket; it is removed when the server ends.
///
/// # Errors
/// The socket cannot be made, or another agent listens there.
pub fn serve(admin: &Admin) -> Result<(mpsc::Receiver<Call>, Server), ListenError> {
    let (calls, queue) = mpsc::channel(WAITING);
    let listener = listen::Listener::bind(admin)?;
    let task = tokio::spawn(connections::serve(listener, routes::router(), calls));
    Ok((queue, Server { task, path: admin.socket.clone() }))
}

/// Ends the server when dropped.
#[derive(Debug)]
pub struct Server {
    task: tokio::task::JoinHandle<()>,
    path: std::path::PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // A socket that stays is replaced by the next agent.
        let _ = std::fs::remove_file(&self.path);
    }
}

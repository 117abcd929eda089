//! The way to the agent: HTTP/1.1 with JSON over its Unix socket, one
//! connection per request.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{Failure, Status, with_causes};
use crate::api::Refusal;

/// How long the agent may take to accept.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(60);
/// What to do about an agent that is slow.
const BUSY: &str =
    "the agent is busy or stuck: its log tells, `lb status` whether a change took effect";
/// What may stand in a path or query as it is (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is asked of the agent.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    target: String,
    body: Option<String>,
    /// What an answer of 422 means: the contents of the request are wrong.
    unprocessable: Status,
}

impl Request {
    fn new(method: Method, segments: &[&str]) -> Self {
        let encoded = segments.iter().map(|segment| format!("/{}", encoded(segment)));
        let target = format!("/v1{}", encoded.collect::<String>());
        Self { method, target, body: None, unprocessable: Status::Refused }
    }

    pub(super) fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    pub(super) fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    pub(super) fn put(segments: &[&str]) -> Self {
        Self::new(Method::PUT, segments)
    }

    pub(super) fn patch(segments: &[&str]) -> Self {
        Self::new(Method::PATCH, segments)
    }

    pub(super) fn delete(segments: &[&str]) -> Self {
        Self::new(Method::DELETE, segments)
    }

    /// With a parameter of the query, if it has a value.
    pub(super) fn query(mut self, key: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            let separator = if self.target.contains('?') { '&' } else { '?' };
            self.target += &format!("{separator}{key}={}", encoded(&value.to_string()));
        }
        self
    }

    /// With a body, in JSON.
    pub(super) fn json(self, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("plain data has a form in JSON");
        Self { body: Some(body), ..self }
    }

    /// With a configuration: wrong contents are a bad configuration.
    pub(super) fn configures(self) -> Self {
        Self { unprocessable: Status::BadConfiguration, ..self }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
}

fn encoded(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, ENCODED)
}

/// What the agent answered.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// Word for word.
    pub(super) json: String,
    /// As this version understands it.
    pub(super) value: T,
}

/// The agent behind a socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks, and waits for the answer.
    pub(super) fn send<T: DeserializeOwned>(&self, request: Request) -> Result<Answer<T>, Failure> {
        let asked = request.to_string();
        let unprocessable = request.unprocessable;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Status::Refused, error))?;
        let (status, body) = runtime
            .block_on(exchange(&self.socket, request))
            .map_err(|unreached| unreached.failure(&self.socket))?;
        let strange = || {
            let error = format!("`{asked}`: an answer ({status}) that this version does not know");
            Failure::new(Status::OUT_OF_REACH, error)
                .hint("use the `lb` of the agent's own version; is the socket the agent's?")
        };
        let json = String::from_utf8(body.into()).map_err(|_| strange())?;
        if status.is_success() {
            let value = serde_json::from_str(&json).map_err(|_| strange())?;
            return Ok(Answer { json: json.trim_end().to_owned(), value });
        }
        let refusal = serde_json::from_str(&json).map_err(|_| strange())?;
        let status = match status {
            StatusCode::UNPROCESSABLE_ENTITY => unprocessable,
            _ => Status::Refused,
        };
        Err(refused(refusal, status))
    }
}

fn refused(refusal: Refusal, status: Status) -> Failure {
    let Refusal { error, hint, mistakes } = refusal;
    let details = (!mistakes.is_empty()).then(|| mistakes.join("\n"));
    Failure { status, details, error, hint }
}

async fn exchange(socket: &Path, request: Request) -> Result<(StatusCode, Bytes), Unreached> {
    let stream = timeout(CONNECT, UnixStream::connect(socket))
        .await
        .map_err(|_| Unreached::Late(CONNECT))?
        .map_err(Unreached::Connect)?;
    timeout(ANSWER, ask(stream, request)).await.map_err(|_| Unreached::Late(ANSWER))?
}

async fn ask(stream: UnixStream, request: Request) -> Result<(StatusCode, Bytes), Unreached> {
    let Request { method, target, body, .. } = request;
    let mut builder = hyper::Request::builder().method(method).uri(target).header(HOST, "lb");
    if body.is_some() {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let request = builder.body(body).map_err(Unreached::Request)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What ends the connection is told to the sender, too.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no answer in {}", humantime::format_duration(*.0))]
    Late(Duration),
    #[error("no HTTP request: {0}")]
    Request(hyper::http::Error),
    #[error("{}", with_causes(.0))]
    Http(#[from] hyper::Error),
}

impl Unreached {
    fn failure(self, socket: &Path) -> Failure {
        let hint = match &self {
            Self::Connect(error) => match error.kind() {
                ErrorKind::PermissionDenied => {
                    "run it as root, or as a member of the group that the socket belongs to"
                }
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "is the agent running? start it with `lb agent`; \
                     if its `admin.socket` is elsewhere, say so with `--socket`"
                }
                ErrorKind::WouldBlock => BUSY,
                _ => "is that the agent's `admin.socket`?",
            },
            Self::Late(_) => BUSY,
            Self::Http(error) if error.is_parse() => {
                "another program answers there: name the agent's `admin.socket` with `--socket`"
            }
            Self::Http(_) => "did the agent stop? `lb status` tells whether a change took effect",
            Self::Request(_) => "shorten what was given",
        };
        let error = format!("cannot reach the agent at `{}`: {self}", socket.display());
        Failure::new(Status::OUT_OF_REACH, error).hint(hint)
    }
}

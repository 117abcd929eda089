//! Connections and paths. Who connects and does nothing keeps nobody out for long,
//! and however many read at once, the controller is asked by one at a time.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Ask, Figures, Health, families, text};

/// Connections at any time; further ones wait to be accepted.
pub(super) const CONNECTIONS: usize = 16;
/// How long a connection may last, with its one request and the answer to it.
pub(super) const LIFE: Duration = Duration::from_secs(15);
/// How long the controller may take to answer. It is busy for that long only with
/// the largest of changes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a request's head: no less can be asked of hyper.
pub(super) const HEAD: usize = 8 << 10;
/// How long to wait when the process has no descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// The formats.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves all connections until it is dropped; they end with it.
pub(super) async fn serve(listener: TcpListener, asks: mpsc::Sender<Ask>) {
    let router = router(Desk { asks, turn: Arc::default() });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() == CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(converse(stream, router.clone()))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept who reads metrics");
                sleep(BREATH).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFE)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // However it ends, there is nobody left to be told.
    let _ = timeout(LIFE, connection).await;
}

/// Where the controller is asked.
#[derive(Clone)]
struct Desk {
    asks: mpsc::Sender<Ask>,
    /// The turn of who asks for figures.
    turn: Arc<Mutex<()>>,
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .fallback(async || (StatusCode::NOT_FOUND, "no such path: see /metrics and /healthz\n"))
        .with_state(desk)
}

/// Why there is no answer.
enum NoAnswer {
    /// The controller does something else.
    Busy,
    /// There is no controller any more.
    Gone,
    /// It has failed.
    Failed(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => write!(f, "the agent has not answered for {PATIENCE:?}"),
            Self::Gone => f.write_str("the agent is about to end"),
            Self::Failed(error) => f.write_str(error),
        }
    }
}

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{self}\n")).into_response()
    }
}

impl Desk {
    /// Asks the controller, but not for ever.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let answered = async {
            self.asks.send(ask(reply)).await.map_err(|_| NoAnswer::Gone)?;
            answer.await.map_err(|_| NoAnswer::Gone)
        };
        timeout(PATIENCE, answered).await.unwrap_or(Err(NoAnswer::Busy))
    }

    async fn figures(&self) -> Result<Figures, NoAnswer> {
        self.ask(Ask::Figures).await?.map_err(NoAnswer::Failed)
    }
}

/// All metrics, in the format that is asked for.
async fn metrics(State(desk): State<Desk>, headers: HeaderMap) -> Result<Response, NoAnswer> {
    let _turn = desk.turn.lock().await;
    let figures = desk.figures().await?;
    let pair = match &figures.pair {
        // Where its thread has ended, the agent is about to.
        Some(pair) => pair.status().await.ok().map(|status| (status, pair.sync_queue())),
        None => None,
    };
    let open =
        families::encode(figures, pair).map_err(|error| NoAnswer::Failed(error.to_string()))?;
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wants_open = accepted.flat_map(|value| value.split(',')).any(is_open_metrics);
    let (kind, body) =
        if wants_open { (OPEN_METRICS_TYPE, open) } else { (TEXT_TYPE, text::plain(&open)) };
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

/// Whether one element of `Accept` names the format.
fn is_open_metrics(element: &str) -> bool {
    element.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(OPEN_METRICS))
}

/// Whether this node does its work: in words.
async fn health(State(desk): State<Desk>) -> Result<Response, NoAnswer> {
    let Health { away, role } = desk.ask(Ask::Health).await?;
    if !away.is_empty() {
        let away = away.join("`, `");
        return Err(NoAnswer::Failed(format!("the data plane is not attached to `{away}`")));
    }
    Ok(match role {
        Some(role) => format!("ok, {role}\n"),
        None => "ok\n".to_owned(),
    }
    .into_response())
}

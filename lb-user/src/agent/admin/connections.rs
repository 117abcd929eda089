//! Connections: how many there may be, and how long each may take, so that
//! those who connect and do nothing keep no operator out.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

use super::{
    listen::Listener,
    routes::{Caller, Queue},
};

/// Connections at any time; further ones wait to be accepted.
pub(super) const CONNECTIONS: usize = 64;

/// How long a client may take to ask, or to ask again: for the head of a
/// request. For the rest see [`super::routes`].
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last, all its requests together: longer than any
/// answer takes, so it ends only those that nobody reads.
const LIFE: Duration = Duration::from_secs(300);

/// Serves all connections until it is dropped; they end with it.
pub(super) async fn serve(listener: Listener, router: Router<Caller>, queue: Queue) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() == CONNECTIONS {
            connections.join_next().await;
        }
        let (stream, peer) = listener.accept().await;
        let caller = Caller { queue: queue.clone(), peer };
        connections.spawn(converse(stream, router.clone().with_state(caller)));
    }
}

async fn converse(stream: UnixStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // However it ends, there is nobody left to be told.
    let _ = timeout(LIFE, connection).await;
}

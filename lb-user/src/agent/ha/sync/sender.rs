//! Calls the peer, and tells it the flows of the groups that this node serves.

mod progress;
mod session;

use std::{io, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use futures_util::future::select_ok;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until, timeout},
};

pub(super) use self::session::State;
use self::{progress::Progress, session::Session};
use super::{
    Common, Outward, PATIENCE, PURPOSE,
    channel::{self, Error, Incoming, Outgoing},
    message::Message,
};
use crate::core::model::ha::Path;

/// What a path has before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(100);
/// After which a peer that does not answer is called again.
const AGAIN: Duration = Duration::from_millis(500);

/// The sender.
pub(super) struct Sender {
    pub(super) common: Common,
    pub(super) outward: watch::Sender<Outward>,
    /// Who waits until the peer has what is marked now.
    pub(super) flushes: mpsc::Receiver<oneshot::Sender<()>>,
    /// Changes when all is to be told anew.
    pub(super) resyncs: watch::Receiver<u64>,
}

impl Sender {
    /// Calls the peer again and again.
    pub(super) async fn run(mut self) {
        let (mut told, mut progress) = (None, Progress::new());
        loop {
            let trouble = match self.call().await {
                Ok((say, hear, memory)) => {
                    told = None;
                    self.outward.send_modify(|out| (out.connected, out.trouble) = (true, None));
                    let mut session = Session::new(self.common.clone(), say, progress, memory);
                    tracing::info!(resumed = session.resumes(), "flows are told to the peer");
                    let trouble = self.speak(&mut session, hear).await;
                    progress = session.into_progress();
                    // Until the peer listens again nobody knows what it lacks.
                    self.common.owes.store(u16::MAX, Ordering::Relaxed);
                    trouble
                }
                Err(error) => error,
            };
            let trouble = trouble.to_string();
            if told.as_ref() != Some(&trouble) {
                tracing::warn!(error = trouble, "flows are not told to the peer");
                told = Some(trouble.clone());
            }
            self.outward.send_modify(|out| {
                (out.connected, out.complete, out.lag) = (false, false, None);
                out.trouble = Some(trouble);
            });
            // Perhaps another path is better.
            self.common.paths.rotate_left(1);
            sleep(AGAIN).await;
        }
    }

    async fn call(&self) -> Result<(Outgoing, Incoming, u64), Error> {
        let Common { node, seed, flows, .. } = &self.common;
        let hello = Message::Hello { seed: *seed, flows: *flows, node: node.clone() };
        call(&self.common, &hello).await
    }

    /// Speaks until something goes wrong.
    async fn speak(&mut self, session: &mut Session, mut hear: Incoming) -> Error {
        self.resyncs.mark_unchanged();
        let before = self.outward.borrow().records;
        loop {
            let done = tokio::select! {
                heard = hear.hear() => heard.and_then(|message| session.hear(&message)),
                () = sleep_until(session.due().into()) => within(session.turn()).await,
                Ok(()) = self.common.serving.changed() => within(session.turn()).await,
                Ok(()) = self.common.names.changed() => within(session.turn()).await,
                Some(waits) = self.flushes.recv() => within(session.flush(waits)).await,
                Ok(()) = self.resyncs.changed() => {
                    session.begin_anew();
                    within(session.turn()).await
                }
            };
            let state = session.state();
            self.outward.send_if_modified(|out| out.take(state, before));
            if let Err(error) = done {
                return error;
            }
        }
    }
}

/// Finds the peer, and agrees with it.
/// With what the peer says of its memory, see [`Message::Welcome`].
pub(super) async fn call(
    common: &Common,
    hello: &Message,
) -> Result<(Outgoing, Incoming, u64), Error> {
    let stream = reach(&common.paths).await?;
    within(greet(common, stream, hello)).await
}

async fn greet(
    common: &Common,
    stream: TcpStream,
    hello: &Message,
) -> Result<(Outgoing, Incoming, u64), Error> {
    let key = common.voice.borrow().secret(PURPOSE);
    let (mut say, mut hear) = channel::call(stream, &key).await?;
    say.say(hello).await?;
    match hear.hear().await? {
        Message::Welcome { memory } => Ok((say, hear, memory)),
        Message::Refused { reason } => Err(Error::Refused(reason)),
        _ => Err(Error::Malformed),
    }
}

/// Waits, but not for ever.
async fn within<T>(done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, done).await.unwrap_or_else(|_| Err(Error::late()))
}

/// Calls the peer by all paths, each a moment after the one before. The first that
/// leads there is the one.
async fn reach(paths: &[Path]) -> Result<TcpStream, Error> {
    let calls = (0..).zip(paths).map(|(turn, path)| {
        Box::pin(within(async move {
            sleep(HEAD_START * turn).await;
            Ok(connect(path.listen, path.peer).await?)
        }))
    });
    let (stream, _) = select_ok(calls).await?;
    Ok(stream)
}

/// Calls the peer by a path: from the address that it expects.
async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(from.ip(), 0))?;
    socket.connect(to).await
}

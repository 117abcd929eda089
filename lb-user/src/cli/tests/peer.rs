//! A real HTTP server on a Unix socket: it answers as it was told, and keeps
//! what it was asked.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
};
use clap::Parser as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::oneshot};

use crate::cli::{
    Cli, Status,
    console::{Console, Looks},
};

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: u8,
    pub(super) out: String,
    pub(super) err: String,
}

/// The command line against a socket, to no terminal.
pub(super) fn lb(socket: &Path, words: &[&str]) -> Outcome {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let socket = socket.to_str().unwrap();
    let words = ["lb", "--socket", socket].into_iter().chain(words.iter().copied());
    let status = match Cli::try_parse_from(words) {
        Ok(cli) => {
            let looks = Looks { json: cli.global.json, ..Looks::default() };
            cli.run(Console::new(&mut out, &mut err, looks))
        }
        Err(usage) => {
            err.extend(usage.to_string().into_bytes());
            Status::Usage as u8
        }
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { status, out: text(out), err: text(err) }
}

#[derive(Default)]
struct Script {
    /// Method and target, and the body.
    asked: Vec<(String, Value)>,
    /// The last is given again and again.
    answers: VecDeque<(u16, String)>,
}

/// The server; it ends with this.
pub(super) struct Peer {
    script: Arc<Mutex<Script>>,
    socket: PathBuf,
    _alive: oneshot::Sender<()>,
    _directory: TempDir,
}

impl Peer {
    /// Gives each answer once, the last for ever.
    pub(super) fn new(answers: &[(u16, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("lb.sock");
        let answers = answers.iter().map(|(status, json)| (*status, (*json).to_owned()));
        let script = Script { asked: Vec::new(), answers: answers.collect() };
        let script = Arc::new(Mutex::new(script));
        let router = Router::new().fallback(answer).with_state(script.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { UnixListener::bind(&socket).unwrap() });
        let (alive, ended) = oneshot::channel();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = axum::serve(listener, router) => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        Self { script, socket, _alive: alive, _directory: directory }
    }

    pub(super) fn lb(&self, words: &[&str]) -> Outcome {
        lb(&self.socket, words)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it was asked since it was asked that.
    pub(super) fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> (StatusCode, String) {
    let mut script = script.lock().unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    script.asked.push((format!("{method} {uri}"), body));
    let answer = match script.answers.len() {
        1 => script.answers.front().cloned(),
        _ => script.answers.pop_front(),
    };
    let (status, json) = answer.unwrap();
    (StatusCode::from_u16(status).unwrap(), json)
}

//! Many long-lived TCP connections, each of which knows its backend.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::net::TcpSocket;

use super::{Error, Netns, Result};

/// How long a connection or an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections asked at once; each server works on one at a time anyway.
const BATCH: usize = 64;

/// Open connections to an [`super::Nginx`] behind a VIP.
#[derive(Debug)]
pub struct Flows {
    flows: Vec<Flow>,
}

#[derive(Debug)]
struct Flow {
    stream: TcpStream,
    backend: String,
}

/// What became of [`Flows`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Answered by the backend they were opened to, each what it asked.
    pub kept: usize,
    /// Answered by another one.
    pub moved: usize,
    /// Closed, reset, or without an answer.
    pub broken: usize,
}

impl Flows {
    /// Opens `count` connections from inside `netns`, in turn from each of
    /// `sources`, and learns the backend of each.
    ///
    /// # Errors
    /// One cannot be opened or is not answered.
    pub fn open(netns: &Netns, sources: &[IpAddr], to: SocketAddr, count: usize) -> Result<Self> {
        let sources = sources.iter().cycle().take(count);
        let streams = netns
            .within(|| sources.map(|&source| connect(source, to)).collect::<io::Result<Vec<_>>>())?
            .map_err(Error::io(format!("open connections to `{to}`")))?;
        let mut flows: Vec<_> =
            streams.into_iter().map(|stream| Flow { stream, backend: String::new() }).collect();
        for batch in flows.chunks_mut(BATCH) {
            for (flow, answer) in ask(batch) {
                let failed = Error::io(format!("ask `{to}` who it is"));
                flow.backend = answer.map_err(failed)?;
            }
        }
        Ok(Self { flows })
    }

    /// How many there are at each backend.
    #[must_use]
    pub fn by_backend(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for flow in &self.flows {
            *counts.entry(flow.backend.clone()).or_default() += 1;
        }
        counts
    }

    /// Asks every connection again, other than those to `except`.
    pub fn survey(&mut self, except: Option<&str>) -> Survey {
        let mut survey = Survey::default();
        let mut asked: Vec<_> =
            self.flows.iter_mut().filter(|flow| Some(flow.backend.as_str()) != except).collect();
        for batch in asked.chunks_mut(BATCH) {
            for (flow, answer) in ask(batch.iter_mut().map(|flow| &mut **flow)) {
                match answer {
                    Ok(backend) if backend == flow.backend => survey.kept += 1,
                    Ok(_) => survey.moved += 1,
                    Err(_) => survey.broken += 1,
                }
            }
        }
        survey
    }
}

/// Questions asked so far: each has its number, which the answer repeats.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Asks several connections at once and collects the answers.
fn ask<'a>(
    flows: impl IntoIterator<Item = &'a mut Flow>,
) -> Vec<(&'a mut Flow, io::Result<String>)> {
    let asked: Vec<_> = flows
        .into_iter()
        .map(|flow| {
            let number = ASKED.fetch_add(1, Ordering::Relaxed);
            let question = format!("GET /?number={number} HTTP/1.1\r\nHost: lab\r\n\r\n");
            let sent = flow.stream.write_all(question.as_bytes());
            (flow, sent.map(|()| number))
        })
        .collect();
    let answer = |(flow, sent): (&'a mut Flow, io::Result<u64>)| {
        let answer = sent.and_then(|number| read_answer(&mut flow.stream, number));
        (flow, answer)
    };
    asked.into_iter().map(answer).collect()
}

/// Reads one answer: a head, then a body that ends with the only line feed
/// that has no carriage return before it. It must be that to question `number`.
fn read_answer(stream: &mut TcpStream, number: u64) -> io::Result<String> {
    let mut answer = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&buffer[..length]),
        }
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Some(name) = body.strip_suffix('\n')
        {
            let is_ours = head.lines().any(|line| line == format!("Asked: {number}"));
            return if is_ours { Ok(name.to_owned()) } else { Err(ErrorKind::InvalidData.into()) };
        }
    }
}

/// Connects from `source`; the standard library has no way to name it.
fn connect(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connected: io::Result<_> = runtime.block_on(async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((source, 0).into())?;
        tokio::time::timeout(PATIENCE, socket.connect(to)).await?
    });
    let stream = connected?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

//! The witness of a pair: answers the questions of its nodes, see
//! [`crate::core::ha::Witness`]. It has no file but the key's, so where it runs does
//! not matter as long as only one does, on a host of its own.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Error,
    ballot::{Ballots, MOST_BYTES},
    boot,
    frame::FrameError,
    key::Keys,
};
use crate::core::ha::{Question, Witness};

/// After which the key is looked for again where it is not known.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a kind of trouble is told.
const TELLING: Duration = Duration::from_secs(10);

/// What it goes by.
#[derive(Debug)]
pub struct Options {
    /// Where it is asked, UDP.
    pub listen: SocketAddr,
    /// Name of the pair.
    pub pair: String,
    /// Where the pair's key is.
    pub key_file: PathBuf,
}

/// The keys of a file that may change.
struct Rereading {
    ballots: Ballots,
    /// When it was read last since the start.
    last: Option<Instant>,
}

impl Rereading {
    /// As [`Ballots::read_question`]. By a key that is not known the nodes may have
    /// begun to ask: the file is read again, at times.
    fn read_question(
        &mut self,
        datagram: &[u8],
        Options { pair, key_file, .. }: &Options,
    ) -> Result<(Question, usize), FrameError> {
        let read = self.ballots.read_question(datagram);
        let lately = self.last.is_some_and(|last| last.elapsed() < AGAIN);
        if !matches!(read, Err(FrameError::Key)) || lately {
            return read;
        }
        self.last = Some(Instant::now());
        match Keys::read(key_file) {
            Ok(keys) => self.ballots = Ballots::new(&keys, pair),
            Err(error) => tracing::warn!(%error, "the witness goes on with the key that it has"),
        }
        self.ballots.read_question(datagram)
    }
}

/// Answers until the process is ended.
///
/// # Errors
/// There is no key, or the port cannot be used.
pub fn run(options: &Options) -> Result<(), Error> {
    let Options { listen, pair, key_file } = options;
    let mut keys = Rereading { ballots: Ballots::new(&Keys::read(key_file)?, pair), last: None };
    let failed = |source| Error::Witness { address: *listen, source };
    let socket = UdpSocket::bind(listen).map_err(failed)?;
    let started = Instant::now();
    let mut witness = Witness::new(boot()?, Duration::ZERO);
    tracing::info!(%listen, pair, "the witness answers");
    let mut told: Option<Instant> = None;
    let mut buffer = [0; MOST_BYTES + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        let question = keys.read_question(&buffer[..length], options);
        let answer = question.map_err(|error| error.to_string()).and_then(|(question, key)| {
            let answer = witness.answer(&question, started.elapsed());
            let answer = answer.map_err(|refusal| refusal.word().to_owned())?;
            Ok(keys.ballots.answer(answer, key))
        });
        match answer {
            // One that is lost is asked for again.
            Ok(answer) => drop(socket.send_to(&answer, from)),
            Err(reason) if told.is_none_or(|last| last.elapsed() >= TELLING) => {
                told = Some(Instant::now());
                tracing::warn!(%from, reason, "a question has no effect");
            }
            Err(_) => {}
        }
    }
}

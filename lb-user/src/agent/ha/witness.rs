//! The witness of a pair: answers the questions of its nodes, see
//! [`crate::core::ha::Witness`]. It has no files, so where it runs does not matter
//! as long as only one does, on a host of its own.

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
    key::Keys,
};
use crate::core::ha::Witness;

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

/// Answers until the process is ended.
///
/// # Errors
/// There is no key, or the port cannot be used.
pub fn run(options: &Options) -> Result<(), Error> {
    let Options { listen, pair, key_file } = options;
    let ballots = Ballots::new(&Keys::read(key_file)?, pair);
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
        let question = ballots.read_question(&buffer[..length]).map_err(|error| error.to_string());
        let answer = question.and_then(|(question, key)| {
            let answer = witness.answer(&question, started.elapsed());
            let answer = answer.map_err(|refusal| refusal.word().to_owned())?;
            Ok(ballots.answer(answer, key))
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

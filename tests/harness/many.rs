//! Many UDP flows at once, each of which says something that only it says.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{Error, Netns, Result};

/// First port of the client's.
const FIRST_PORT: u16 = 2000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Flows that are asked at once. There are no sockets for all of them: what makes a flow
/// is an address and a port, which are taken again for each word.
const BATCH: usize = 64;

/// Flows to an [`super::Echo`] behind a VIP.
#[derive(Debug)]
pub struct Talks<'a> {
    netns: &'a Netns,
    from: Vec<SocketAddr>,
    to: SocketAddr,
}

impl<'a> Talks<'a> {
    /// `count` of them from inside `netns`, of each of `sources` as many.
    #[must_use]
    pub fn new(netns: &'a Netns, sources: &[IpAddr], to: SocketAddr, count: usize) -> Self {
        let from = (FIRST_PORT..).flat_map(|port| sources.iter().map(move |&ip| (ip, port).into()));
        Self { netns, from: from.take(count).collect(), to }
    }

    /// Has each flow say these words and its number, and hear the same: one flow all of
    /// them, then the next.
    ///
    /// # Errors
    /// One hears something else, or nothing.
    pub fn all_hear_themselves(&self, words: &[&str]) -> Result<()> {
        let talk = || -> io::Result<()> {
            let mut first = 0;
            for from in self.from.chunks(BATCH) {
                words.iter().try_for_each(|word| self.exchange(from, first, word))?;
                first += from.len();
            }
            Ok(())
        };
        self.netns.within(talk)?.map_err(Error::io(format!("talk to `{}`", self.to)))
    }

    /// The sockets are connected: only what comes from the VIP to their very ports is heard.
    fn exchange(&self, from: &[SocketAddr], first: usize, word: &str) -> io::Result<()> {
        let open = |from: &SocketAddr| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(self.to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let sockets = from.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let numbered = || sockets.iter().zip(first..);
        let said = |number: usize| format!("{word} {number}");
        for (socket, number) in numbered() {
            socket.send(said(number).as_bytes())?;
        }
        for (socket, number) in numbered() {
            let mut buffer = [0; 128];
            let length = socket.recv(&mut buffer)?;
            let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.split_once(':').is_none_or(|(_, heard)| heard != said(number)) {
                let wrong = format!("`{}` heard `{heard}`", said(number));
                return Err(io::Error::new(ErrorKind::InvalidData, wrong));
            }
        }
        Ok(())
    }
}

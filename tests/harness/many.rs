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
/// Flows that are asked at once.
const BATCH: usize = 32;
/// Flows that begin, and go on, before others begin.
const SOME: usize = 2000;

/// Connected sockets to an [`super::Echo`] behind a VIP: only what comes from there to
/// its very port is heard.
#[derive(Debug)]
pub struct Talks(Vec<UdpSocket>);

impl Talks {
    /// Opens `count` from inside `netns`, of each of `sources` as many.
    ///
    /// # Errors
    /// A port is taken, or there are too many.
    pub fn open(netns: &Netns, sources: &[IpAddr], to: SocketAddr, count: usize) -> Result<Self> {
        let each = count.div_ceil(sources.len()) as u16;
        let ports = FIRST_PORT..FIRST_PORT + each;
        let from = ports.flat_map(|port| sources.iter().map(move |&source| (source, port)));
        let open = |from: (IpAddr, u16)| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let sockets = netns.within(|| from.take(count).map(open).collect::<io::Result<_>>())?;
        sockets.map(Self).map_err(Error::io(format!("open sockets to `{to}`")))
    }

    /// Has each flow say two words and its number, and hear the same, as many flows at a
    /// time as can have both their words within a second or so.
    ///
    /// # Errors
    /// One hears something else, or nothing.
    pub fn begin(&self) -> Result<()> {
        let mut first = 0;
        for some in self.0.chunks(SOME) {
            hear_themselves(some, first, "first")?;
            hear_themselves(some, first, "second")?;
            first += some.len();
        }
        Ok(())
    }

    /// Has each flow say `word` and its number, and hear the same.
    ///
    /// # Errors
    /// One hears something else, or nothing.
    pub fn all_hear_themselves(&self, word: &str) -> Result<()> {
        hear_themselves(&self.0, 0, word)
    }
}

/// Has flows, numbered from `first` on, say `word`.
fn hear_themselves(sockets: &[UdpSocket], first: usize, word: &str) -> Result<()> {
    let mut first = first;
    for sockets in sockets.chunks(BATCH) {
        exchange(sockets, first, word).map_err(Error::io("talk over UDP"))?;
        first += sockets.len();
    }
    Ok(())
}

fn exchange(sockets: &[UdpSocket], first: usize, word: &str) -> io::Result<()> {
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

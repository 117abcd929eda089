//! UDP: a server that echoes with its name, and a client.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Error, Netns, Result};

/// How often a server looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of a datagram at most.
const LONGEST: usize = 65_535;
/// First port of clients that choose theirs.
const FIRST_PORT: u16 = 10_000;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers every datagram with `NAME:` and what it held.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on `port` of each of `addresses`, one socket each: a socket for
    /// all of them would answer from whichever address the route prefers, and
    /// in mode `dsr` the answer has to come from the VIP.
    ///
    /// # Errors
    /// An address is not there or its port is taken.
    pub fn start(netns: &Netns, name: &str, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let name = name.to_owned();
        let echo = move |asked: &[u8]| [name.as_bytes(), b":", asked].concat();
        Self::answering(netns, addresses, port, echo)
    }

    /// The same with other answers.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn answering(
        netns: &Netns,
        addresses: &[IpAddr],
        port: u16,
        answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut echo = Self { stop: Arc::clone(&stop), threads: Vec::new() };
        for &address in addresses {
            let failed = || Error::io(format!("listen for UDP on `{address}` port {port}"));
            let socket = netns.within(|| UdpSocket::bind((address, port)))?.map_err(failed())?;
            socket.set_read_timeout(Some(POLL)).map_err(failed())?;
            let (stop, answer) = (Arc::clone(&stop), answer.clone());
            echo.threads.push(thread::spawn(move || serve(&socket, answer, &stop)));
        }
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, answer: impl Fn(&[u8]) -> Vec<u8>, stop: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    while !stop.load(Ordering::Relaxed) {
        // Errors are timeouts, or ICMP errors about earlier answers.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..length]), from);
        }
    }
}

/// Sends `payload` from inside `netns` to an [`Echo`] behind `to` and returns
/// the name of who answered. The socket is connected: only an answer *from*
/// `to` gets through.
///
/// # Errors
/// No answer within a second, an ICMP error, or an answer that is no echo.
pub fn ask_udp(netns: &Netns, to: SocketAddr, payload: &str) -> Result<String> {
    let failed = || Error::io(format!("ask `{to}` by UDP"));
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let answer =
        netns.within(|| exchange((any, 0).into(), to, payload.as_bytes()))?.map_err(failed())?;
    match answer.split_once(':') {
        Some((name, echoed)) if echoed == payload => Ok(name.to_owned()),
        _ => Err(Error::Unexpected { what: format!("ask `{to}` by UDP"), found: answer }),
    }
}

/// Asks like [`ask_udp`] from `count` pairs of an address of `sources` and a
/// port, one after the other, and counts who answered.
///
/// # Errors
/// Those of [`ask_udp`].
pub fn spread_udp(
    netns: &Netns,
    sources: &[IpAddr],
    to: SocketAddr,
    count: usize,
) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for name in answers_udp(netns, sources, to, count)? {
        *counts.entry(name).or_default() += 1;
    }
    Ok(counts)
}

/// The same, and who answered each: first all of `sources` in turn, from their
/// first ports.
///
/// # Errors
/// Those of [`ask_udp`].
pub fn answers_udp(
    netns: &Netns,
    sources: &[IpAddr],
    to: SocketAddr,
    count: usize,
) -> Result<Vec<String>> {
    let ports = (FIRST_PORT..).flat_map(|port| sources.iter().map(move |&from| (from, port)));
    let ask = |from: (IpAddr, u16)| {
        let answer = exchange(from.into(), to, b"who")?;
        Ok(answer.split(':').next().unwrap_or_default().to_owned())
    };
    netns
        .within(|| ports.take(count).map(ask).collect::<io::Result<_>>())?
        .map_err(Error::io(format!("ask `{to}` by UDP")))
}

fn exchange(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<String> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(payload)?;
    let mut buffer = vec![0; LONGEST];
    let length = socket.recv(&mut buffer)?;
    String::from_utf8(buffer[..length].to_vec())
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

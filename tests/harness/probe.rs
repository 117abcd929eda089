//! A client that never stops asking, and tells how long nobody answered.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Error, Netns, Result};

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(2);

/// Asks an [`super::Echo`] every 2 ms, by datagrams of which no two are equal.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: Option<JoinHandle<io::Result<Probes>>>,
}

/// What a [`Prober`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Questions.
    pub asked: usize,
    /// Those that were answered.
    pub answered: usize,
    /// Those that were answered more than once: by two balancers.
    pub repeated: usize,
    /// Longest time without an answer, after the first.
    pub gap: Duration,
}

impl Prober {
    /// Starts to ask from `from` inside `netns`. What is there need not answer.
    ///
    /// # Errors
    /// The address is not there.
    pub fn start(netns: &Netns, from: IpAddr, to: SocketAddr) -> Result<Self> {
        let failed = || Error::io(format!("ask `{to}` from `{from}`"));
        let open = || {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = netns.within(open)?.map_err(failed())?;
        let (stop, answers) = (Arc::default(), Arc::default());
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = thread::spawn(move || ask(socket, &stopped, &counter));
        Ok(Self { stop, answers, thread: Some(thread) })
    }

    /// Answers so far.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Stops it.
    ///
    /// # Errors
    /// Its socket could not be used.
    ///
    /// # Panics
    /// It did.
    pub fn stop(mut self) -> Result<Probes> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { unreachable!("it stops once") };
        let probes = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        probes.map_err(Error::io("ask without end"))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn ask(socket: UdpSocket, stop: &AtomicBool, counter: &AtomicUsize) -> io::Result<Probes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // By the number of the question: how often it was answered.
        let mut answers: Vec<usize> = Vec::new();
        let (mut last, mut gap) = (None::<Instant>, Duration::ZERO);
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            tokio::select! {
                _ = ticks.tick() => {
                    // Errors are ICMP's about earlier questions.
                    let _ = socket.send(answers.len().to_string().as_bytes()).await;
                    answers.push(0);
                }
                received = socket.recv(&mut buffer) => {
                    let number = received.ok().and_then(|length| number(&buffer[..length]));
                    if let Some(times) = number.and_then(|number| answers.get_mut(number)) {
                        *times += 1;
                        counter.fetch_add(1, Ordering::Relaxed);
                        gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
                        last = Some(Instant::now());
                    }
                }
            }
        }
        Ok(Probes {
            asked: answers.len(),
            answered: answers.iter().filter(|times| **times > 0).count(),
            repeated: answers.iter().filter(|times| **times > 1).count(),
            gap: gap.max(last.map_or(Duration::ZERO, |last| last.elapsed())),
        })
    })
}

/// The question's number in `NAME:NUMBER`.
fn number(answer: &[u8]) -> Option<usize> {
    str::from_utf8(answer).ok()?.split_once(':')?.1.parse().ok()
}

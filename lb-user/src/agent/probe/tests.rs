//! The prober among many targets. What single probes find is in the modules
//! below.

mod dns;
mod exec;
mod http;
mod plain;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::mpsc::Receiver,
    time::sleep,
};

use super::*;
use crate::agent::thread::Thread;
use crate::core::{
    health::Outcome,
    model::{Mode, Protocol, sample},
    plan::identity::BackendIdentity,
};

/// Long enough for anything that ends by itself.
const LONG: Duration = Duration::from_secs(30);

/// For what never ends by itself.
const SHORT: Duration = Duration::from_millis(50);

/// Probes of `127.0.0.1` are told apart by `number`.
fn target(number: u32, address: SocketAddr, probe: Probe) -> Target {
    let backend = sample::backend(Ipv4Addr::from(0x0a00_0000 + number).into(), None, 1);
    let service = sample::service("203.0.113.1", (80, 80), Protocol::Tcp, Mode::Nat);
    Target {
        key: BackendIdentity::of(&service, &backend),
        address: address.ip(),
        port: Some(address.port()),
        health: Health { probe, interval: LONG, timeout: LONG, ..Health::default() },
        name: format!("web/{number}"),
        mark: 0,
    }
}

/// One that fails without any I/O, every second.
fn instant(number: u32) -> Target {
    let target = target(number, (Ipv4Addr::LOCALHOST, 0).into(), Probe::Tcp);
    Target { port: None, health: Health { probe: Probe::Tcp, ..Health::default() }, ..target }
}

async fn observe(target: &Target) -> Observation {
    let attempt = Attempt::new(target, &mut Configs::new(Handle::current())).unwrap();
    attempt.make(None).await
}

/// Why a probe failed.
fn why(observation: Observation) -> String {
    match observation.outcome {
        Outcome::Failure(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Why a probe could not be made.
fn why_not(observation: Observation) -> String {
    match observation.outcome {
        Outcome::Inconclusive(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Why a probe of `address` fails.
async fn failure(address: SocketAddr, probe: Probe) -> String {
    why(observe(&target(0, address, probe)).await)
}

/// Why a probe that nobody answers fails.
async fn failure_soon(address: SocketAddr, probe: Probe) -> String {
    let mut target = target(0, address, probe);
    target.health.timeout = SHORT;
    why(observe(&target).await)
}

fn succeeded(observation: &Observation) -> bool {
    matches!(observation.outcome, Outcome::Success(_))
}

async fn success(address: SocketAddr, probe: Probe) {
    assert!(succeeded(&observe(&target(0, address, probe)).await));
}

/// A listener on loopback, whose connections `serve` has one after another.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Takes connections and never says anything.
async fn mute() -> SocketAddr {
    server(|mut stream| async move {
        while stream.read(&mut [0; 64]).await.is_ok_and(|length| length > 0) {}
    })
    .await
}

/// Nobody listens there: the port was free a moment ago.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// What is found of each target, until every one of `count` has been found.
async fn found(events: &mut Receiver<Event>, count: usize) -> BTreeMap<BackendIdentity, u32> {
    let mut found = BTreeMap::new();
    while found.len() < count {
        let event = events.recv().await.unwrap();
        *found.entry(event.key).or_default() += 1;
    }
    found
}

#[tokio::test]
async fn thousands_of_targets_are_all_probed() {
    let address = server(|_| async {}).await;
    let (mut prober, mut events) = Prober::new(Handle::current(), 64);
    let targets: Vec<Target> = (0..3000).map(|n| target(n, address, Probe::Tcp)).collect();
    prober.set(targets.clone());
    let mut missing: BTreeSet<_> = targets.iter().map(|target| target.key).collect();
    while !missing.is_empty() {
        let event = events.recv().await.unwrap();
        assert!(succeeded(&event.observation), "{event:?}");
        missing.remove(&event.key);
    }
}

#[tokio::test]
async fn no_more_probes_are_in_flight_than_allowed() {
    const MOST: usize = 4;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let open_at_once = thread::spawn(move || {
        let mut open = Vec::new();
        let mut most = 0;
        for _ in 0..20 {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            open.push(stream);
            // A probe that is over has reset its connection.
            open.retain(|stream: &std::net::TcpStream| {
                stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            });
            most = most.max(open.len());
        }
        most
    });
    let (mut prober, mut events) = Prober::new(Handle::current(), MOST);
    prober.set(
        (0..20)
            .map(|number| {
                let mut target = target(number, address, Probe::Agent);
                target.health.timeout = SHORT;
                target.health.interval = Duration::from_millis(200);
                target
            })
            .collect(),
    );
    found(&mut events, 20).await;
    assert!(open_at_once.join().unwrap() <= MOST);
}

#[tokio::test]
async fn silent_targets_do_not_wait_for_each_other() {
    const SILENT: u32 = 300;
    let (begun, mut begins) = mpsc::channel(1);
    let address = server(move |mut stream| {
        let begun = begun.clone();
        async move {
            begun.send(()).await.unwrap();
            let _reset = stream.read(&mut [0]).await;
        }
    })
    .await;
    let (mut prober, _events) = Prober::new(Handle::current(), 1000);
    prober.set((0..SILENT).map(|number| target(number, address, Probe::Agent)).collect());
    // None ends before the last has begun.
    for _ in 0..SILENT {
        begins.recv().await.unwrap();
    }
}

#[tokio::test]
async fn room_for_probes_follows_the_targets_within_its_bounds() {
    let (mut prober, _events) = Prober::new(Handle::current(), 100);
    let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
    for (targets, room) in [(0, 64), (72, 90), (500, 100), (8, 64)] {
        prober.set((0..targets).map(|number| target(number, nowhere, Probe::Agent)).collect());
        assert_eq!(prober.permits.available_permits(), room, "{targets} targets");
    }
}

#[test]
fn descriptors_bound_the_probes() {
    assert_eq!(most_at_once(0), 1);
    assert_eq!(most_at_once(1024), 192);
    assert_eq!(most_at_once(u64::MAX), Semaphore::MAX_PERMITS);
}

/// Nothing here drives a runtime: the probes have a thread that does.
#[test]
fn probes_go_on_while_the_agent_is_busy_and_end_with_their_thread() {
    let thread = Thread::start("probes").unwrap();
    let (mut prober, mut events) = Prober::new(thread.handle(), 1);
    prober.set(vec![Target {
        health: Health { interval: SHORT, timeout: SHORT, ..instant(0).health },
        ..instant(0)
    }]);
    for _ in 0..3 {
        assert_eq!(events.blocking_recv().unwrap().key, instant(0).key);
    }
    drop(thread);
    drop(prober);
    while events.blocking_recv().is_some() {}
}

#[tokio::test]
async fn a_probe_that_had_to_wait_says_so() {
    let mut target = target(0, nobody().await, Probe::Tcp);
    target.health.timeout = SHORT;
    let attempt = Attempt::new(&target, &mut Configs::new(Handle::current())).unwrap();
    let observation = attempt.make(Some(Duration::from_millis(1234))).await;
    assert_eq!(why(observation), "connection refused; begun 1.2s late: many probes or a busy host");
}

#[tokio::test]
async fn a_target_that_is_removed_is_let_go_at_once() {
    let (ended, mut ends) = mpsc::channel(1);
    let address = server(move |mut stream| {
        let ended = ended.clone();
        async move {
            ended.send("begun").await.unwrap();
            let _reset = stream.read(&mut [0]).await;
            ended.send("over").await.unwrap();
        }
    })
    .await;
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    prober.set(vec![target(0, address, Probe::Agent)]);
    assert_eq!(ends.recv().await, Some("begun"));
    prober.set(vec![]);
    assert_eq!(ends.recv().await, Some("over"));
    // Its permit is free again, and nothing was found.
    prober.set(vec![target(1, nobody().await, Probe::Tcp)]);
    assert_eq!(events.recv().await.unwrap().key, target(1, address, Probe::None).key);
}

#[tokio::test(start_paused = true)]
async fn probes_come_at_the_configured_rate() {
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    let target = instant(0);
    let (interval, fall) = (target.health.interval, target.health.fall);
    let begin = Instant::now();
    prober.set(vec![target]);
    let mut times = Vec::new();
    for _ in 0..31 {
        events.recv().await.unwrap();
        times.push(Instant::now());
    }
    // The clock of tokio's timers ticks in milliseconds.
    let tick = Duration::from_millis(2);
    assert!(times[0] - begin <= tick);
    for pair in times.iter().zip(&times[fall as usize..]) {
        assert!((*pair.1 - *pair.0).abs_diff(interval * fall) <= tick);
    }
}

#[tokio::test(start_paused = true)]
async fn unchanged_targets_keep_their_times_and_changed_ones_begin_anew() {
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    let (kept, changed) = (instant(0), instant(1));
    prober.set(vec![kept.clone(), changed.clone()]);
    found(&mut events, 2).await;
    sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    prober.set(vec![kept.clone(), Target { name: "other".into(), ..changed.clone() }]);
    assert_eq!(events.recv().await.unwrap().key, changed.key);
    assert!(begin.elapsed() < Duration::from_millis(10));
    assert_eq!(events.recv().await.unwrap().key, kept.key);
    assert!(begin.elapsed() < Duration::from_millis(810));
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_misses_nothing() {
    let (mut prober, mut events) = Prober::new(Handle::current(), 8);
    let count = WAITING * 2;
    prober.set((0..count).map(|number| instant(u32::try_from(number).unwrap())).collect());
    sleep(Duration::from_secs(60)).await;
    let found = found(&mut events, count).await;
    assert_eq!(found.len(), count);
    // Meanwhile they were not probed sixty times.
    assert!(found.values().sum::<u32>() <= 3 * u32::try_from(count).unwrap());
}

#[tokio::test(start_paused = true)]
async fn targets_without_a_probe_are_left_alone_and_delay_nobody() {
    let (mut prober, mut events) = Prober::new(Handle::current(), 1);
    let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
    let mut targets: Vec<Target> = (1..500).map(|n| target(n, nowhere, Probe::None)).collect();
    targets.push(instant(0));
    let begin = Instant::now();
    prober.set(targets);
    assert_eq!(events.recv().await.unwrap().key, instant(0).key);
    assert!(begin.elapsed() < Duration::from_millis(10));
    drop(prober);
    assert!(events.recv().await.is_none());
}

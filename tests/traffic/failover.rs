//! A backend dies under load, and comes back.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::harness::{
    Backend, Error, Flows, Lab, Load, Mode, NAT_V4, Protocol, Result, Service, Survey, eventually,
    run, source_addresses,
};
use serde_json::Value;

use super::{WEB, url};

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// Live flows.
const FLOWS: usize = 300;
/// Connections of the load.
const CONNECTIONS: u32 = 32;
/// Times of the probes.
const INTERVAL: Duration = Duration::from_millis(500);
/// See [`INTERVAL`].
const TIMEOUT: Duration = Duration::from_millis(400);
/// Probes that must fail in a row.
const FALL: u32 = 2;

/// Opens connections until told to stop; those that are not answered at once
/// are given up.
fn connect(to: SocketAddr, going: &AtomicBool) {
    while going.load(Ordering::Relaxed) {
        let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
    }
}

#[test]
fn when_a_backend_dies_only_its_own_connections_fail() -> Result<()> {
    let lab = Lab::new(3)?;
    let health = format!(
        "[service.health]\nkind = \"http\"\npath = \"/1k\"\ninterval = \"{INTERVAL:?}\"\n\
         timeout = \"{TIMEOUT:?}\"\nrise = 2\nfall = {FALL}"
    );
    let service = Service::new(NAT_V4, Protocol::Tcp, WEB, Mode::Nat);
    let service = service.with(&lab.backends).lines(&health);
    let web = service.name().to_owned();
    let agent = lab.start_agent(&lab.config([service]))?;
    let are = |health: &str| {
        lab.backends_by(&web, "health").is_ok_and(|all| all.values().all(|one| *one == health))
    };
    assert!(eventually(PATIENCE, || are("up")), "{}", agent.log());

    let to = (NAT_V4, WEB).into();
    let mut flows = Flows::open(&lab.client, &source_addresses(true), to, FLOWS)?;
    let here = flows.by_backend()["b2"];
    let duration = Duration::from_secs(8);
    let url = url(NAT_V4, WEB, "/1k");
    let load = Load { connections: CONNECTIONS, duration, ..Load::new(&url) };
    let load = load.start(&lab.client)?;
    let going = AtomicBool::new(true);
    thread::scope(|scope| -> Result<()> {
        let clients = [(); 2].map(|()| scope.spawn(|| lab.client.within(|| connect(to, &going))));
        let outcome = die(&lab, &web);
        going.store(false, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().unwrap())?;
        outcome
    })?;
    let others = Survey { kept: FLOWS - here, moved: 0, broken: 0 };
    assert_eq!(flows.survey(Some("b2")), others);
    let report = load.report()?;
    assert!(report.socket_errors < CONNECTIONS.into(), "not only one backend: {}", report.text);
    assert!(report.requests > 0 && report.bad_answers == 0, "{}", report.text);
    let report = Load { close: true, ..Load::new(&url) }.run(&lab.client)?;
    assert!(report.is_clean(), "without the dead backend: {}", report.text);

    run(lab.backends[1].netns.command("nft").args(["flush", "ruleset"]), PATIENCE)?;
    assert!(eventually(PATIENCE, || are("up")), "{}", agent.log());
    let new = Flows::open(&lab.client, &source_addresses(true), to, 60)?;
    assert!(new.by_backend().contains_key("b2"), "{:?}", new.by_backend());
    assert_eq!(flows.survey(Some("b2")), others);
    Ok(())
}

/// How a dead host looks, with a counter of who tries to connect. Probes, which
/// the balancer sends, are not counted.
const DEAD: &str = "table inet dead {
    counter tries {}
    chain input {
        type filter hook input priority 0; policy drop;
        ip saddr 10.2.0.1 drop
        tcp flags & (syn | ack) == syn counter name tries
    }
}
";

/// Attempts to connect that a backend has left unanswered since its death.
fn tries(backend: &Backend) -> Result<u64> {
    let mut list = backend.netns.command("nft");
    let text = run(list.args(["--json", "list", "counters"]), PATIENCE)?.stdout;
    let found: Value = serde_json::from_str(&text).unwrap_or_default();
    let objects = found["nftables"].as_array().into_iter().flatten();
    let packets = objects.filter_map(|object| object["counter"]["packets"].as_u64()).next();
    packets.ok_or_else(|| Error::Unexpected { what: "nft's counter".into(), found: text })
}

/// Makes `b2` answer nobody, so that its connections hang, and waits until it is
/// down: from then on nobody tries to connect to it.
fn die(lab: &Lab, web: &str) -> Result<()> {
    let dead = &lab.backends[1];
    let rules = lab.path("dead.nft");
    fs::write(&rules, DEAD).unwrap();
    run(dead.netns.command("nft").arg("-f").arg(&rules), PATIENCE)?;
    let died = Instant::now();
    let down = AtomicBool::new(false);
    let last = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut last, mut count) = (died, 0);
            let _ = eventually(PATIENCE, || {
                let was_down = down.load(Ordering::Relaxed);
                let now = tries(dead).unwrap_or(count);
                if now != count {
                    (last, count) = (Instant::now(), now);
                }
                was_down
            });
            last - died
        });
        let is_down = || lab.backends_by(web, "health").is_ok_and(|all| all["b2"] == "down");
        assert!(eventually(PATIENCE, is_down), "b2 is not found down");
        down.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    let bound = FALL * INTERVAL + TIMEOUT + Duration::from_millis(50);
    println!("last new flow {last:.0?} after the backend's death, expected at most {bound:?}");
    let reasons = lab.backends_by(web, "reason")?;
    assert!(reasons["b2"].as_str().is_some_and(|reason| reason.len() > 4), "{reasons:?}");

    let before = (tries(dead)?, lab.pins().traffic()?.packets);
    assert!(before.0 > 0, "nobody tried to connect");
    let forwards = || lab.pins().traffic().is_ok_and(|now| now.packets > before.1 + 10_000);
    assert!(eventually(PATIENCE, forwards));
    assert_eq!(tries(dead)?, before.0, "new flows go to the dead backend");
    Ok(())
}

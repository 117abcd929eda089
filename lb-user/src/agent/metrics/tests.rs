//! The server over real sockets, with a controller that answers what it is told to.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    serve::{CONNECTIONS, HEAD, LIFE},
    *,
};
use crate::api::{Backend, Interface, Stats, Status, Traffic};

/// What an agent that has one service with one backend may say.
fn figures() -> Figures {
    let traffic = |backend: Option<&str>| Traffic {
        service: "web".into(),
        backend: backend.map(str::to_owned),
        packets: 7,
        bytes: 700,
        reply_packets: 6,
        reply_bytes: 600,
        new_flows: 2,
    };
    let mut probes = Probes::default();
    probes.seconds.observe(0.002);
    (probes.successes, probes.failures) = (1, 4);
    Figures {
        status: Status {
            node: "lb-a".into(),
            version: "1.2.3".into(),
            generation: 12,
            uptime_s: 60,
            interfaces: [("eth0", Some("native")), ("eth1", None)]
                .map(|(name, mode)| Interface {
                    name: name.into(),
                    xdp_mode: mode.map(str::to_owned),
                })
                .into(),
            flows: 3,
            flow_capacity: 1_000,
            edits: 1,
            confirm_s: None,
            ha: None,
        },
        services: vec![Service {
            name: "web".into(),
            vip: [203, 0, 113, 10].into(),
            probes: Some(probes),
        }],
        members: vec![Member::sample(Backend {
            service: "web".into(),
            name: "web-1".into(),
            address: [10, 0, 0, 1].into(),
            port: Some(80),
            weight: 100,
            effective_weight: 50,
            admin: "ready".into(),
            deadline_s: None,
            health: "up".into(),
            reason: String::new(),
            zone: None,
            group: None,
            backup: false,
            flows: 3,
            packets: 7,
            bytes: 700,
            latency_us: None,
            handshake_us: Some(1_500),
        })],
        stats: Stats {
            services: vec![traffic(None)],
            backends: vec![traffic(Some("web-1"))],
            drops: [("no_backend".to_owned(), 5)].into(),
            passed: 9,
            unrecorded: 1,
            reset: 8,
            moved: 6,
            quic_routed: 11,
            quic_unrouted: 12,
            syn_cookies_sent: 14,
            syn_cookies_confirmed: 13,
        },
        tally: Tally::default(),
        pair: None,
    }
}

/// Serves on a port of the loopback interface; every question is answered.
async fn with_server(answer: impl Fn(Ask) + Send + 'static, test: impl AsyncFnOnce(SocketAddr)) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut asked, server) = serve(Some(free)).await.unwrap();
    tokio::spawn(async move {
        while let Some(ask) = asked.recv().await {
            answer(ask);
        }
    });
    test(free).await;
    drop(server);
    assert!(TcpStream::connect(free).await.is_err());
}

fn answers(ask: Ask) {
    match ask {
        Ask::Figures(reply) => drop(reply.send(Ok(figures()))),
        Ask::Health(reply) => drop(reply.send(Health::default())),
    }
}

/// Status, head and body of an answer.
async fn ask(at: SocketAddr, method: &str, path: &str, header: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: lb\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn all_families_are_served_in_the_format_that_is_asked_for() {
    with_server(answers, async |at| {
        let (status, head, plain) = ask(at, "GET", "/metrics", "").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        for line in [
            "# TYPE lb_build_info gauge",
            "lb_build_info{version=\"1.2.3\"} 1",
            "lb_generation 12",
            "lb_interface_attached{interface=\"eth0\",mode=\"native\"} 1",
            "lb_interface_attached{interface=\"eth1\",mode=\"\"} 0",
            "lb_flow_capacity 1000",
            "# TYPE lb_flows_unrecorded_total counter",
            "lb_flows_unrecorded_total 1",
            "lb_flows_broken_total{cause=\"reset\"} 8",
            "lb_flows_broken_total{cause=\"moved\"} 6",
            "lb_quic_packets_total{by=\"id\"} 11",
            "lb_quic_packets_total{by=\"flow\"} 12",
            "lb_syn_cookies_total{result=\"sent\"} 14",
            "lb_syn_cookies_total{result=\"confirmed\"} 13",
            "lb_drops_total{reason=\"no_backend\"} 5",
            "lb_packets_passed_total 9",
            "lb_reloads_total{result=\"refused\"} 0",
            "lb_service_packets_total{service=\"web\",vip=\"203.0.113.10\"} 7",
            "lb_service_backends_up{service=\"web\",vip=\"203.0.113.10\"} 1",
            "lb_backend_reply_bytes_total{service=\"web\",backend=\"web-1\"} 600",
            "lb_backend_up{service=\"web\",backend=\"web-1\"} 1",
            "lb_backend_effective_weight{service=\"web\",backend=\"web-1\"} 50",
            "lb_backend_handshake_seconds{service=\"web\",backend=\"web-1\"} 0.0015",
            "lb_backend_probe_seconds_count{service=\"web\"} 1",
            "lb_backend_probe_seconds_bucket{le=\"0.0025\",service=\"web\"} 1",
            "lb_backend_probes_total{service=\"web\",result=\"failure\"} 4",
        ] {
            assert!(plain.lines().any(|one| one == line), "{line}\nin\n{plain}");
        }
        // As Prometheus asks.
        let accept =
            "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n";
        let (status, head, open) = ask(at, "GET", "/metrics", accept).await;
        assert_eq!(status, 200);
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.contains(kind), "{head}");
        assert!(open.contains("# TYPE lb_drops counter\n") && open.ends_with("# EOF\n"), "{open}");
    })
    .await;
}

#[tokio::test]
async fn nothing_but_reading_two_paths_is_possible() {
    let asked = |ask| match ask {
        Ask::Health(reply) => drop(reply.send(Health::default())),
        Ask::Figures(_) => panic!("nobody asks for them"),
    };
    with_server(asked, async |at| {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            assert_eq!(ask(at, method, "/metrics", "").await.0, 405, "{method}");
        }
        assert_eq!(ask(at, "GET", "/v1/status", "").await.0, 404);
        assert_eq!(
            ask(at, "GET", "/healthz", &format!("a: {}\r\n", "b".repeat(HEAD))).await.0,
            431
        );
        let (status, _, body) = ask(at, "HEAD", "/healthz", "").await;
        assert_eq!((status, body.as_str()), (200, ""));
    })
    .await;
}

#[tokio::test]
async fn health_tells_what_is_wrong_or_what_the_node_is() {
    for (away, role, expected) in [
        (vec![], None, (200, "ok\n")),
        (vec![], Some("standby"), (200, "ok, standby\n")),
        (
            vec!["eth0", "eth1"],
            Some("active"),
            (503, "the data plane is not attached to `eth0`, `eth1`\n"),
        ),
    ] {
        let health = Health {
            away: away.into_iter().map(str::to_owned).collect(),
            role: role.map(str::to_owned),
        };
        let answer = move |ask| match ask {
            Ask::Health(reply) => drop(reply.send(health.clone())),
            Ask::Figures(reply) => drop(reply.send(Err("no maps".into()))),
        };
        with_server(answer, async |at| {
            let (status, _, body) = ask(at, "GET", "/healthz", "").await;
            assert_eq!((status, body.as_str()), expected);
            let (status, _, body) = ask(at, "GET", "/metrics", "").await;
            assert_eq!((status, body.as_str()), (503, "no maps\n"));
        })
        .await;
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_or_ends_is_not_waited_for() {
    let (asks, mut asked) = mpsc::channel(WAITING);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(serve::serve(listener, asks));
    let (status, _, body) = ask(at, "GET", "/healthz", "").await;
    assert_eq!((status, body.as_str()), (503, "the agent has not answered for 5s\n"));
    asked.close();
    while asked.recv().await.is_some() {}
    let (status, _, body) = ask(at, "GET", "/healthz", "").await;
    assert_eq!((status, body.as_str()), (503, "the agent is about to end\n"));
    server.abort();
}

#[tokio::test]
async fn who_connects_and_does_nothing_is_dropped() {
    with_server(answers, async |at| {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(at).await.unwrap());
        }
        // It waits for a place until they are gone.
        let waits = timeout(LIFE * 4, ask(at, "GET", "/healthz", ""));
        assert_eq!(waits.await.expect("a place").0, 200);
        for mut one in idle {
            assert_eq!(one.read(&mut [0]).await.unwrap_or(0), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn the_controller_is_asked_by_one_reader_at_a_time() {
    let (asks, mut asked) = mpsc::channel(WAITING);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(serve::serve(listener, asks));
    let readers: Vec<_> = (0..CONNECTIONS * 2)
        .map(|_| tokio::spawn(async move { ask(at, "GET", "/metrics", "").await.0 }))
        .collect();
    for _ in &readers {
        let Some(Ask::Figures(reply)) = asked.recv().await else { panic!("figures are asked for") };
        // Others have had time to ask meanwhile.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(asked.is_empty());
        reply.send(Ok(figures())).unwrap();
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 200);
    }
    server.abort();
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_a_hint() {
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = used.local_addr().unwrap();
    let error = serve(Some(at)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen at `{at}` for who reads metrics"));
    assert!(error.hint().unwrap().contains("a port that is free"));
}

#[tokio::test]
async fn without_an_address_nobody_asks() {
    let (mut asked, server) = serve(None).await.unwrap();
    assert!(server.is_none() && asked.recv().await.is_none());
}

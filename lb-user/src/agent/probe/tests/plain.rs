//! `tcp`, `udp` and `agent` probes.

use tokio::{io::AsyncWriteExt as _, net::UdpSocket};

use super::*;
use crate::core::{health::Report, model::health::Udp, weight::AdminState};

fn udp(send: &[u8], expect: Option<&[u8]>) -> Probe {
    Probe::Udp(Udp { send: send.into(), expect: expect.map(Into::into) })
}

/// Sends every datagram back.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            socket.send_to(&bytes[..length], from).await.unwrap();
        }
    });
    address
}

/// Says this and waits for the other side to go, or goes itself.
async fn speaker(words: Vec<u8>, stays: bool) -> SocketAddr {
    server(move |mut stream| {
        let words = words.clone();
        async move {
            let _reset = stream.write_all(&words).await;
            if stays {
                let _reset = stream.read(&mut [0]).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_port_that_takes_connections_is_enough_for_tcp() {
    success(mute().await, Probe::Tcp).await;
    assert_eq!(failure(nobody().await, Probe::Tcp).await, "connection refused");
}

#[tokio::test]
async fn a_connection_is_reset_when_the_probe_is_over() {
    let (sender, mut ends) = mpsc::channel(1);
    let address = server(move |mut stream| {
        let sender = sender.clone();
        async move { sender.send(stream.read(&mut [0]).await.unwrap_err().kind()).await.unwrap() }
    })
    .await;
    success(address, Probe::Tcp).await;
    assert_eq!(ends.recv().await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_target_needs_a_port() {
    let reason = why(observe(&instant(0)).await);
    assert_eq!(reason, "no port to probe, expected `health.port`");
}

#[tokio::test]
async fn an_answer_by_udp_must_begin_as_expected() {
    let address = echo().await;
    success(address, udp(b"ping 1", Some(b"ping"))).await;
    success(address, udp(b"ping", Some(b""))).await;
    success(address, udp(b"ping", None)).await;
    let reason = failure(address, udp(b"pi\x07", Some(b"ping"))).await;
    assert_eq!(reason, "answer begins with `pi\u{fffd}`, not as expected");
}

#[tokio::test]
async fn silence_by_udp_is_failure_only_if_an_answer_is_expected() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    assert_eq!(failure_soon(address, udp(b"ping", Some(b"ping"))).await, "no answer within 50ms");
    let mut target = target(0, address, udp(b"ping", None));
    target.health.timeout = SHORT;
    assert!(succeeded(&observe(&target).await));
    drop(socket);
    assert_eq!(failure(address, udp(b"ping", None)).await, "port unreachable");
}

#[tokio::test]
async fn a_backend_says_its_weight_and_state() {
    for stays in [true, false] {
        let address = speaker(b"up 75% drain\n".to_vec(), stays).await;
        let observation = observe(&target(0, address, Probe::Agent)).await;
        assert!(succeeded(&observation));
        let report = Report { percent: Some(75), admin: Some(AdminState::Drain) };
        assert_eq!(observation.report, Some(report));
    }
}

#[tokio::test]
async fn half_a_line_counts_once_the_backend_has_closed() {
    success(speaker(b"up".to_vec(), false).await, Probe::Agent).await;
    let waiting = speaker(b"up".to_vec(), true).await;
    assert_eq!(failure_soon(waiting, Probe::Agent).await, "no answer within 50ms");
}

#[tokio::test]
async fn what_is_not_a_line_of_state_is_a_failure() {
    let said = |words: &[u8]| speaker(words.to_vec(), true);
    let reason = failure(said(b"down #disk full\n").await, Probe::Agent).await;
    assert_eq!(reason, "says `down`: disk full");
    let reason = failure(said(b"SSH-2.0\x1b\n").await, Probe::Agent).await;
    assert_eq!(reason, "says `SSH-2.0\u{fffd}`, expected up, down, drain or 75%");
    let reason = failure(said(&[b'x'; 1_000_000]).await, Probe::Agent).await;
    assert_eq!(reason, "says more than 256 bytes in a line");
    let reason = failure(speaker(vec![], false).await, Probe::Agent).await;
    assert_eq!(reason, "says nothing");
    let reason = failure_soon(mute().await, Probe::Agent).await;
    assert_eq!(reason, "no answer within 50ms");
}

//! `http` probes.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::core::model::health::Http;

fn http() -> Http {
    Http { path: "/healthz?full=1".into(), host: None, expect_status: vec![200..=399], tls: None }
}

/// Answers any request with these bytes; gives the requests.
async fn answering(answer: Vec<u8>) -> (SocketAddr, Receiver<String>) {
    let (sender, requests) = mpsc::channel(1);
    let address = server(move |mut stream| {
        let (answer, sender) = (answer.clone(), sender.clone());
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let _reset = stream.write_all(&answer).await;
            let _gone = sender.send(String::from_utf8(request).unwrap()).await;
        }
    })
    .await;
    (address, requests)
}

async fn failure_for(answer: &[u8]) -> String {
    let (address, _requests) = answering(answer.to_vec()).await;
    failure(address, Probe::Http(http())).await
}

#[tokio::test]
async fn the_request_is_what_the_configuration_says() {
    let (address, mut requests) = answering(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    success(address, Probe::Http(http())).await;
    let request = requests.recv().await.unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        request,
        format!(
            "GET /healthz?full=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: lb/{version}\r\n\
             connection: close\r\n\r\n"
        )
    );
    success(address, Probe::Http(Http { host: Some("web.test".into()), ..http() })).await;
    assert!(requests.recv().await.unwrap().contains("\r\nhost: web.test\r\n"));
}

#[tokio::test]
async fn the_status_decides() {
    let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(failure_for(busy).await, "status 503, expected 200-399");
    let (address, _requests) = answering(busy.to_vec()).await;
    let some = Http { expect_status: vec![200..=204, 418..=418], ..http() };
    assert_eq!(failure(address, Probe::Http(some)).await, "status 503, expected 200-204, 418");
    let all = Http { expect_status: vec![200..=599], ..http() };
    success(address, Probe::Http(all)).await;
}

#[tokio::test]
async fn the_body_is_not_waited_for() {
    let (address, _requests) =
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nbegin".to_vec()).await;
    success(address, Probe::Http(http())).await;
    let mut large = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    large.resize(1_000_000, b'x');
    let (address, _requests) = answering(large).await;
    success(address, Probe::Http(http())).await;
}

#[tokio::test]
async fn what_is_not_http_is_a_failure() {
    let not_http = "answer is not HTTP: ";
    assert!(failure_for(b"SSH-2.0-OpenSSH_9.2\r\n").await.starts_with(not_http));
    let mut endless = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    endless.resize(1_000_000, b'x');
    let reason = failure_for(&endless).await;
    assert_eq!(reason, "answer is not HTTP: message head is too large");
    let reason = failure_for(b"HTTP/1.1 200 OK\r\nx: ").await;
    assert_eq!(reason, "connection closed before an answer");
    assert_eq!(failure_for(b"").await, "connection closed before an answer");
}

#[tokio::test]
async fn nobody_and_nothing_are_failures() {
    assert_eq!(failure(nobody().await, Probe::Http(http())).await, "connection refused");
    assert_eq!(failure_soon(mute().await, Probe::Http(http())).await, "no answer within 50ms");
}

#[tokio::test]
async fn a_request_that_cannot_be_made_says_why() {
    let path = Http { path: "/a b".into(), ..http() };
    let reason = failure(nobody().await, Probe::Http(path)).await;
    assert_eq!(reason, "cannot make the request: invalid uri character");
}

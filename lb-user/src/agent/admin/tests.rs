//! The server over real sockets, with a controller that answers anything.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::*;

fn at(path: impl Into<PathBuf>) -> Admin {
    Admin { socket: path.into(), group: None, http: None }
}

/// Serves in a temporary directory; every call is answered with `answer`.
async fn with_server(
    answer: impl Fn(&Request) -> Reply + Send + 'static,
    test: impl AsyncFnOnce(&Path),
) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/lb.sock");
    let (mut calls, server) = serve(&at(&path)).unwrap();
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let _ = call.reply.send(answer(&call.request));
        }
    });
    test(&path).await;
    drop(server);
    assert!(!path.exists());
}

/// Status and body of an answer.
async fn ask(path: &Path, method: &str, target: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn answers_and_refusals_come_back_as_json() {
    let answer = |request: &Request| match request {
        Request::Status => Ok(serde_json::json!({ "node": "a" })),
        Request::Service(name) => {
            Err(Refused::new(StatusCode::NOT_FOUND, format!("no service `{name}`")).hint("look"))
        }
        other => panic!("{other:?}"),
    };
    with_server(answer, async |path| {
        assert_eq!(ask(path, "GET", "/v1/status", "").await.1["node"], "a");
        let (status, body) = ask(path, "GET", "/v1/services/we%20b", "").await;
        let refusal = serde_json::json!({ "error": "no service `we b`", "hint": "look" });
        assert_eq!((status, body), (404, refusal));
    })
    .await;
}

#[tokio::test]
async fn whatever_is_no_request_is_refused_with_a_hint() {
    with_server(
        |request| panic!("{request:?}"),
        async |path| {
            for (method, target, body, status) in [
                ("GET", "/v2/status", "", 404),
                ("DELETE", "/v1/status", "", 405),
                ("GET", "/v1/flows?limit=many", "", 400),
                ("GET", "/v1/flows?limit=10001", "", 422),
                ("GET", "/v1/flows/count?limit=1", "", 400),
                ("GET", "/v1/services/%ff", "", 400),
                ("PUT", "/v1/firewall/allow", &" ".repeat((1 << 20) + 1), 413),
                ("GET", "/v1/backends?svc=web", "", 400),
                ("PUT", "/v1/firewall/allow", "{", 400),
                ("PUT", "/v1/firewall/allow", r#"{"rule":"tcp/1","allow":true,"x":1}"#, 422),
            ] {
                let (seen, answer) = ask(path, method, target, body).await;
                assert_eq!(seen, status, "{method} {target}: {answer}");
                assert!(answer["hint"].is_string() && answer["error"].is_string(), "{answer}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn the_openapi_document_has_the_paths_that_are_served_and_no_others() {
    with_server(
        |_| Ok(serde_json::json!(null)),
        async |path| {
            let (_, document) = ask(path, "GET", "/v1/openapi.json", "").await;
            let paths = document["paths"].as_object().unwrap();
            let mut methods = 0;
            for (target, item) in paths {
                let target = target.replace(['{', '}'], "");
                for method in item.as_object().unwrap().keys() {
                    let (status, answer) = ask(path, &method.to_uppercase(), &target, "{}").await;
                    assert!(![404, 405].contains(&status), "{method} {target}: {answer}");
                    methods += 1;
                }
            }
            assert_eq!(methods, 27);
            assert!(document["components"]["schemas"]["Refusal"].is_object());
        },
    )
    .await;
}

#[tokio::test]
async fn a_socket_that_a_dead_agent_left_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_calls, _server) = serve(&at(&path)).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(serve(&at(&path)), Err(ListenError::Taken(_))));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(serve(&at(&file)), Err(ListenError::NoSocket(_))));
    assert!(file.exists());
}

#[tokio::test]
async fn nothing_beside_the_socket_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let own = format!(".{}.new", std::process::id());
    let files = [directory.path().join("lb.new"), directory.path().join(own)];
    files.iter().for_each(|file| std::fs::write(file, "precious").unwrap());
    let path = directory.path().join("lb.sock");
    assert!(matches!(serve(&at(&path)), Err(ListenError::NoSocket(_))));
    assert!(files.iter().all(|file| std::fs::read(file).unwrap() == b"precious"));
    std::fs::remove_file(&files[1]).unwrap();
    // What a dead agent with our number left.
    drop(std::os::unix::net::UnixListener::bind(&files[1]).unwrap());
    let (_calls, _server) = serve(&at(&path)).unwrap();
    assert!(files[0].exists() && !files[1].exists());
}

#[tokio::test]
async fn the_socket_gets_its_group_and_an_unknown_one_is_refused_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let own = nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
    let (_calls, server) = serve(&Admin { group: Some(own.name), ..at(&path) }).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().gid(), own.gid.as_raw());
    drop(server);
    let error = serve(&Admin { group: Some("no-such-group".into()), ..at(&path) }).unwrap_err();
    assert!(matches!(&error, ListenError::NoGroup(name) if name == "no-such-group"));
    assert!(error.hint().unwrap().contains("groupadd"));
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_keep_nobody_out() {
    with_server(
        |_| Ok(serde_json::json!({})),
        async |path| {
            let mut idle = Vec::new();
            for _ in 0..connections::CONNECTIONS {
                idle.push(UnixStream::connect(path).await.unwrap());
            }
            assert_eq!(ask(path, "GET", "/v1/status", "").await.0, 200);
            for mut stream in idle {
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asked_once_is_not_kept_for_ever() {
    with_server(
        |_| Ok(serde_json::json!({})),
        async |path| {
            let mut stream = UnixStream::connect(path).await.unwrap();
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_to_its_end_is_not_waited_for() {
    with_server(
        |request| panic!("{request:?}"),
        async |path| {
            let mut stream = UnixStream::connect(path).await.unwrap();
            let head = "PUT /v1/firewall/allow HTTP/1.1\r\nhost: lb\r\ncontent-length: 9\r\n\r\n{";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_call_says_who_asks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let (mut calls, _server) = serve(&at(&path)).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let peer = calls.recv().await.unwrap().peer;
    assert_eq!(peer, Peer::own());
    assert!(peer.is_equal() && Peer { uid: 0 }.is_equal());
    assert!(!Peer { uid: Peer::own().uid + 1 }.is_equal());
}

#[tokio::test]
async fn who_hangs_up_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let (mut calls, _server) = serve(&at(&path)).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: lb\r\n\r\n").await.unwrap();
    let mut call = calls.recv().await.unwrap();
    assert!(!call.reply.is_closed());
    drop(stream);
    call.reply.closed().await;
}

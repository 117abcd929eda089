//! Agents out of reach, answers that are none, outputs that fail.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write},
    os::unix::net::UnixListener,
    thread,
};

use clap::Parser as _;

use super::peer::{Outcome, Peer, lb};
use crate::cli::{
    Cli,
    console::{Console, Looks},
};

/// Out of reach, by an error that says `error`, with a hint that says `hint`.
fn assert_unreached(outcome: &Outcome, error: &str, hint: &str) {
    assert_eq!((outcome.status, outcome.out.as_str()), (2, ""), "{}", outcome.err);
    let (first, second) = outcome.err.split_once('\n').unwrap();
    assert!(first.starts_with("error: ") && first.contains(error), "{first}");
    assert!(second.starts_with("hint: ") && second.contains(hint), "{second}");
}

#[test]
fn without_an_agent_the_hint_asks_for_one() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.sock");
    assert_unreached(&lb(&missing, &["status"]), "No such file", "is the agent running?");
    let left = directory.path().join("left.sock");
    drop(UnixListener::bind(&left).unwrap());
    assert_unreached(&lb(&left, &["status"]), "refused", "is the agent running?");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert_unreached(&lb(&file, &["status"]), "file", "is the agent running?");
}

#[test]
fn what_does_not_speak_http_is_no_agent() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        // Who speaks before he is asked may not be heard at all.
        first.read_exact(&mut [0; 4]).unwrap();
        first.write_all(b"220 mail.example.org ESMTP\r\n\r\n").unwrap();
        drop(listener.accept().unwrap());
        first
    });
    let outcome = lb(&socket, &["status"]);
    assert_unreached(&outcome, "other.sock", "another program answers there");
    assert_unreached(&lb(&socket, &["status"]), "other.sock", "did the agent stop?");
    drop(server.join().unwrap());
}

#[test]
fn an_answer_of_another_version_is_not_guessed_at() {
    for (status, body) in [(200, "[]"), (200, "<html>"), (404, ""), (404, "Not Found"), (204, "")] {
        let peer = Peer::new(&[(status, body)]);
        for json in [&["status"][..], &["status", "--json"]] {
            assert_unreached(&peer.lb(json), "`GET /v1/status`", "own version");
        }
    }
}

/// The status and the messages of a command whose output goes to `out`.
fn written_to(peer: &Peer, words: &[&str], out: &mut dyn Write) -> (u8, String) {
    let mut err = Vec::new();
    let socket = peer.socket().to_str().unwrap();
    let words = ["lb", "--socket", socket].into_iter().chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).unwrap();
    let status = cli.run(Console::new(out, &mut err, Looks::default()));
    (status, String::from_utf8(err).unwrap())
}

#[test]
fn a_full_disk_is_a_failure_and_a_reader_who_left_is_none() {
    let peer = Peer::new(&[(200, r#"{"generation":1,"notes":[]}"#)]);
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("lb.toml");
    fs::write(&config, "[node]\ninterfaces = [\"eth0\"]\n").unwrap();
    let commands = [
        &["reload"][..],
        &["reload", "--json"],
        &["completions", "bash"],
        &["check", config.to_str().unwrap()],
    ];
    for words in commands {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let (status, err) = written_to(&peer, words, &mut full);
        assert_eq!(status, 1, "{words:?}");
        assert!(err.contains("error: cannot write the output: No space left"), "{err}");

        let (reader, mut left) = io::pipe().unwrap();
        drop(reader);
        let (status, err) = written_to(&peer, words, &mut left);
        assert_eq!((status, err.contains("error")), (0, false), "{words:?}: {err}");
    }
}

#[test]
fn a_watcher_who_left_ends_the_watch() {
    let answer = r#"{"services":[],"backends":[],"drops":{},"passed":0,"unrecorded":0,"reset":0}"#;
    let peer = Peer::new(&[(200, answer)]);
    let (reader, mut left) = io::pipe().unwrap();
    drop(reader);
    let watch = ["stats", "--watch", "0.01"];
    assert_eq!(written_to(&peer, &watch, &mut left).0, 0);
}

#[test]
fn on_a_terminal_json_is_spread_over_lines_and_tables_are_coloured() {
    let answer = r#"[{"service":"web","name":"b","address":"10.0.0.1","port":null,"weight":1,"effective_weight":0,"admin":"drain","deadline_s":null,"health":"down","reason":"","zone":null,"group":null,"backup":false,"flows":0,"packets":0,"bytes":0,"latency_us":null}]"#;
    let peer = Peer::new(&[(200, answer)]);
    let on_terminal = |json, colour| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words = ["lb", "--socket", peer.socket().to_str().unwrap(), "backend", "list"];
        let looks = Looks { json, terminal: true, colour };
        let cli = Cli::try_parse_from(words).unwrap();
        assert_eq!(cli.run(Console::new(&mut out, &mut err, looks)), 0);
        String::from_utf8(out).unwrap()
    };
    let table = on_terminal(false, true);
    assert!(table.contains("\u{1b}[33mdrain\u{1b}[0m"), "{table}");
    assert!(table.contains("\u{1b}[31mdown\u{1b}[0m"), "{table}");
    assert!(!on_terminal(false, false).contains('\u{1b}'));
    let json = on_terminal(true, true);
    assert!(json.starts_with("[\n  {\n    \"service\": \"web\",\n    \"name\": \"b\","), "{json}");
}

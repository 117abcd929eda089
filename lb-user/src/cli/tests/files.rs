//! Commands that send or write files.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use super::peer::{Peer, lb};

#[test]
fn a_plan_says_what_changes_and_whom_it_moves() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new.toml");
    fs::write(&file, "[node]\n").unwrap();
    let name = file.to_str().unwrap();
    let answer = json!({
        "changes": ["web: backend web-3 is new"], "edits": ["web/web-1: weight 50"],
        "services": [{"service": "web", "slots": 0.333, "flows_ended": 4, "flows": 120}],
    });
    let peer = Peer::new(&[(200, &answer.to_string())]);
    let outcome = peer.lb(&["plan", name]);
    assert_eq!(
        outcome.out,
        "\
web: backend web-3 is new

SERVICE  SLOTS MOVED  FLOWS ENDED  FLOWS
web           33.3 %            4    120
"
    );
    assert_eq!(outcome.err, "note: an edit goes on overriding the file: web/web-1: weight 50\n");
    let body = json!({"name": name, "text": "[node]\n"});
    assert_eq!(peer.asked(), [("POST /v1/plan".to_owned(), body)]);

    let peer = Peer::new(&[(200, r#"{"changes":[],"edits":[],"services":[]}"#)]);
    let outcome = peer.lb(&["plan", name]);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", "no change\n"));
}

#[test]
fn a_file_is_sent_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new.toml");
    fs::write(&file, "[node]\n").unwrap();
    let name = file.to_str().unwrap();
    let peer = Peer::new(&[(200, r#"{"generation":3,"notes":[]}"#)]);
    let outcome = peer.lb(&["reload", name]);
    assert_eq!(outcome.out, format!("{name}: in force (generation 3)\n"));
    let file = json!({"name": name, "text": "[node]\n"});
    let body = json!({"file": file, "confirm_s": null, "discard_edits": false});
    assert_eq!(peer.asked(), [("POST /v1/reload".to_owned(), body)]);
}

#[test]
fn a_bad_configuration_has_a_status_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new.toml");
    fs::write(&file, "[nod]\n").unwrap();
    let name = file.to_str().unwrap();
    let refusal = r#"{"error":"new.toml: 1 mistake","mistakes":["new.toml:1: nod: unknown key"]}"#;
    for words in [&["plan", name][..], &["reload", name], &["reload"]] {
        let outcome = Peer::new(&[(422, refusal)]).lb(words);
        assert_eq!((outcome.status, outcome.out.as_str()), (64, ""));
        assert_eq!(outcome.err, "new.toml:1: nod: unknown key\nerror: new.toml: 1 mistake\n");
        assert_eq!(Peer::new(&[(409, refusal)]).lb(words).status, 1);
    }
}

#[test]
fn a_file_that_is_none_is_not_sent() {
    let directory = tempfile::tempdir().unwrap();
    let latin = directory.path().join("latin.toml");
    fs::write(&latin, b"[node]\nname = \"\xe9\"\n").unwrap();
    let missing = directory.path().join("missing.toml");
    let cases = [
        (
            latin.as_path(),
            "line 2 is not UTF-8",
            "hint: is it a configuration? then save it in UTF-8",
        ),
        (&missing, "No such file", "hint: is the path right?"),
        (directory.path(), "not a regular file", "hint: name a configuration file"),
    ];
    let peer = Peer::new(&[(200, "{}")]);
    for (file, error, hint) in cases {
        for command in ["plan", "reload", "check"] {
            let outcome = peer.lb(&[command, file.to_str().unwrap()]);
            assert_eq!(outcome.status, 64);
            assert!(outcome.err.contains(error) && outcome.err.contains(hint), "{}", outcome.err);
        }
    }
    assert_eq!(peer.asked(), []);
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = lb("/nowhere".as_ref(), &["completions", shell]);
        assert_eq!(outcome.status, 0);
        assert!(["undeny", "discard-edits"].iter().all(|word| outcome.out.contains(word)));
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("share/man1");
    let outcome = lb("/nowhere".as_ref(), &["man", dir.to_str().unwrap()]);
    assert_eq!(outcome.out, format!("{}: manual pages written\n", dir.display()));
    for page in ["lb.1", "lb-agent.1", "lb-backend-drain.1", "lb-reload.1"] {
        assert!(dir.join(page).is_file(), "{page}");
    }
    let under_a_file = dir.join("lb.1/man1");
    let outcome = lb("/nowhere".as_ref(), &["man", under_a_file.to_str().unwrap()]);
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
}

#[test]
fn a_key_is_made_for_its_owner_alone_and_never_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pair.key");
    let words = ["ha", "keygen", file.to_str().unwrap()];
    let name = file.display();
    let outcome = lb("/nowhere".as_ref(), &words);
    assert_eq!((outcome.status, outcome.out), (0, format!("{name}: key written\n")));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(key.trim_end().len(), 64);

    let again = lb("/nowhere".as_ref(), &words);
    assert_eq!((again.status, again.out.as_str()), (1, ""));
    assert!(
        again.err.starts_with(&format!("error: `{name}` cannot be written: ")),
        "{}",
        again.err
    );
    assert!(again.err.contains("hint: a key is never written over"), "{}", again.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), key);

    let printed = lb("/nowhere".as_ref(), &["ha", "keygen"]);
    assert_eq!((printed.status, printed.out.len(), printed.err.as_str()), (0, key.len(), ""));
    assert_ne!(printed.out, key);
}

#[test]
fn a_key_is_told_in_json_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pair.key");
    let json = |words: &[&str]| {
        let outcome = lb("/nowhere".as_ref(), &[&["--json", "ha", "keygen"], words].concat());
        assert_eq!((outcome.status, outcome.err.as_str()), (0, ""));
        serde_json::from_str::<serde_json::Value>(&outcome.out).unwrap()
    };
    let name = file.to_str().unwrap();
    assert_eq!(json(&[name]), serde_json::json!({ "key_file": name }));
    assert_eq!(json(&[])["key"].as_str().map(str::len), Some(64));
}

#[test]
fn a_key_has_a_directory_to_be_in() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path().join("none");
    let file = parent.join("pair.key");
    let outcome = lb("/nowhere".as_ref(), &["ha", "keygen", file.to_str().unwrap()]);
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
    let hint = format!("hint: make its directory first: `mkdir -p {}`", parent.display());
    assert!(outcome.err.contains(&hint), "{}", outcome.err);
}

#[test]
fn a_key_is_replaced_in_two_steps() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pair.key");
    let name = file.to_str().unwrap();
    let keygen = |words: &[&str]| lb("/nowhere".as_ref(), &[&["ha", "keygen"], words].concat());
    keygen(&[name]);
    let rotated = keygen(&["--rotate", name]);
    let next = "to the peer, then `lb reload` on both nodes\n";
    assert!(rotated.status == 0 && rotated.out.ends_with(next), "{rotated:?}");
    let two = fs::read_to_string(&file).unwrap();
    assert_eq!(two.lines().count(), 3);

    let again = keygen(&["--rotate", name]);
    assert_eq!((again.status, again.out.as_str()), (1, ""));
    assert!(again.err.contains("holds two keys already"), "{}", again.err);
    assert!(again.err.contains("hint: `lb ha keygen --retire"), "{}", again.err);

    let retired = keygen(&["--json", "--retire", name]);
    let retired: serde_json::Value = serde_json::from_str(&retired.out).unwrap();
    let newest = retired["newest"].as_str().unwrap();
    assert!(rotated.out.contains(&format!("key {newest} written, before ")), "{}", rotated.out);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().next(), two.lines().next());
}

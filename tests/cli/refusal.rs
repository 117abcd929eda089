//! What is refused: the exit status, the message, the hint; and nothing changes.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use lb_tests::harness::{Lab, Output, Result, finish, lb_binary};

use super::{PATIENCE, WEB, web};

/// A user that owns nothing.
const NOBODY: &str = "65534";

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() -> Result<()> {
    let lab = Lab::new(2)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let before = (lab.generation()?, lab.json(&["service", "show", WEB])?["config"].clone());
    // Exit status, command, what the message says, whether it has a hint.
    let cases: [(i32, &[&str], &str); 16] = [
        (1, &["service", "show", "shop"], "no service `shop`"),
        (1, &["backend", "list", "shop"], "no service `shop`"),
        (1, &["flow", "list", "--service", "shop"], "no service `shop`"),
        (1, &["service", "remove", "shop"], "no service `shop`"),
        (1, &["service", "set", "shop", "--min-up", "1"], "no service `shop`"),
        (1, &["service", "remove", "nat-tcp-v4-10-81"], "did you mean `nat-tcp-v4-10-80`?"),
        (1, &["backend", "drain", WEB, "b9"], "has no backend `b9`"),
        (1, &["backend", "set", WEB, "b9", "--weight", "1"], "has no backend `b9`"),
        (1, &["backend", "remove", WEB, "b9"], "has no backend `b9`"),
        (1, &["backend", "add", WEB, "b1", "10.2.0.13"], "has a backend `b1` already"),
        (1, &["backend", "add", WEB, "b3", "fd00:2::11"], "address"),
        (1, &["service", "set", WEB, "health.rise=1000", "colour=red"], "colour"),
        (1, &["firewall", "disallow", "tcp/22"], "`tcp/22` is not allowed"),
        (1, &["firewall", "undeny", "192.0.2.1"], "`192.0.2.1/32` is not denied"),
        (1, &["reload", "--confirmed"], "no reload waits"),
        (2, &["backend", "set", WEB, "b1"], "nothing to set"),
    ];
    for (status, words, message) in cases {
        let says = lab.refused(status, words)?;
        assert!(says.contains(message), "{words:?}: {says}");
    }
    let exists = [
        "service",
        "add",
        WEB,
        "--vip",
        "203.0.113.11",
        "--port",
        "80",
        "--protocol",
        "tcp",
        "--mode",
        "nat",
    ];
    assert!(lab.refused(1, &exists)?.contains("exists already"));
    // Every mistake is named in one go.
    let says = lab.refused(1, &["service", "set", WEB, "health.rise=1000", "colour=red"])?;
    assert!(says.contains("health.rise") && says.contains("colour"), "{says}");
    let after = (lab.generation()?, lab.json(&["service", "show", WEB])?["config"].clone());
    assert_eq!(before, after);
    Ok(())
}

#[test]
fn what_is_unknown_comes_with_a_hint() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let cases: [&[&str]; 8] = [
        &["service", "show", "shop"],
        &["service", "remove", "shop"],
        &["service", "set", "shop", "--min-up", "1"],
        &["backend", "add", "shop", "b1", "10.2.0.13"],
        &["backend", "drain", WEB, "other"],
        &["backend", "add", WEB, "b1", "10.2.0.13"],
        &["firewall", "disallow", "tcp/22"],
        &["firewall", "undeny", "192.0.2.1"],
    ];
    for words in cases {
        let says = lab.refused(1, words)?;
        assert!(says.lines().any(|line| line.starts_with("hint: ")), "{words:?}: {says}");
    }
    Ok(())
}

#[test]
fn without_an_agent_every_command_says_where_it_looked() -> Result<()> {
    let lab = Lab::new(0)?;
    let commands: [&[&str]; 6] = [
        &["status"],
        &["stats"],
        &["service", "list"],
        &["backend", "drain", WEB, "b1"],
        &["firewall", "list"],
        &["flow", "count"],
    ];
    let socket = lab.socket().display().to_string();
    for words in commands {
        let says = lab.refused(2, words)?;
        assert!(says.contains(&socket) && says.contains("hint: is the agent running?"), "{says}");
    }
    Ok(())
}

#[test]
fn others_may_not_use_the_socket() -> Result<()> {
    let lab = Lab::new(0)?;
    let _agent = lab.start_agent(&lab.config([]))?;
    // Somewhere where everybody may run it.
    let binary = lab.path("lb");
    fs::copy(lb_binary(), &binary).unwrap();
    let as_nobody = || -> Result<Output> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&binary).arg("--socket").arg(lab.socket()).arg("status");
        finish(&mut command, PATIENCE)
    };
    let output = as_nobody()?;
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("hint: run it as root"), "{}", output.stderr);
    // A mode that somebody widened lets nobody in either.
    fs::set_permissions(lab.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let output = as_nobody()?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("may not use the admin socket"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: run it as root"), "{}", output.stderr);
    Ok(())
}

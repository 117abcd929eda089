//! What is refused: the exit status, the message, the hint; and nothing changes.

use lb_tests::harness::{Config, Lab, Result};

use super::{WEB, web};

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
fn a_file_that_asks_for_what_is_not_there_is_a_bad_configuration() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = web(&lab);
    let _agent = lab.start_agent(&config)?;
    let generation = lab.generation()?;
    let mut other = config.clone();
    other.interfaces.push("l9".into());
    lab.write(&other)?;
    assert!(lab.refused(64, &["reload"])?.contains("`l9` does not exist"));
    let other = Config { socket: lab.path("other.sock"), ..config };
    lab.write(&other)?;
    assert!(lab.refused(64, &["reload"])?.contains("`admin.socket` cannot change"));
    assert_eq!(lab.generation()?, generation);
    Ok(())
}

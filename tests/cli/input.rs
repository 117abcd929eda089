//! Bad input, and commands that need no agent.

use std::{fs, time::Duration};

use lb_tests::harness::{Lab, Output, Result, finish, run, tool};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exit status of a bad configuration.
const BAD_CONFIGURATION: i32 = 64;
/// Two mistakes: a port that is none and a key that is none.
pub(super) const BAD: &str = "
[node]
interfaces = [\"l0\"]
colour = \"red\"

[[service]]
name = \"web\"
vip = \"203.0.113.10\"
protocol = \"tcp\"
port = 70000
mode = \"nat\"
";

fn lb(lab: &Lab, words: &[&str]) -> Result<Output> {
    finish(lab.lb().args(words), PATIENCE)
}

#[test]
fn check_accepts_a_good_file_and_names_every_mistake_of_a_bad_one() -> Result<()> {
    let lab = Lab::new(0)?;
    let file = lab.write(&lab.config([]))?;
    let name = file.display().to_string();
    assert_eq!(lb(&lab, &["check", &name])?.status.code(), Some(0));

    fs::write(&file, BAD).unwrap();
    let output = lb(&lab, &["check", &name])?;
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION));
    let text = output.stdout + &output.stderr;
    assert!(["colour", "70000"].iter().all(|mistake| text.contains(mistake)), "{text}");
    Ok(())
}

#[test]
fn an_agent_with_a_bad_file_attaches_nothing() -> Result<()> {
    let lab = Lab::new(0)?;
    let file = lab.write(&lab.config([]))?;
    fs::write(&file, BAD).unwrap();
    let output = lb(&lab, &["agent", "--config", &file.display().to_string()])?;
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION));
    assert!(lab.pins().names().is_empty());
    Ok(())
}

#[test]
fn an_interface_that_does_not_exist_is_named() -> Result<()> {
    let lab = Lab::new(0)?;
    let mut config = lab.config([]);
    config.interfaces = vec!["nowhere".into()];
    let file = lab.write(&config)?;
    let output = lb(&lab, &["agent", "--config", &file.display().to_string()])?;
    assert!(!output.status.success());
    assert!(output.stderr.contains("nowhere"), "{}", output.stderr);
    assert!(lab.pins().names().is_empty());
    Ok(())
}

#[test]
fn an_interface_without_ethernet_is_refused() -> Result<()> {
    let lab = Lab::new(0)?;
    let mut config = lab.config([]);
    config.interfaces = vec!["l0".into(), "t0".into()];
    lab.balancer.ip("tuntap add t0 mode tun")?;
    let file = lab.write(&config)?;
    let output = lb(&lab, &["agent", "--config", &file.display().to_string()])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.contains("`t0` carries no Ethernet"), "{}", output.stderr);
    assert!(lab.pins().names().is_empty());
    Ok(())
}

#[test]
fn detach_leaves_others_pins_alone() -> Result<()> {
    let lab = Lab::new(0)?;
    let dir = lab.config([]).pin_dir;
    fs::create_dir_all(&dir).unwrap();
    let pin = dir.join("CONFIG").display().to_string();
    let map = ["map", "create", &pin, "type", "hash", "key", "4", "value", "4", "entries", "1"];
    run(tool("bpftool").args(map).args(["name", "CONFIG"]), PATIENCE)?;
    let dir = dir.display().to_string();
    for dir in [dir.as_str(), "/sys/fs/bpf"] {
        let output = lb(&lab, &["detach", "--pin-dir", dir])?;
        assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
        assert!(output.stderr.contains("expected a directory of"), "{}", output.stderr);
    }
    assert_eq!(lab.pins().names(), ["CONFIG"]);
    Ok(())
}

#[test]
fn wrong_usage_is_told_apart() -> Result<()> {
    let lab = Lab::new(0)?;
    assert_eq!(lb(&lab, &["frobnicate"])?.status.code(), Some(2));
    Ok(())
}

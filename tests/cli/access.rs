//! Who may use the admin socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
};

use lb_tests::harness::{Config, Lab, Output, Result, finish, lb_binary};

use super::{PATIENCE, WEB, other, web};

/// A user that owns nothing, and his group.
const NOBODY: u32 = 65534;
/// A group that every Debian has, and its number.
const DAEMON: (&str, u32) = ("daemon", 1);
/// A group that nobody has given a name.
const NAMELESS: u32 = 54_321;

/// `lb`, where everybody may run it.
fn binary(lab: &Lab) -> PathBuf {
    let binary = lab.path("lb");
    fs::copy(lb_binary(), &binary).unwrap();
    binary
}

/// A command of `lb` by a user of these groups.
fn ask(lab: &Lab, group: u32, supplementary: &[u32], words: &[&str]) -> Result<Output> {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={group}"));
    let groups: Vec<_> = supplementary.iter().map(u32::to_string).collect();
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.arg(format!("--groups={}", groups.join(",")));
    }
    command.arg(lab.path("lb")).arg("--socket").arg(lab.socket()).args(words);
    finish(&mut command, PATIENCE)
}

/// `lb status` by a user of these groups.
fn status(lab: &Lab, group: u32, supplementary: &[u32]) -> Result<Output> {
    ask(lab, group, supplementary, &["status"])
}

#[test]
fn others_may_not_use_the_socket() -> Result<()> {
    let lab = Lab::new(0)?;
    let _agent = lab.start_agent(&lab.config([]))?;
    binary(&lab);
    let output = status(&lab, NOBODY, &[])?;
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("hint: run it as root"), "{}", output.stderr);
    // A mode that somebody widened lets nobody in either.
    fs::set_permissions(lab.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let output = status(&lab, NOBODY, &[DAEMON.1, NAMELESS])?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("may not use the admin socket"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: run it as root"), "{}", output.stderr);
    Ok(())
}

#[test]
fn members_of_the_sockets_group_may_use_it() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = Config { group: Some(DAEMON.0.into()), ..lab.config([]) };
    let _agent = lab.start_agent(&config)?;
    binary(&lab);
    assert_eq!(fs::metadata(lab.socket()).unwrap().gid(), DAEMON.1);
    let may = |group, supplementary: &[u32]| -> Result<bool> {
        Ok(status(&lab, group, supplementary)?.status.success())
    };
    // As the first of his groups, as one of more than the kernel is first asked for.
    assert!(may(DAEMON.1, &[])?);
    let many: Vec<u32> = (1000..1100).chain([DAEMON.1]).collect();
    assert!(may(NOBODY, &many)?);
    assert!(!may(NOBODY, &[NAMELESS])?);
    // Somebody gives the socket to another group while the agent runs.
    chown(lab.socket(), None, Some(NAMELESS)).unwrap();
    assert!(may(NOBODY, &[NAMELESS])?);
    assert!(!may(DAEMON.1, &[])?);
    Ok(())
}

#[test]
fn members_of_the_sockets_group_bring_no_programs_in() -> Result<()> {
    const KNOWN: [&str; 2] = ["health.kind=exec", "health.command=[\"/bin/true\"]"];
    const OTHER: [&str; 2] = ["health.kind=exec", "health.command=[\"/bin/false\"]"];
    let lab = Lab::new(1)?;
    let config = Config { group: Some(DAEMON.0.into()), ..web(&lab) };
    let _agent = lab.start_agent(&config)?;
    binary(&lab);
    let member = |words: &[&str]| ask(&lab, DAEMON.1, &[], words);
    let set = |keys: [&'static str; 2]| ["service", "set", WEB, keys[0], keys[1]];
    let expect_refusal = |words: &[&str], program: &str| -> Result<()> {
        let before = lab.generation()?;
        let output = member(words)?;
        assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
        assert!(output.stderr.contains(program), "{}", output.stderr);
        assert!(output.stderr.contains("hint: name it in the agent's own"), "{}", output.stderr);
        assert_eq!(lab.generation()?, before);
        Ok(())
    };
    expect_refusal(&set(KNOWN), "`/bin/true`")?;
    // What root brought in, others may use, and edit the service that has it.
    lab.done(&set(KNOWN))?;
    for words in [&set(KNOWN)[..], &["backend", "set", WEB, "b1", "--weight", "7"]] {
        let output = member(words)?;
        assert!(output.status.success(), "{}", output.stderr);
    }
    expect_refusal(&set(OTHER), "`/bin/false`")?;

    let health = "[service.health]\nkind = \"exec\"\ncommand = [\"/bin/false\"]";
    let service = web(&lab).services.remove(0).lines(health);
    let config = Config { services: vec![service], ..config };
    let given = other(&lab, &config).display().to_string();
    let reload = ["reload", "--discard-edits", &given];
    expect_refusal(&reload, "`/bin/false`")?;
    // The agent's own file is root's to write.
    lab.write(&config)?;
    let output = member(&["reload", "--discard-edits"])?;
    assert!(output.status.success(), "{}", output.stderr);
    Ok(())
}

#[test]
fn a_group_that_does_not_exist_is_refused_with_a_hint() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = Config { group: Some("no-such-group".into()), ..lab.config([]) };
    let file = lab.write(&config)?;
    let output = finish(lab.lb().arg("agent").arg("--config").arg(file), PATIENCE)?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("no group `no-such-group`"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: `groupadd"), "{}", output.stderr);
    assert!(!lab.socket().exists());
    Ok(())
}

//! Running other programs from the workspace's root.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Root of the workspace.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// `PATH` with cargo's programs and the system's: a minimal environment, or
/// that of sudo, may lack either.
pub(crate) fn path() -> OsString {
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let mut path = OsString::new();
    if let Some(cargo) = cargo {
        path.push(cargo.join("bin"));
        path.push(":");
    }
    if let Some(inherited) = env::var_os("PATH") {
        path.push(inherited);
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// A command, run in the workspace's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", path());
    command
}

/// A command of cargo's.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut cargo = command("cargo");
    cargo.args(words);
    cargo
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Words to put before a command that needs root: none for root, else sudo,
/// which is told to keep `PATH`, `HOME` and the variables given.
pub(crate) fn as_root(keep: &[(&str, &OsStr)]) -> anyhow::Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if !has("sudo") {
        bail!("this needs root: run it as root, or install sudo");
    }
    let variable = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        word
    };
    let mut words = vec!["sudo".into(), "env".into(), variable("PATH", &path())];
    if let Some(home) = env::var_os("HOME") {
        words.push(variable("HOME", &home));
    }
    words.extend(keep.iter().map(|(name, value)| variable(name, value)));
    Ok(words)
}

/// A command that runs as root.
pub(crate) fn root_command(program: &str) -> anyhow::Result<Command> {
    let mut words = as_root(&[])?;
    words.push(program.into());
    let mut command = command(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}

/// Whether a program can be found.
pub(crate) fn has(program: &str) -> bool {
    env::split_paths(&path()).any(|dir| dir.join(program).is_file())
}

/// Says what is run, runs it, and wants success.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// What a command prints, if it succeeds.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

//! Every test there is.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{
    lint,
    setup::{Purpose, setup},
    shell::{self, cargo},
};

/// Tests of the suite in which no time passes that matters: two at once.
const TIMELESS: [&str; 3] = ["packet::", "cli::", "sys::"];

/// Sets up, builds, lints, and runs the tests; those that need root last.
pub(crate) fn test() -> anyhow::Result<()> {
    let world = setup(Purpose::Test)?;
    lint::lint(world)?;
    let mut unit = cargo(&["test"]);
    shell::run(unit.args(lint::HOST_CRATES).args(["--exclude", "lb-tests"]))?;

    // By the profile of the tests: a second one takes as long as half of them. The
    // packet path is built for release by either.
    let binary = build_for(&[], "debug")?;
    suite(&binary, "2", &TIMELESS)?;
    // Labs share two CPUs with what they measure: one at a time.
    let others = TIMELESS.map(|group| ["--skip", group]);
    suite(&binary, "1", others.as_flattened())
}

/// Runs the tests of the suite that `words` choose, so many at a time.
fn suite(binary: &Path, threads: &str, words: &[&str]) -> anyhow::Result<()> {
    let mut suite = cargo(&["test", "--package", "lb-tests", "--lib", "--test", "suite"]);
    let variables = [("LB_BIN", binary.as_os_str())];
    suite.envs(variables);
    if let Some(runner) = runner(&variables)? {
        suite.arg("--config").arg(runner);
    }
    shell::run(suite.args(["--", "--test-threads", threads]).args(words))
}

/// Builds the balancer for use and says where its binary is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    build_for(&["--release"], "release")
}

fn build_for(profile: &[&str], directory: &str) -> anyhow::Result<PathBuf> {
    shell::run(cargo(&["build", "--package", "lb-user"]).args(profile))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(shell::root().join(target).join(directory).join("lb"))
}

/// A setting that makes cargo run test binaries as root, if we are not.
fn runner(variables: &[(&str, &OsStr)]) -> anyhow::Result<Option<String>> {
    let words = shell::as_root(variables)?;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    Ok((!words.is_empty()).then(|| format!("target.\"cfg(all())\".runner = {words:?}")))
}

//! Every test there is.

use std::{env, ffi::OsStr, path::PathBuf};

use crate::{
    lint,
    setup::{Purpose, setup},
    shell::{self, cargo},
};

/// Sets up, builds, lints, and runs the tests; those that need root last.
pub(crate) fn test() -> anyhow::Result<()> {
    let world = setup(Purpose::Test)?;
    let binary = build()?;
    lint::lint(world)?;
    let mut unit = cargo(&["test"]);
    shell::run(unit.args(lint::HOST_CRATES).args(["--exclude", "lb-tests"]))?;

    // Labs share two CPUs with what they measure: one at a time.
    let targets = ["--lib", "--test", "suite"];
    let mut suite = cargo(&["test", "--package", "lb-tests"]);
    suite.args(targets);
    let variables = [("LB_BIN", binary.as_os_str())];
    suite.envs(variables);
    if let Some(runner) = runner(&variables)? {
        suite.arg("--config").arg(runner);
    }
    shell::run(suite.args(["--", "--test-threads", "1"]))
}

/// Builds the balancer and says where its binary is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    shell::run(&mut cargo(&["build", "--release", "--package", "lb-user"]))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(shell::root().join(target).join("release/lb"))
}

/// A setting that makes cargo run test binaries as root, if we are not.
fn runner(variables: &[(&str, &OsStr)]) -> anyhow::Result<Option<String>> {
    let words = shell::as_root(variables)?;
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    Ok((!words.is_empty()).then(|| format!("target.\"cfg(all())\".runner = {words:?}")))
}

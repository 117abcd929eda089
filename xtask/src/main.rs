//! What a developer runs: `cargo xtask run`, `test`, `lint`, `setup`.
//!
//! Each command sets up what it needs first, works from any directory of the
//! repository, and cleans up after itself and after a run that could not.

mod bench;
mod lint;
mod run;
mod setup;
mod shell;
mod test;

use std::{env, ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, runs and tests the load balancer")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this machine
    Setup,
    /// Show the balancer at work in a lab, or attach it to real interfaces
    Run(run::Arguments),
    /// Set up, build, lint and run every test; nothing is skipped
    Test,
    /// Measure packet path and agent beside what they are compared with
    Bench(bench::Arguments),
    /// Check formatting, lints and documentation
    Lint,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(words(env::args_os()));
    match execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::setup(setup::Purpose::Test).map(drop),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test => test::test(),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Lint => {
            let world = setup::setup(setup::Purpose::Build)?;
            lint::lint(world)
        }
    }
}

/// The command line without the `--` of `cargo xtask run -- --config FILE`:
/// many are used to put one before the arguments of what cargo runs.
fn words(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.collect();
    if words.get(2).is_some_and(|word| word == "--") {
        words.remove(2);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_may_follow_two_dashes() {
        for line in ["xtask run --config FILE", "xtask run -- --config FILE"] {
            let words = words(line.split(' ').map(OsString::from));
            assert!(matches!(
                Arguments::parse_from(words).command,
                Command::Run(arguments) if arguments.config.is_some()
            ));
        }
    }
}

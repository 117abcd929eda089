//! The command line: parses arguments, calls what does the work, and turns
//! its outcome into text and an exit status. One file per command.

mod agent;
mod check;
mod detach;

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config,
    sys::capability::{self, Capability, CapabilityError},
};

/// lb balances TCP and UDP connections over servers, in the network card's
/// driver (XDP), before the kernel's network stack sees a packet.
#[derive(Debug, Parser)]
#[command(name = "lb", version, propagate_version = false)]
#[command(about = "A layer-4 load balancer")]
#[command(after_help = "Exit status: 0 done, 1 refused, 2 wrong usage, 64 bad configuration.")]
#[command(after_long_help = "\
Examples:
  lb check /etc/lb/lb.toml            find every mistake, touch nothing
  lb agent --config /etc/lb/lb.toml   balance; stopping it does not stop the traffic
  lb detach                           stop the traffic

Exit status:
  0   done
  1   refused; the message says why, the hint what to do, nothing was changed
  2   wrong usage
  64  bad configuration")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Agent),
    Check(check::Check),
    Detach(detach::Detach),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Agent(agent) => agent.run(),
        Command::Check(check) => check.run(),
        Command::Detach(detach) => detach.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Standard error may be closed: then nobody is there to be told.
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::from(failure.status as u8)
        }
    }
}

/// Exit statuses; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Refused = 1,
    Usage = 2,
    BadConfiguration = 64,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
struct Failure {
    status: Status,
    /// What stands above the error: the mistakes in a configuration.
    details: Option<String>,
    error: String,
    hint: Option<String>,
}

impl Failure {
    fn new(status: Status, error: impl fmt::Display) -> Self {
        Self { status, details: None, error: error.to_string(), hint: None }
    }

    fn hint(self, hint: impl fmt::Display) -> Self {
        Self { hint: Some(hint.to_string()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.details.iter().try_for_each(|details| writeln!(f, "{details}"))?;
        write!(f, "error: {}", self.error)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

impl From<config::Errors> for Failure {
    fn from(errors: config::Errors) -> Self {
        match &errors {
            config::Errors::Unreadable { .. } => Self::new(Status::BadConfiguration, errors)
                .hint("is the path right, and may this user read it?"),
            config::Errors::Mistakes { file, mistakes } => Self {
                details: Some(errors.to_string()),
                ..Self::new(
                    Status::BadConfiguration,
                    format!("{file}: {}, nothing was changed", count(mistakes.len(), "mistake")),
                )
            },
        }
    }
}

impl From<CapabilityError> for Failure {
    fn from(error: CapabilityError) -> Self {
        let missing = matches!(error, CapabilityError::Missing(_));
        let failure = Self::new(Status::Refused, error);
        if missing {
            failure.hint(format!("run it as root, or with {}", needed()))
        } else {
            failure.hint("mount /proc, which the agent reads")
        }
    }
}

/// Refuses to go on without what the data plane needs.
fn require_capabilities() -> Result<(), Failure> {
    Ok(capability::require(&Capability::ALL)?)
}

fn needed() -> String {
    Capability::ALL.map(|capability| capability.to_string()).join(", ")
}

/// An error and its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Writes a line to standard output; a reader who has gone is no failure.
fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a warning to standard error.
fn warn(warning: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "warning: {warning}");
}

/// "1 mistake", "2 mistakes".
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        let cases: [(&[&str], ErrorKind); 7] = [
            (&["lb"], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            (&["lb", "agent"], ErrorKind::MissingRequiredArgument),
            (&["lb", "agent", "--config", "f", "--interface", "a/b"], ErrorKind::ValueValidation),
            (&["lb", "agent", "--config", "f", "--packet-log", "debug"], ErrorKind::InvalidValue),
            (&["lb", "check"], ErrorKind::MissingRequiredArgument),
            (&["lb", "detach", "--config", "f", "--pin-dir", "d"], ErrorKind::ArgumentConflict),
            (&["lb", "balance"], ErrorKind::InvalidSubcommand),
        ];
        for (arguments, kind) in cases {
            let error = Cli::try_parse_from(arguments).expect_err("wrong usage");
            assert_eq!((error.kind(), error.exit_code()), (kind, Status::Usage as i32));
        }
    }

    #[test]
    fn failure_is_an_error_line_and_a_hint_line() {
        let missing = CapabilityError::Missing(vec![Capability::Bpf, Capability::Perfmon]);
        let failure = Failure::from(missing);
        assert_eq!(failure.status, Status::Refused);
        assert_eq!(
            failure.to_string(),
            "error: missing CAP_BPF, CAP_PERFMON
hint: run it as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"
        );
    }

    #[test]
    fn bad_configuration_shows_every_mistake_above_the_error() {
        let mistake = config::Mistake {
            line: Some(3),
            path: "node.flows".to_owned(),
            value: Some("0".to_owned()),
            rule: "must be more".to_owned(),
            hint: None,
        };
        let errors =
            config::Errors::Mistakes { file: "lb.toml".to_owned(), mistakes: vec![mistake; 2] };
        let failure = Failure::from(errors);
        assert_eq!(failure.status, Status::BadConfiguration);
        assert_eq!(
            failure.to_string(),
            "lb.toml:3: node.flows: 0: must be more
lb.toml:3: node.flows: 0: must be more
error: lb.toml: 2 mistakes, nothing was changed"
        );
    }
}

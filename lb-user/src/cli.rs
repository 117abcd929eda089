//! The command line: parses arguments, calls what does the work, and turns
//! its outcome into text and an exit status. One file per command.

mod agent;
mod backend;
mod check;
mod client;
mod completions;
mod console;
mod decap;
mod detach;
mod explain;
mod firewall;
mod flow;
mod ha;
mod keys;
mod man;
mod plan;
mod reload;
mod service;
mod stats;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod units;
mod witness;

use std::{fmt, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use self::{
    client::{Client, Request},
    console::{Console, Looks},
};
use crate::{
    config,
    sys::capability::{self, Capability, CapabilityError},
};

/// lb balances TCP and UDP connections over servers, in the network card's
/// driver (XDP), before the kernel's network stack sees a packet.
#[derive(Debug, Parser)]
#[command(name = "lb", version, propagate_version = false)]
#[command(about = "A layer-4 load balancer")]
#[command(after_help = "\
Exit status: 0 done, 1 refused, 2 wrong usage or agent out of reach, 64 bad configuration.")]
#[command(after_long_help = "\
Examples:
  lb check /etc/lb/lb.toml            find every mistake, touch nothing
  lb agent --config /etc/lb/lb.toml   balance; stopping it does not stop the traffic
  lb backend list                     who serves, and how they are
  lb backend drain web web-1          no new flows for this one
  lb plan new.toml                    what would change, and whom it would move
  lb reload new.toml --confirm 30s    apply it; it is taken back unless confirmed
  lb detach                           stop the traffic

Environment:
  LB_SOCKET  the agent's socket, as `--socket`
  NO_COLOR   no colours, as `--no-color`

Exit status:
  0   done
  1   refused; the message says why, the hint what to do, nothing was changed
  2   wrong usage, or the agent is out of reach
  64  bad configuration")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command that asks the agent.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The agent's socket
    #[arg(long, global = true, env = "LB_SOCKET", hide_env = true, value_name = "PATH",
          default_value = config::file::SOCKET)]
    socket: PathBuf,
    /// Print the agent's answers in JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print no colours
    #[arg(long, global = true)]
    no_color: bool,
}

/// The commands: to look, to change, whole files, and what needs no agent.
#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Status),
    Stats(stats::Stats),
    Explain(explain::Explain),
    Service(service::Command),
    Backend(backend::Command),
    Firewall(firewall::Command),
    Flow(flow::Command),
    Ha(ha::Command),
    Plan(plan::Plan),
    Reload(reload::Reload),
    Check(check::Check),
    Agent(agent::Agent),
    Witness(witness::Witness),
    Detach(detach::Detach),
    Decap(decap::Decap),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let status = match Cli::try_parse() {
        Ok(cli) => {
            let looks = Looks::of_process(cli.global.json, cli.global.no_color);
            cli.run(Console::new(&mut out, &mut err, looks))
        }
        Err(usage) => printed(&usage, &mut err),
    };
    ExitCode::from(status)
}

/// Prints help, or what is wrong with the usage, and returns the exit status.
fn printed(usage: &clap::Error, err: &mut impl io::Write) -> u8 {
    match usage.print().map_err(Failure::from) {
        Err(failure) if failure.status != Status::Unread => {
            let _ = writeln!(err, "{failure}");
            failure.status as u8
        }
        _ if usage.use_stderr() => Status::Usage as u8,
        _ => 0,
    }
}

impl Cli {
    /// Runs the command, tells why it failed, and returns its exit status.
    fn run(self, console: Console<'_>) -> u8 {
        let mut lb = Session { client: Client::new(self.global.socket), console };
        let outcome = match self.command {
            Command::Status(status) => status.run(&mut lb),
            Command::Stats(stats) => stats.run(&mut lb),
            Command::Explain(explain) => explain.run(&mut lb),
            Command::Service(service) => service.run(&mut lb),
            Command::Backend(backend) => backend.run(&mut lb),
            Command::Firewall(firewall) => firewall.run(&mut lb),
            Command::Flow(flow) => flow.run(&mut lb),
            Command::Ha(ha) => ha.run(&mut lb),
            Command::Plan(plan) => plan.run(&mut lb),
            Command::Reload(reload) => reload.run(&mut lb),
            Command::Check(check) => check.run(&mut lb.console),
            Command::Agent(agent) => agent.run(self.global.no_color),
            Command::Witness(witness) => witness.run(self.global.no_color),
            Command::Detach(detach) => detach.run(&mut lb.console),
            Command::Decap(decap) => decap.run(&mut lb.console),
            Command::Completions(completions) => completions.run(&mut lb.console),
            Command::Man(man) => man.run(&mut lb.console),
        };
        match outcome {
            Ok(()) => 0,
            Err(failure) => {
                if failure.status != Status::Unread {
                    lb.console.tell(&failure);
                }
                failure.status as u8
            }
        }
    }
}

/// What commands work with: the agent, and where their words go.
struct Session<'a> {
    client: Client,
    console: Console<'a>,
}

impl Session<'_> {
    /// Has the agent change something, and says what is in force now.
    fn change(&mut self, request: Request, outcome: impl fmt::Display) -> Result<(), Failure> {
        let answer = self.client.send(request)?;
        self.console.done(&answer, outcome)
    }
}

/// Exit statuses; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    /// Who read the output has gone: no failure.
    Unread = 0,
    Refused = 1,
    Usage = 2,
    BadConfiguration = 64,
}

impl Status {
    const OUT_OF_REACH: Self = Self::Usage;
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
            config::Errors::Unreadable { source, .. } => {
                let hint = match source.kind() {
                    io::ErrorKind::NotFound => "is the path right?",
                    io::ErrorKind::PermissionDenied => "may this user read it?",
                    io::ErrorKind::InvalidData => {
                        "is it a configuration? then save it in UTF-8: only names and comments \
                         can have other characters than ASCII"
                    }
                    _ => "name a configuration file, such as `/etc/lb/lb.toml`",
                };
                Self::new(Status::BadConfiguration, errors).hint(hint)
            }
            config::Errors::Mistakes { file, mistakes } => Self {
                details: Some(errors.to_string()),
                ..Self::new(
                    Status::BadConfiguration,
                    format!(
                        "{file}: {}, nothing was changed",
                        count(mistakes.len() as u64, "mistake")
                    ),
                )
            },
        }
    }
}

/// Refuses to go on without these capabilities.
fn require(needed: &[Capability]) -> Result<(), Failure> {
    capability::require(needed).map_err(|error| {
        let missing = matches!(error, CapabilityError::Missing(_));
        let failure = Failure::new(Status::Refused, error);
        if missing {
            let names: Vec<_> = needed.iter().map(Capability::to_string).collect();
            failure.hint(format!("run it as root, or with {}", names.join(", ")))
        } else {
            failure.hint("mount /proc, which the kernel tells capabilities by")
        }
    })
}

/// An error and its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// "1 mistake", "2 mistakes".
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

//! `lb agent`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{Failure, Status, require, with_causes};
use crate::{
    agent::{
        controller::{self, Source},
        log::{self, Format, PacketLog},
    },
    config,
    sys::capability::Capability,
};

/// What every agent needs; a node of a pair needs [`Capability::NetRaw`], too.
const NEEDED: [Capability; 3] = [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon];

/// Attach the balancer and keep it up to date
///
/// Loads the data plane, attaches it to the interfaces, and follows the
/// network until it is told to stop; it stays in the foreground and logs to
/// standard error. A data plane that is there already is adopted with all its
/// flows.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Signals:
  SIGHUP           read the file again: all of it takes effect, or, if
                   anything in it is wrong, nothing
  SIGTERM, SIGINT  exit; the data plane stays and forwards, see `lb detach`

Environment:
  RUST_LOG  what is logged [default: info], as in `RUST_LOG=lb_user=debug`
  NO_COLOR  no colours, as when standard error is no terminal

Privileges:
  CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, with `[ha]` also CAP_NET_RAW; root has
  them")]
pub(super) struct Agent {
    /// The configuration file; `lb check` finds its mistakes
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Interface to attach to, instead of the file's; may be given many times
    #[arg(long, value_name = "NAME", value_parser = interface)]
    interface: Vec<String>,
    /// Forget what was changed by command: begin with the file alone
    #[arg(long)]
    discard_edits: bool,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// How much the data plane itself logs about packets
    ///
    /// For debugging: it costs time on every packet. Off, it costs nothing.
    /// What `trace` adds is logged at that level: see `RUST_LOG`.
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "off")]
    packet_log: Level,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// `--packet-log`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// Nothing
    Off,
    /// Drops, with the interface and the number of the reason
    Info,
    /// Every packet: drops and what else became of it
    Trace,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl From<Level> for PacketLog {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::Off,
            Level::Info => Self::Info,
            Level::Trace => Self::Trace,
        }
    }
}

impl Agent {
    pub(super) fn run(self, colourless: bool) -> Result<(), Failure> {
        let file = config::load(&self.config, &self.interface)?;
        let of_pair = file.model.ha.as_ref().map(|_| Capability::NetRaw);
        require(&NEEDED.into_iter().chain(of_pair).collect::<Vec<_>>())?;
        log::init(self.log_format.into(), colourless).map_err(|error| {
            Failure::new(Status::Usage, error)
                .hint("such as `RUST_LOG=info` or `RUST_LOG=lb_user=debug`")
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Status::Refused, error))?;
        let source = Source {
            path: self.config,
            interfaces: self.interface,
            discard_edits: self.discard_edits,
        };
        let level = PacketLog::from(self.packet_log).number();
        Ok(runtime.block_on(controller::run(file, source, level))?)
    }
}

impl From<controller::Error> for Failure {
    fn from(error: controller::Error) -> Self {
        let failure = Self::new(Status::Refused, with_causes(&error));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The name of an interface on the command line.
pub(super) fn interface(name: &str) -> Result<String, String> {
    config::value::interface_name(name).map_err(|wrong| wrong.rule)?;
    Ok(name.to_owned())
}

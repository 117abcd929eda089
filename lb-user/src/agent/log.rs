//! Where the agent's words go: to standard error, as text or JSON.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    util::{SubscriberInitExt as _, TryInitError},
};

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line, for programs.
    Json,
}

/// How much the data plane's own log channel tells. It costs time on every
/// packet, so it is compiled out by the verifier where it is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketLog {
    /// Nothing, at no cost.
    #[default]
    Off,
    /// Drops.
    Info,
    /// Every verdict.
    Trace,
}

impl PacketLog {
    /// The value of the program's global `AYA_LOG_LEVEL` ([`aya_log::LEVEL`]):
    /// 0 is nothing, else an [`aya_log::Level`].
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Info => aya_log::Level::Info as u8,
            Self::Trace => aya_log::Level::Trace as u8,
        }
    }
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not understood.
    #[error("`RUST_LOG`: {0}")]
    Filter(#[from] ParseError),
    /// The variable is not UTF-8.
    #[error("`RUST_LOG`: must be UTF-8")]
    Encoding,
    /// Something else logs already.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Sets up logging for the whole process. What is logged follows the
/// environment variable `RUST_LOG`, by default everything from `info` up.
/// `colourless`: no colours, not even on a terminal.
///
/// # Errors
/// `RUST_LOG` is not understood, or logging was set up before.
pub fn init(format: Format, colourless: bool) -> Result<(), LogError> {
    let filter = match env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) => EnvFilter::builder().parse(filter)?,
        Err(env::VarError::NotPresent) => EnvFilter::new("info"),
        Err(env::VarError::NotUnicode(_)) => return Err(LogError::Encoding),
    };
    let colour = !colourless
        && io::stderr().is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    match format {
        Format::Text => builder.with_target(false).finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

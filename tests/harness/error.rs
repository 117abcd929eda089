//! What can go wrong in a lab.

use std::{
    error::Error as _,
    fmt::{self, Debug},
    io,
    process::ExitStatus,
    time::Duration,
};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a lab, a server or a client did not do what it was asked.
#[derive(thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program said no.
    #[error("`{command}` ended with {status}:\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// Something took longer than it may.
    #[error("{what}: expected within {limit:?}")]
    TimedOut {
        /// What was waited for, and what was seen instead.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// An answer that cannot be understood.
    #[error("{what}: unexpected `{found}`")]
    Unexpected {
        /// What was asked.
        what: String,
        /// The answer.
        found: String,
    },
    /// A map could not be read.
    #[error("cannot read map `{map}`")]
    Map {
        /// Path of its pin.
        map: String,
        /// aya's answer.
        source: aya::maps::MapError,
    },
}

impl Error {
    /// Makes an error of a system call, to be passed to `map_err`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a failed test shows: the message and its causes, lines unescaped.
impl Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

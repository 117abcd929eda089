//! `lb man`.

use std::{fs, io, path::PathBuf};

use clap::CommandFactory as _;

use super::{Cli, Failure, Status, console::Console};

/// Write manual pages, one for each command
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Directory for the pages, made where it is missing
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let dir = self.dir.display();
        let write = || {
            fs::create_dir_all(&self.dir)?;
            clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &self.dir)
        };
        write().map_err(|error: io::Error| {
            Failure::new(Status::Refused, format!("cannot write manual pages to `{dir}`: {error}"))
        })?;
        console.say(format_args!("{dir}: manual pages written"))
    }
}

//! `lb ha`.

use std::path::PathBuf;

use super::{Failure, Session, Status};
use crate::agent::ha::key::{self, KeyError};

/// Operate a pair of balancers
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb ha keygen /etc/lb/pair.key")]
pub(super) struct Command {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Make the key of a pair, the same for both nodes
    ///
    /// The key is 32 random bytes, as hexadecimal digits in one line. Make it on
    /// one node, copy it to the other, and name it in `ha.key_file`: who can read
    /// it can speak for a node. Needs no agent.
    Keygen {
        /// New file, for its owner only [default: standard output]
        file: Option<PathBuf>,
    },
}

impl Command {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        match self.order {
            Order::Keygen { file: None } => lb.console.write(key::generate()?.as_bytes()),
            Order::Keygen { file: Some(file) } => {
                key::create(&file)?;
                lb.console.say(format_args!("{}: key written", file.display()))
            }
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let failure = Self::new(Status::Refused, &error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

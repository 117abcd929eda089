//! `lb witness`.

use std::{net::SocketAddr, path::PathBuf};

use super::{Failure, Status, with_causes};
use crate::{
    agent::{
        ha::{
            Error,
            witness::{self, Options},
        },
        log::{self, Format},
    },
    config,
};

/// Be the witness of a pair: the third vote
///
/// Runs on a third host, where either node of the pair may be cut off from the
/// other but not from the witness, and gives its vote for a group to one of them at a
/// time. Both nodes name it in `ha.witness`. It needs the pair's key, whose file it
/// reads again when that changes, and neither privileges nor other files. Only one may run for a pair. After its start it gives no
/// vote for 10 seconds, since it does not know those that it gave before.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  lb witness --listen 10.0.0.9:4791 --pair edge --key-file /etc/lb/pair.key

Environment:
  RUST_LOG  what is logged [default: info]
  NO_COLOR  no colours, as when standard error is no terminal")]
pub(super) struct Witness {
    /// Where it is asked (UDP): `ha.witness` of both nodes
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Name of the pair: `ha.pair`
    #[arg(long, value_name = "NAME")]
    pair: String,
    /// The pair's key: `ha.key_file`
    #[arg(long, value_name = "FILE", default_value = config::file::KEY_FILE)]
    key_file: PathBuf,
}

impl Witness {
    pub(super) fn run(self, colourless: bool) -> Result<(), Failure> {
        let Self { listen, pair, key_file } = self;
        log::init(Format::Text, colourless)
            .map_err(|error| Failure::new(Status::Usage, error).hint("such as `RUST_LOG=info`"))?;
        Ok(witness::run(&Options { listen, pair, key_file })?)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(Status::Refused, with_causes(&error));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

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
    config::{self, read::Wrong, value::is_name},
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
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listened)]
    listen: SocketAddr,
    /// Name of the pair: `ha.pair`
    #[arg(long, value_name = "NAME", value_parser = pair)]
    pair: String,
    /// The pair's key: `ha.key_file`
    #[arg(long, value_name = "FILE", default_value = config::file::KEY_FILE)]
    key_file: PathBuf,
}

/// An address that nodes can name in `ha.witness`.
fn listened(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}"))?;
    let named = address.port() != 0;
    named.then_some(address).ok_or_else(|| "must have a port that nodes can name".to_owned())
}

/// A name as `ha.pair` may be.
fn pair(text: &str) -> Result<String, String> {
    is_name(text).then(|| text.to_owned()).ok_or_else(|| Wrong::name().rule)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_could_name_is_refused() {
        assert_eq!(listened("10.0.0.9:4791").unwrap(), "10.0.0.9:4791".parse().unwrap());
        assert_eq!(listened("10.0.0.9:0").unwrap_err(), "must have a port that nodes can name");
        assert!(listened("10.0.0.9").is_err());
        assert_eq!(pair("edge").unwrap(), "edge");
        let rule = "must be 1 to 64 of the characters a-z A-Z 0-9 . _ -";
        assert_eq!(["", "a b"].map(|name| pair(name).unwrap_err()), [rule; 2]);
    }
}

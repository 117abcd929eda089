//! `lb reload`.

use std::path::PathBuf;

use super::{
    Failure, Session,
    client::Request,
    plan::file_text,
    units::{duration, seconds},
};
use crate::api;

/// Apply a configuration file whole, or refuse it whole
///
/// Without FILE the agent reads its own file again, as on SIGHUP. Edits made
/// by other commands go on overriding the file; `lb plan` shows them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb reload                               the agent's own file
  lb reload new.toml --confirm 30s        taken back after 30s ...
  lb reload --confirmed                   ... unless this is said
  lb reload --discard-edits               the file is all there is")]
pub(super) struct Reload {
    /// The configuration file [default: the agent's own]
    file: Option<PathBuf>,
    /// Take it back after so long, unless `lb reload --confirmed` is said
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    confirm: Option<u64>,
    /// Forget all edits made since
    #[arg(long)]
    discard_edits: bool,
    /// Keep what was applied with `--confirm`
    #[arg(long, conflicts_with_all = ["file", "confirm", "discard_edits"])]
    confirmed: bool,
}

impl Reload {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        if self.confirmed {
            return lb.change(Request::post(&["reload", "confirm"]), "reload: confirmed");
        }
        let file = self.file.map(file_text).transpose()?;
        let name = file.as_ref().map_or("the agent's file", |file| &file.name);
        let condition = self.confirm.map(|left| {
            format!(", taken back in {} unless `lb reload --confirmed`", duration(left))
        });
        let outcome = format!("{name}: in force{}", condition.unwrap_or_default());
        let (confirm_s, discard_edits) = (self.confirm, self.discard_edits);
        let order = api::Reload { file, confirm_s, discard_edits };
        lb.change(Request::post(&["reload"]).json(&order).configures(), outcome)
    }
}

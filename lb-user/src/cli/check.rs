//! `lb check`.

use std::path::PathBuf;

use super::{Failure, console::Console, count};
use crate::{
    config::{self, local::LocalFile},
    core::model::Model,
};

/// Check a configuration file without touching anything
///
/// Prints every mistake at once, each with its line, key and value, the rule
/// it breaks and what to write instead, and exits with status 64. Warns of
/// what is legal but may not be what was meant. Needs no privileges.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file
    file: PathBuf,
    /// Check as `lb agent --interface NAME` would read it
    #[arg(long, value_name = "NAME", value_parser = super::agent::interface)]
    interface: Vec<String>,
}

impl Check {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let model = config::load(&self.file, &self.interface)?.model;
        let file = self.file.display();
        let files = config::local::files(&model);
        let lacks = files.iter().filter_map(LocalFile::lack);
        for surprise in config::surprise::surprises(&model).into_iter().chain(lacks) {
            console.tell(format_args!("warning: {file}: {surprise}"));
        }
        console.say(format_args!("{file}: ok: {}", summary(&model)))
    }
}

fn summary(model: &Model) -> String {
    let backends: usize = model.services.iter().map(|service| service.backends.len()).sum();
    let services = count(model.services.len() as u64, "service");
    let interfaces = count(model.node.interfaces.len() as u64, "interface");
    format!("{services}, {}, {interfaces}", count(backends as u64, "backend"))
}

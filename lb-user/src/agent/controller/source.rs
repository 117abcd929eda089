//! The configuration file, and what an origin is read from.

use std::path::PathBuf;

use axum::http::StatusCode;

use super::{
    chain,
    state::{Direction, Origin},
};
use crate::{
    agent::{
        admin::Refused,
        store::{Kept, Withdrawn},
    },
    api,
    config::{self, Loaded},
    core::edit::Edits,
};

/// Where the configuration file is, and what stands in for parts of it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Unless empty, stands for `node.interfaces`.
    pub interfaces: Vec<String>,
    /// Whether the edits on disk are forgotten at the start.
    pub discard_edits: bool,
}

impl Source {
    /// A text, or the agent's own file, beneath these edits; whether it is
    /// another than the agent's own; and what the edits do, or become, in
    /// words.
    pub(super) fn origin(
        &self,
        file: Option<&api::FileText>,
        edits: Edits,
    ) -> Result<(Origin, bool, Vec<String>), Refused> {
        let (file, foreign) = self.read(file)?;
        let (origin, notes) = over(file, foreign, edits);
        Ok((origin, foreign, notes))
    }

    /// A text, or the agent's own file; whether it says something else than
    /// the agent's own.
    pub(super) fn read(&self, file: Option<&api::FileText>) -> Result<(Loaded, bool), Refused> {
        let Self { path, interfaces, .. } = self;
        let Some(api::FileText { name, text }) = file else {
            return Ok((config::load(path, interfaces)?, false));
        };
        let given = config::load_text(name, text.clone(), interfaces)?;
        let own = match config::read_file(path) {
            Ok(own) if own == *text => return Ok((given, false)),
            own => own.and_then(|own| config::load_text(name, own, interfaces)),
        };
        Ok(match own {
            Ok(own) if own.model == given.model => (own, false),
            _ => (given, true),
        })
    }
}

/// These edits over a file, and what they do, or become, in words.
pub(super) fn over(file: Loaded, foreign: bool, edits: Edits) -> (Origin, Vec<String>) {
    let mut origin = Origin { file: file.into(), edits };
    // The agent may start again, from its own file.
    let lost = if foreign { Vec::new() } else { origin.edits.prune(&origin.file.model) };
    let kept = origin.edits.describe(&origin.file.model);
    (origin, [lost, kept].concat())
}

/// What to begin with: a file that nobody confirmed is not gone by. Once there
/// is another, it is forgotten.
pub(super) fn confirmed(file: Loaded, kept: &mut Kept, source: &Source) -> (Loaded, Direction) {
    let path = source.path.display();
    let name = format!("the file in force before `{path}`");
    match &kept.withdrawn {
        Some(Withdrawn { text, instead }) if *text == file.text => {
            match config::load_text(&name, instead.clone(), &source.interfaces) {
                Ok(before) => {
                    tracing::warn!(
                        "`{path}` was reloaded and not confirmed: what was in force before is \
                         gone by until `lb reload`"
                    );
                    (before, Direction::Back)
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "`{path}` was not confirmed, but what was before it cannot be read"
                    );
                    (file, Direction::Onward)
                }
            }
        }
        _ => {
            kept.withdrawn = None;
            (file, Direction::Onward)
        }
    }
}

impl From<config::Errors> for Refused {
    fn from(errors: config::Errors) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        match errors {
            config::Errors::Unreadable { .. } => Self::new(status, chain(&errors)),
            config::Errors::Mistakes { file, mistakes } => {
                let lines = mistakes.iter().map(|mistake| format!("{file}:{mistake}"));
                Self::new(status, format!("{file}: bad configuration, nothing was changed"))
                    .mistakes(lines.collect())
            }
        }
    }
}

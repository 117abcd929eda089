//! What is wrong with a configuration, in words that say how to put it right.

use std::{fmt, io};

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the text, from 1; `None`: it is not about the text of a file.
    pub line: Option<usize>,
    /// The key from the root, as in `service[0].backend[1].weight`, or without
    /// a text `service.web.backend.web-1.weight`; for text that is not TOML,
    /// where it is (`column 7`).
    pub path: String,
    /// What the text has there, if it has anything.
    pub value: Option<String>,
    /// The rule that does not hold.
    pub rule: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, path, value, rule, hint } = self;
        line.iter().try_for_each(|line| write!(f, "{line}: "))?;
        write!(f, "{path}: ")?;
        if let Some(value) = value {
            write!(f, "{value}: ")?;
        }
        f.write_str(rule)?;
        hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

/// Why there is no model: shown as one line per mistake, `file:line: key:
/// value: rule`, each with its hint below it.
#[derive(Debug, thiserror::Error)]
pub enum Errors {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Unreadable {
        /// The file as named by the operator.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{}", Listing { file, mistakes })]
    Mistakes {
        /// The file as named by the operator.
        file: String,
        /// At least one, in the order of the text.
        mistakes: Vec<Mistake>,
    },
}

struct Listing<'a> {
    file: &'a str,
    mistakes: &'a [Mistake],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{mistake}", self.file)?;
        }
        Ok(())
    }
}

/// Mistakes that are not about a file, one below the other.
pub(super) struct Listed<'a>(pub &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

//! Where values stand, and the rules that they break.

use std::fmt;

use crate::config::{mistake::Mistake, value::NAME_LENGTH};

/// Where a value stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1; `None`: places are told by names.
    pub line: Option<usize>,
    /// The key from the root.
    pub path: String,
    /// The value as written; `None` where the text has none and a default holds.
    pub written: Option<String>,
}

impl Place {
    /// A mistake about the value here.
    pub fn mistake(&self, wrong: Wrong) -> Mistake {
        let Self { line, path, written } = self.clone();
        Mistake { line, path, value: written, rule: wrong.rule, hint: wrong.hint }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, path, .. } = self;
        write!(f, "`{path}`")?;
        line.iter().try_for_each(|line| write!(f, " in line {line}"))
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// Where it stands.
    pub place: Place,
    /// The value.
    pub value: T,
}

/// A rule that a value breaks, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The rule, as in "must be 0 to 65535".
    pub rule: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Wrong {
    /// A rule that needs no hint.
    pub fn new(rule: impl Into<String>) -> Self {
        Self { rule: rule.into(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The rule of names.
    pub fn name() -> Self {
        Self::new(format!("must be 1 to {NAME_LENGTH} of the characters a-z A-Z 0-9 . _ -"))
    }
}

//! A table of figures, each beside its limit.

use std::fmt;

use serde::Serialize;

use super::median;

/// All figures of a subject.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(skip)]
    subject: &'static str,
    figures: Vec<Figure>,
}

/// One of them.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: Unit,
    median: f64,
    worst: f64,
    /// What the median may be at most, if there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<f64>,
    holds: bool,
}

/// What a figure is in.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "ns")]
    Nanoseconds,
    /// How many.
    #[serde(rename = "")]
    Number,
}

impl Report {
    /// Of what the title says; nothing is measured yet.
    pub(super) fn of(subject: &'static str) -> Self {
        Self { subject, figures: Vec::new() }
    }

    /// Adds a figure that was measured so often; its median may be the limit at
    /// most.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        unit: Unit,
        mut samples: Vec<f64>,
        limit: Option<f64>,
    ) {
        let median = median(&mut samples);
        self.figures.push(Figure {
            what: what.into(),
            unit,
            median,
            worst: samples.last().copied().unwrap_or(f64::NAN),
            limit,
            holds: limit.is_none_or(|limit| median <= limit),
        });
    }

    /// How many limits are missed.
    pub(super) fn misses(&self) -> usize {
        self.figures.iter().filter(|figure| !figure.holds).count()
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Percent => "%",
            Self::Nanoseconds => "ns",
            Self::Number => "",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: median (worst), limit of the median\n", self.subject)?;
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        for Figure { what, unit, median, worst, limit, holds } in &self.figures {
            let worst = format!("({worst:.1})");
            write!(f, "{what:<width$}  {median:8.1} {worst:>9} {unit:<3}")?;
            match limit {
                Some(limit) if *holds => writeln!(f, "  ok   <= {limit:.1}")?,
                Some(limit) => writeln!(f, "  MISS >  {limit:.1}")?,
                None => writeln!(f)?,
            }
        }
        let bounds = self.figures.iter().filter(|figure| figure.limit.is_some()).count();
        let held = self.figures.iter().filter(|figure| figure.limit.is_some() && figure.holds);
        writeln!(f, "\n{} of {bounds} limits hold", held.count())
    }
}

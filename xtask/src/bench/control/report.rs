//! The table of the control plane's figures.

use std::fmt;

use serde::Serialize;

use crate::bench::median;

/// All figures.
#[derive(Debug, Default, Serialize)]
pub(in crate::bench) struct Report {
    figures: Vec<Figure>,
}

/// One of them.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: Unit,
    median: f64,
    worst: f64,
    /// What the median must be below, if anything.
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
}

impl Report {
    /// Adds a figure that was measured so often; its median is to be below
    /// the limit.
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
            holds: limit.is_none_or(|limit| median < limit),
        });
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Percent => "%",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "control plane: median (worst), limit of the median\n")?;
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        for Figure { what, unit, median, worst, limit, holds } in &self.figures {
            let worst = format!("({worst:.1})");
            write!(f, "{what:<width$}  {median:8.1} {worst:>9} {unit:<3}")?;
            match limit {
                Some(limit) if *holds => writeln!(f, "  ok   <  {limit}")?,
                Some(limit) => writeln!(f, "  MISS >= {limit}")?,
                None => writeln!(f)?,
            }
        }
        let bounds = self.figures.iter().filter(|figure| figure.limit.is_some()).count();
        let held = self.figures.iter().filter(|figure| figure.limit.is_some() && figure.holds);
        writeln!(f, "\n{} of {bounds} limits hold", held.count())
    }
}

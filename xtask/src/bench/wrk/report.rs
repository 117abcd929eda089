//! The tables of a comparison under load.

use std::fmt;

use lb_tests::harness::Mode;
use serde::Serialize;

use super::{Contender, Sample, Style};
use crate::bench::median;

/// All figures.
#[derive(Debug, Serialize)]
pub(in crate::bench) struct Report {
    rates: Vec<Rate>,
    ratios: Vec<Ratio>,
}

/// Requests per second of one contender.
#[derive(Debug, Serialize)]
struct Rate {
    contender: String,
    style: &'static str,
    /// Median of all rounds.
    median: f64,
    least: f64,
    most: f64,
    /// Socket errors and bad answers of all rounds.
    errors: u64,
}

/// The balancer's median as a multiple of another's.
#[derive(Debug, Serialize)]
struct Ratio {
    contender: String,
    other: String,
    style: &'static str,
    ratio: f64,
    /// What it must not be below, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<f64>,
    holds: bool,
}

/// The least that a ratio may be.
fn limit(other: Contender, style: Style) -> Option<f64> {
    match (other, style) {
        (Contender::Bare(_), _) => Some(0.95),
        (Contender::Nftables, Style::Close) => Some(1.1),
        (Contender::Haproxy, _) => Some(1.6),
        _ => None,
    }
}

impl Report {
    /// Works out the figures.
    pub(super) fn of(contenders: &[Contender], samples: &[Sample]) -> Self {
        let mut rates = Vec::new();
        let mut medians = Vec::new();
        for &contender in contenders {
            for style in Style::ALL {
                let samples: Vec<_> = samples
                    .iter()
                    .filter(|s| (s.contender, s.style) == (contender, style))
                    .collect();
                let mut values: Vec<_> = samples.iter().map(|sample| sample.rate).collect();
                let median = median(&mut values);
                medians.push(((contender, style), median));
                rates.push(Rate {
                    contender: contender.name(),
                    style: style.name(),
                    median,
                    least: values.first().copied().unwrap_or(f64::NAN),
                    most: values.last().copied().unwrap_or(f64::NAN),
                    errors: samples.iter().map(|sample| sample.errors).sum(),
                });
            }
        }
        let rate = |contender, style| {
            medians.iter().find(|&&(key, _)| key == (contender, style)).map(|&(_, rate)| rate)
        };
        let mut ratios = Vec::new();
        for mode in [Mode::Nat, Mode::Dsr] {
            for other in [Contender::Bare(mode), Contender::Nftables, Contender::Haproxy] {
                for style in Style::ALL {
                    let lb = Contender::Lb(mode);
                    let (Some(ours), Some(theirs)) = (rate(lb, style), rate(other, style)) else {
                        continue;
                    };
                    let (ratio, limit) = (ours / theirs, limit(other, style));
                    ratios.push(Ratio {
                        contender: lb.name(),
                        other: other.name(),
                        style: style.name(),
                        ratio,
                        limit,
                        holds: limit.is_none_or(|limit| ratio >= limit),
                    });
                }
            }
        }
        Self { rates, ratios }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "requests per second, 64 connections, 1 KiB bodies: median (least to most)\n")?;
        let width = 34;
        write!(f, "{:<14}", "")?;
        for style in Style::ALL {
            write!(f, " | {:<width$}", style.name())?;
        }
        writeln!(f)?;
        for row in self.rates.chunks(Style::ALL.len()) {
            write!(f, "{:<14}", row[0].contender)?;
            for rate in row {
                let Rate { median, least, most, errors, .. } = rate;
                let mut cell = format!("{median:8.0} ({least:.0} to {most:.0})");
                if *errors > 0 {
                    cell += &format!(" {errors} errors");
                }
                write!(f, " | {cell:<width$}")?;
            }
            writeln!(f)?;
        }
        if !self.ratios.is_empty() {
            writeln!(f)?;
        }
        for Ratio { contender, other, style, ratio, limit, holds } in &self.ratios {
            let other = format!("/ {other}");
            write!(f, "{contender} {other:<15} {style:<22} {ratio:5.2}")?;
            match (limit, holds) {
                (Some(limit), true) => writeln!(f, "  ok   >= {limit}")?,
                (Some(limit), false) => writeln!(f, "  MISS <  {limit}")?,
                (None, _) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

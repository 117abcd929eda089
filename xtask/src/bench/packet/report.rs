//! The table of a packet measurement.

use std::fmt;

use serde::Serialize;

use super::{
    Cell, Sample,
    rows::{Bound, COLUMNS, ROWS, Row},
};

/// All figures.
#[derive(Debug, Serialize)]
pub(in crate::bench) struct Report {
    figures: Vec<Figure>,
}

/// One of them, in nanoseconds per packet; the driver's cost is subtracted.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    row: String,
    /// Number of flows, where the row has columns.
    flows: Option<u32>,
    ns: f64,
    median_ns: f64,
    /// Of the driver, already subtracted.
    driver_ns: f64,
    /// Multiple of the kernel's LRU hash in the same column.
    ratio: Option<f64>,
    limit_ns: Option<f64>,
    holds: Option<bool>,
    /// Median multiple of what another build took just beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<f64>,
    #[serde(skip)]
    key: (Row, Option<u32>),
}

impl Report {
    /// Works out the figures.
    pub(super) fn of(cells: &[Cell]) -> Self {
        let mut figures: Vec<_> = cells.iter().map(Figure::of).collect();
        let ns: Vec<_> = figures.iter().map(|figure| (figure.key, figure.ns)).collect();
        let find = |row, flows| ns.iter().find(|&&(key, _)| key == (row, flows)).map(|&(_, ns)| ns);
        for figure in &mut figures {
            let (row, flows) = figure.key;
            let baseline = row.baseline().and_then(|baseline| find(baseline, flows));
            figure.ratio = baseline.map(|baseline| figure.ns / baseline);
            figure.limit_ns = match row.bound(flows) {
                None => None,
                Some(Bound::Nanoseconds(ns)) => Some(ns),
                Some(Bound::Times(factor, other)) => find(other, flows).map(|ns| ns * factor),
            };
            figure.holds = figure.limit_ns.map(|limit| figure.ns <= limit);
        }
        Self { figures }
    }

    fn figure(&self, row: Row, flows: Option<u32>) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == (row, flows))
    }
}

impl Figure {
    fn of(cell: &Cell) -> Self {
        let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
        let driver_ns = least(cell.samples.iter().map(|sample| sample.idle).collect());
        let total = least(cell.samples.iter().map(|sample| sample.total).collect());
        let mut costs: Vec<_> = cell.samples.iter().map(|s| s.total - s.idle).collect();
        Self {
            row: cell.row.name(),
            flows: cell.flows,
            ns: total - driver_ns,
            median_ns: super::super::median(&mut costs),
            driver_ns,
            ratio: None,
            limit_ns: None,
            holds: None,
            against: against(cell),
            key: (cell.row, cell.flows),
        }
    }
}

/// See [`Figure::against`].
fn against(cell: &Cell) -> Option<f64> {
    let pairs = cell.samples.iter().zip(&cell.others);
    let ratio =
        |(own, other): (&Sample, &Sample)| (own.total - own.idle) / (other.total - other.idle);
    let mut ratios: Vec<_> = pairs.map(ratio).collect();
    (!ratios.is_empty()).then(|| super::super::median(&mut ratios))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ns per packet: least (median), multiple of the kernel's LRU hash, limit\n\
             flows differ in source address and port, {} ports per address\n",
            lb_bench::PORTS_PER_ADDRESS
        )?;
        let paired = self.figures.iter().any(|figure| figure.against.is_some());
        let width = if paired { 43 } else { 35 };
        if paired {
            writeln!(f, "[multiple of what the other build took just beside, median]\n")?;
        }
        write!(f, "{:<18}", "")?;
        for flows in COLUMNS {
            write!(f, " | {:<width$}", format!("{} flows", short(flows)))?;
        }
        writeln!(f)?;
        for row in ROWS {
            let columns = if row.has_columns() { COLUMNS.map(Some).to_vec() } else { vec![None] };
            let figures: Vec<_> =
                columns.into_iter().filter_map(|flows| self.figure(row, flows)).collect();
            if figures.is_empty() {
                continue;
            }
            write!(f, "{:<18}", row.name())?;
            for figure in figures {
                write!(f, " | {:<width$}", figure.to_string())?;
            }
            writeln!(f)?;
        }
        let missed = self.figures.iter().filter(|figure| figure.holds == Some(false)).count();
        let bounds = self.figures.iter().filter(|figure| figure.holds.is_some()).count();
        if bounds > 0 {
            writeln!(f, "\n{} of {bounds} limits hold", bounds - missed)?;
        }
        Ok(())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} ({:6.1})", self.ns, self.median_ns)?;
        match self.ratio {
            Some(ratio) => write!(f, " {ratio:5.2}x")?,
            None => write!(f, "       ")?,
        }
        if let (Some(limit), Some(holds)) = (self.limit_ns, self.holds) {
            write!(f, " {} {limit:.1}", if holds { "ok  <=" } else { "MISS >" })?;
        }
        if let Some(ratio) = self.against {
            write!(f, " [{ratio:.3}]")?;
        }
        Ok(())
    }
}

/// A number of flows in the words of the table.
fn short(flows: u32) -> String {
    match flows {
        1_000_000.. => format!("{}M", flows / 1_000_000),
        _ => format!("{}k", flows / 1_000),
    }
}

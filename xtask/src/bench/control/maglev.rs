//! Maglev tables, built by a program with the agent's code.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Effort;
use crate::{
    bench::figures::{Report, Unit},
    shell,
};

/// Runs the program, which prints microseconds.
pub(super) fn measure(program: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut command = shell::command(program);
    let text = shell::answer(command.arg(effort.tables.to_string()))
        .with_context(|| format!("run `{}`", program.display()))?;
    let times = text.lines().map(|line| Ok(line.parse::<f64>()? / 1000.0));
    let times = times.collect::<Result<Vec<_>>>()?;
    ensure!(times.len() == effort.tables, "{} tables, expected {}", times.len(), effort.tables);
    report.add("Maglev table of 1,000 backends built", Unit::Milliseconds, times, Some(10.0));
    Ok(())
}

//! `lb plan`.

use std::path::PathBuf;

use super::{
    Failure, Session,
    client::Request,
    table::{Cell, Paint, Table, numbers, words},
    units::percent,
};
use crate::{
    api::{FileText, Movement, Outlook},
    config,
};

/// Show what a configuration file would change, and change nothing
///
/// Prints what would differ from what is in force, then for each service the
/// share of its slots that would name another backend and the live flows that
/// would lose theirs.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// The configuration file
    file: PathBuf,
}

impl Plan {
    pub(super) fn run(self, lb: &mut Session<'_>) -> Result<(), Failure> {
        let request = Request::post(&["plan"]).json(&file_text(self.file)?).configures();
        let answer = lb.client.send::<Outlook>(request)?;
        lb.console.answer(&answer, |console, outlook| {
            outlook.changes.iter().try_for_each(|change| console.say(change))?;
            if outlook.changes.is_empty() {
                console.tell("no change");
            }
            for edit in &outlook.edits {
                console.tell(format_args!("note: an edit goes on overriding the file: {edit}"));
            }
            if outlook.services.is_empty() {
                return Ok(());
            }
            console.say("")?;
            console.table(&table(&outlook.services))
        })
    }
}

/// A configuration file, to be sent to the agent.
pub(super) fn file_text(file: PathBuf) -> Result<FileText, Failure> {
    let text = config::read_file(&file)?;
    Ok(FileText { name: file.display().to_string(), text })
}

fn table(movements: &[Movement]) -> Table {
    let mut table = Table::new([
        words("SERVICE"),
        numbers("SLOTS MOVED"),
        numbers("FLOWS ENDED"),
        numbers("FLOWS"),
    ]);
    for movement in movements {
        let ended = Cell::new(movement.flows_ended);
        table.row([
            Cell::new(&movement.service),
            Cell::new(percent(movement.slots)),
            ended.paint(if movement.flows_ended > 0 { Paint::Held } else { Paint::Plain }),
            Cell::new(movement.flows),
        ]);
    }
    table
}

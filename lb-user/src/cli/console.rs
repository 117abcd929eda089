//! Where answers and messages go: data to standard output, the rest to
//! standard error.

use std::{
    env, fmt,
    io::{self, IsTerminal as _, Write},
};

use clap::builder::styling::{AnsiColor, Style};

use super::{
    Failure, Status,
    client::Answer,
    table::{Paint, Table},
};
use crate::api::Done;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looks {
    /// As the agent's JSON instead of tables.
    pub(super) json: bool,
    /// To a terminal, where somebody reads along.
    pub(super) terminal: bool,
    /// In colours.
    pub(super) colour: bool,
}

impl Looks {
    /// What suits the standard output of this process. `NO_COLOR`: see
    /// <https://no-color.org>.
    pub(super) fn of_process(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { json, terminal, colour: terminal && !no_color && !set("NO_COLOR") && !dumb }
    }
}

/// Both outputs of a command.
pub(super) struct Console<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    pub(super) looks: Looks,
}

impl<'a> Console<'a> {
    pub(super) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, looks: Looks) -> Self {
        Self { out, err, looks }
    }

    /// Writes data.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(data).and_then(|()| self.out.flush())?)
    }

    /// Writes a line of data.
    pub(super) fn say(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Writes a message. Standard error may be closed: then nobody is there
    /// to be told.
    pub(super) fn tell(&mut self, message: impl fmt::Display) {
        let _ = writeln!(self.err, "{message}");
    }

    /// Writes an answer, as JSON or in words.
    pub(super) fn answer<T>(
        &mut self,
        answer: &Answer<T>,
        words: impl FnOnce(&mut Self, &T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.looks.json { self.json(&answer.json) } else { words(self, &answer.value) }
    }

    /// Writes JSON: word for word, or spread over lines for who reads it on a
    /// terminal.
    pub(super) fn json(&mut self, json: &str) -> Result<(), Failure> {
        let value: Option<serde_json::Value> =
            self.looks.terminal.then(|| serde_json::from_str(json).ok()).flatten();
        match value {
            Some(value) => self.say(format_args!("{value:#}")),
            None => self.say(json),
        }
    }

    /// Writes a table.
    pub(super) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(|paint, cell| self.painted(paint, cell));
        self.write(text.as_bytes())
    }

    /// Writes a table; of one without rows there is but `nothing` to be told.
    pub(super) fn list(&mut self, table: &Table, nothing: &str) -> Result<(), Failure> {
        if table.is_empty() {
            self.tell(nothing);
            return Ok(());
        }
        self.table(table)
    }

    /// Writes what is in force after a change.
    pub(super) fn done(
        &mut self,
        answer: &Answer<Done>,
        outcome: impl fmt::Display,
    ) -> Result<(), Failure> {
        self.answer(answer, |console, done| {
            done.notes.iter().for_each(|note| console.tell(format_args!("note: {note}")));
            console.say(format_args!("{outcome} (generation {})", done.generation))
        })
    }

    fn painted(&self, paint: Paint, text: &str) -> String {
        let colour = match paint {
            Paint::Bad => AnsiColor::Red,
            Paint::Held => AnsiColor::Yellow,
            Paint::Plain => return text.to_owned(),
        };
        if !self.looks.colour {
            return text.to_owned();
        }
        let style = Style::new().fg_color(Some(colour.into()));
        format!("{style}{text}{style:#}")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Status::Unread, error);
        }
        Self::new(Status::Refused, format!("cannot write the output: {error}"))
            .hint("is the disk full? a change that was ordered is in force all the same")
    }
}

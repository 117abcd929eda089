//! Reads tables of a parsed TOML text key by key, and keeps a record of
//! everything that is wrong instead of stopping at the first.
//!
//! A [`Section`] is asked for each key it may have; whatever is left when it
//! is [finished](Section::finish) is unknown. A value that could not be read
//! is `None` from there on, which always means "already reported": later
//! rules skip it and so do not complain about a mistake's consequences.

mod place;

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    mistake::Mistake,
    value::{is_name, similar},
};
pub use place::{Located, Place, Wrong};

/// Longest value, in characters, that a message repeats in full.
const SHOWN: usize = 60;

/// How mistakes tell where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// By lines, and numbers in lists: an operator has the text.
    Lines,
    /// By the names of what is in lists: nobody sees the text.
    Names,
}

/// The text, and what is wrong with it so far.
#[derive(Debug)]
struct Source<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    telling: Telling,
    mistakes: RefCell<Vec<Mistake>>,
}

impl Source<'_> {
    /// Line of a byte, from 1.
    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset).max(1)
    }

    /// Line to tell of a byte.
    fn line(&self, offset: usize) -> Option<usize> {
        (self.telling == Telling::Lines).then(|| self.line_of(offset))
    }

    /// Column of a byte in characters, from 1; takes as long as the line is.
    fn column(&self, offset: usize) -> usize {
        let start = self.line_starts[self.line_of(offset) - 1];
        self.text.get(start..offset).map_or(0, |text| text.chars().count()) + 1
    }

    /// The text of a value: its first line, cut where it is long.
    fn shown(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        match first.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &first[..end]),
            None if first.len() < text.len() => format!("{first}…"),
            None => first.to_owned(),
        }
    }
}

/// A table being read.
#[derive(Debug)]
pub struct Section<'t> {
    source: Rc<Source<'t>>,
    path: String,
    line: Option<usize>,
    left: BTreeMap<String, (Range<usize>, Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
}

/// Reads `text` with `read`, which gets the root table, to be called `path`.
/// The result is `None` where the text is not TOML to such a degree that its
/// tables mean nothing.
pub fn document<'t, T>(
    text: &'t str,
    telling: Telling,
    path: &str,
    read: impl FnOnce(Section<'t>) -> T,
) -> (Option<T>, Vec<Mistake>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
    let line_starts = line_starts.collect();
    let source = Rc::new(Source { text, line_starts, telling, mistakes: RefCell::default() });
    // After a key that is there twice the tables are complete, so everything
    // else can be checked as well; after other errors they are guesses.
    let sound = errors.iter().all(|error| error.message() == "duplicate key");
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = (source.line(offset), source.column(offset));
        let rule = match error.message() {
            "duplicate key" => "duplicate key, must be there once".to_owned(),
            message => message.to_owned(),
        };
        let path = format!("column {column}");
        let value = error.span().map(|span| source.shown(span)).filter(|shown| !shown.is_empty());
        source.mistakes.borrow_mut().push(Mistake { line, path, value, rule, hint: None });
    }
    let root = Section::new(source.clone(), path.to_owned(), source.line(0), root.into_inner());
    let result = sound.then(|| read(root));
    let mistakes = source.mistakes.take();
    (result, mistakes)
}

impl<'t> Section<'t> {
    fn new(source: Rc<Source<'t>>, path: String, line: Option<usize>, table: DeTable<'t>) -> Self {
        let left = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().clone().into_owned(), (key.span(), value)))
            .collect();
        Self { source, path, line, left, known: Vec::new() }
    }

    /// The path of a key of this table.
    fn path_of(&self, key: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let dot = if self.path.is_empty() { "" } else { "." };
        if !key.is_empty() && key.chars().all(plain) {
            format!("{}{dot}{key}", self.path)
        } else {
            format!("{}{dot}{key:?}", self.path)
        }
    }

    fn place_of(&self, path: String, value: &Spanned<DeValue<'_>>) -> Place {
        let written = match value.get_ref() {
            DeValue::Table(_) => None,
            DeValue::Array(array) if array.iter().any(|element| element.get_ref().is_table()) => {
                None
            }
            _ => Some(self.source.shown(value.span())),
        };
        Place { line: self.source.line(value.span().start), path, written }
    }

    /// The place of a key that is not in the text: the table's header.
    fn absent(&self, key: &str) -> Place {
        Place { line: self.line, path: self.path_of(key), written: None }
    }

    fn report(&self, place: &Place, wrong: Wrong) {
        self.source.mistakes.borrow_mut().push(place.mistake(wrong));
    }

    fn take(&mut self, key: &'static str) -> Option<(Place, DeValue<'t>)> {
        self.known.push(key);
        let (_, value) = self.left.remove(key)?;
        Some((self.place_of(self.path_of(key), &value), value.into_inner()))
    }

    fn missing(&mut self, key: &'static str, expected: &str) {
        self.known.push(key);
        self.report(&self.absent(key), Wrong::new("missing, must be set").hint(expected));
    }

    /// Something else stands where a table is to be.
    fn no_table(&self, place: &Place) -> Wrong {
        Wrong::new("must be a table").hint(match self.source.telling {
            Telling::Lines => {
                format!("write `[{}]` on a line of its own", unindexed(&place.path))
            }
            Telling::Names => "an object".to_owned(),
        })
    }

    /// Something else stands where an array of tables is to be.
    fn no_tables(&self, place: &Place) -> Wrong {
        Wrong::new("must be an array of tables").hint(match self.source.telling {
            Telling::Lines => format!("write `[[{}]]` above each", unindexed(&place.path)),
            Telling::Names => "a list of objects".to_owned(),
        })
    }

    /// Where the table begins.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { line: self.line, path: self.path.clone(), written: None }
    }

    /// Reads a key that may be left out.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        let Some((place, value)) = self.take(key) else {
            return Some(Located { place: self.absent(key), value: default });
        };
        match read(&value) {
            Ok(value) => Some(Located { place, value }),
            Err(wrong) => {
                self.report(&place, wrong);
                None
            }
        }
    }

    /// Reads a key that must be there; `expected` says what it is, and an example.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        if !self.left.contains_key(key) {
            self.missing(key, expected);
            return None;
        }
        let read = self.optional(key, None, |value| read(value).map(Some))?;
        read.value.map(|value| Located { place: read.place, value })
    }

    /// Reads a list, empty where the key is left out; elements that are wrong
    /// are reported and left out.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Located<Vec<Located<T>>>> {
        let Located { place, value } = self.elements(key, example, read)?;
        Some(Located { place, value: value.into_iter().flatten().collect() })
    }

    /// Reads a list likewise, where positions count: what is wrong is `None`.
    pub fn elements<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Located<Vec<Option<Located<T>>>>> {
        let Some((place, value)) = self.take(key) else {
            return Some(Located { place: self.absent(key), value: Vec::new() });
        };
        let DeValue::Array(array) = value else {
            self.report(&place, Wrong::new("must be a list").hint(format!("as in `{example}`")));
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            let place = self.place_of(format!("{}[{index}]", place.path), element);
            match read(element.get_ref()) {
                Ok(value) => list.push(Some(Located { place, value })),
                Err(wrong) => {
                    self.report(&place, wrong);
                    list.push(None);
                }
            }
        }
        Some(Located { place, value: list })
    }

    /// Opens a table, empty where the key is left out.
    pub fn table(&mut self, key: &'static str) -> Self {
        let table = self.table_if_any(key);
        table.unwrap_or_else(|| {
            Self::new(self.source.clone(), self.path_of(key), self.line, DeTable::new())
        })
    }

    /// Opens a table that means something by being there.
    pub fn table_if_any(&mut self, key: &'static str) -> Option<Self> {
        self.table_or(key, Self::no_table)
    }

    /// Opens one likewise that is written in one line, as in `example`.
    pub fn inline_table(&mut self, key: &'static str, example: &str) -> Option<Self> {
        let hint = format!("as in `{example}`");
        self.table_or(key, |_, _| Wrong::new("must be a table").hint(hint))
    }

    fn table_or(
        &mut self,
        key: &'static str,
        wrong: impl FnOnce(&Self, &Place) -> Wrong,
    ) -> Option<Self> {
        match self.take(key)? {
            (place, DeValue::Table(table)) => {
                Some(Self::new(self.source.clone(), place.path, place.line, table))
            }
            (place, _) => {
                self.report(&place, wrong(self, &place));
                None
            }
        }
    }

    /// Opens the tables of an array that must have one; `expected` as in
    /// [`Self::required`].
    pub fn some_tables(&mut self, key: &'static str, expected: &str) -> Vec<Self> {
        let is_empty = |value: &DeValue<'_>| value.as_array().is_some_and(|array| array.is_empty());
        if self.left.get(key).is_none_or(|(_, value)| is_empty(value.get_ref())) {
            self.left.remove(key);
            self.missing(key, expected);
            return Vec::new();
        }
        self.tables(key)
    }

    /// Opens the tables of an array of tables.
    pub fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some((place, value)) = self.take(key) else { return Vec::new() };
        let wrong = self.no_tables(&place);
        let DeValue::Array(array) = value else {
            self.report(&place, wrong);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(array.len());
        for (index, element) in array.into_iter().enumerate() {
            let path = match self.name_in(element.get_ref()) {
                Some(name) => format!("{}.{name}", place.path),
                None => format!("{}[{index}]", place.path),
            };
            let place = self.place_of(path, &element);
            match element.into_inner() {
                DeValue::Table(table) => {
                    tables.push(Self::new(self.source.clone(), place.path, place.line, table));
                }
                _ => self.report(&place, wrong.clone()),
            }
        }
        tables
    }

    /// The name of an element, where elements are told by names.
    fn name_in<'v>(&self, element: &'v DeValue<'_>) -> Option<&'v str> {
        let name = element.as_table()?.get("name")?.get_ref().as_str()?;
        (self.source.telling == Telling::Names && is_name(name)).then_some(name)
    }

    /// Reads a table whose keys are names that the operator chose.
    pub fn entries<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<BTreeMap<String, Located<T>>> {
        let table = self.table(key);
        let entry = |(name, (_, value)): (&String, &(_, Spanned<DeValue<'_>>))| {
            let place = table.place_of(table.path_of(name), value);
            let entry = if is_name(name) { read(value.get_ref()) } else { Err(Wrong::name()) };
            match entry {
                Ok(value) => Some((name.clone(), Located { place, value })),
                Err(wrong) => {
                    table.report(&place, wrong);
                    None
                }
            }
        };
        let entries: Vec<_> = table.left.iter().map(entry).collect();
        entries.into_iter().collect()
    }

    /// Refuses a key that means nothing here.
    pub fn refuse(&mut self, key: &'static str, wrong: Wrong) {
        if let Some((place, _)) = self.take(key) {
            self.report(&place, wrong);
        }
    }

    /// Passes over a key that cannot be judged.
    pub fn pass(&mut self, key: &'static str) {
        self.take(key);
    }

    /// Refuses every key that was not asked for.
    pub fn finish(self) {
        for (key, (span, _)) in &self.left {
            let line = self.source.line(span.start);
            let place = Place { line, path: self.path_of(key), written: None };
            let hint = match similar(key, &self.known) {
                Some(likely) => format!("did you mean `{likely}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.report(&place, Wrong::new("unknown key").hint(hint));
        }
    }
}

/// A path as a table header has it: without indices.
fn unindexed(path: &str) -> String {
    let names = path.split('.').map(|name| name.split('[').next().unwrap_or(name));
    names.collect::<Vec<_>>().join(".")
}

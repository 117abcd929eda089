//! Tables for people: columns aligned, nothing wrapped, a header in capitals.

/// A table; rows have as many cells as there are columns.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column, by its heading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    heading: &'static str,
    right: bool,
}

/// A column of words.
pub(super) const fn words(heading: &'static str) -> Column {
    Column { heading, right: false }
}

/// A column of numbers.
pub(super) const fn numbers(heading: &'static str) -> Column {
    Column { heading, right: true }
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Paint {
    /// Not at all.
    #[default]
    Plain,
    /// Somebody holds it back.
    Held,
    /// Something is wrong.
    Bad,
}

/// A cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(super) fn new(value: impl ToString) -> Self {
        // Words come from backends and from other programs: what would steer
        // a terminal is shown as a blank.
        let text = value.to_string().replace(char::is_control, " ");
        Self { text, paint: Paint::Plain }
    }

    /// An empty cell where there is nothing.
    pub(super) fn maybe(value: Option<impl ToString>) -> Self {
        value.map(Self::new).unwrap_or_default()
    }

    pub(super) fn paint(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }

    fn written(&self) -> &str {
        if self.text.is_empty() { "-" } else { &self.text }
    }

    fn width(&self) -> usize {
        self.written().chars().count()
    }
}

impl Table {
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text of the table, cells as `paint` makes them. A column that has
    /// nothing in any row is left out, and an empty cell of another is "-".
    pub(super) fn render(&self, paint: impl Fn(Paint, &str) -> String) -> String {
        let filled = |index: &usize| self.rows.iter().any(|row| !row[*index].text.is_empty());
        let shown = (0..self.columns.len()).filter(filled);
        let headings = self.columns.iter().map(|column| Cell::new(column.heading)).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let width = |index: usize| lines().map(|line: &Vec<Cell>| line[index].width()).max();
        let shown: Vec<_> =
            shown.map(|index| (index, self.columns[index], width(index).unwrap_or(0))).collect();
        let mut text = String::new();
        for line in lines() {
            let mut gap = 0;
            for &(index, column, width) in &shown {
                let cell = &line[index];
                let slack = width - cell.width();
                let (before, after) = if column.right { (slack, 0) } else { (0, slack) };
                text.extend(std::iter::repeat_n(' ', gap + before));
                text += &paint(cell.paint, cell.written());
                gap = after + 2;
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table) -> String {
        table.render(|_, text| text.to_owned())
    }

    #[test]
    fn words_are_aligned_left_and_numbers_right_without_trailing_blanks() {
        let mut table = Table::new([words("NAME"), numbers("WEIGHT"), words("REASON")]);
        table.row([Cell::new("web-1"), Cell::new(5), Cell::new("ok")]);
        table.row([Cell::new("b"), Cell::new(65_535), Cell::default()]);
        assert_eq!(
            plain(&table),
            "\
NAME   WEIGHT  REASON
web-1       5  ok
b       65535  -
"
        );
    }

    #[test]
    fn columns_with_nothing_in_them_are_left_out() {
        let mut table = Table::new([words("NAME"), words("ZONE"), numbers("FLOWS")]);
        table.row([Cell::new("b"), Cell::maybe(None::<&str>), Cell::new(1)]);
        assert_eq!(plain(&table), "NAME  FLOWS\nb         1\n");
    }

    #[test]
    fn a_cell_takes_one_line_and_steers_no_terminal() {
        let mut table = Table::new([words("REASON")]);
        table.row([Cell::new("HTTP\r\n\u{1b}[31mgone")]);
        assert_eq!(plain(&table), "REASON\nHTTP   [31mgone\n");
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let mut table = Table::new([words("HEALTH"), words("NAME")]);
        table.row([Cell::new("down").paint(Paint::Bad), Cell::new("b")]);
        let text = table.render(|paint, text| match paint {
            Paint::Bad => format!("<{text}>"),
            _ => text.to_owned(),
        });
        assert_eq!(text, "HEALTH  NAME\n<down>    b\n");
    }
}

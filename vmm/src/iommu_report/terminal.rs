//! The terminal that the answer is for.

use std::io;

use comfy_table::{ContentArrangement, Table};

/// How many columns the terminal on standard output has; `None` when it is none: a file or a pipe takes lines of any
/// length.
pub(super) fn columns() -> Option<u16> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(columns)
}

/// A table as text, its cells in several lines where it would be wider than so many columns.
pub(super) fn fitted(mut table: Table, columns: Option<u16>) -> String {
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(columns);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::gather::tests::{LIMIT, sample};
    use super::super::table::render;

    /// Lines of tables; what is said beside them is for the terminal to wrap.
    fn widest_row(text: &str) -> usize {
        let rows = text
            .lines()
            .filter(|line| line.starts_with(['│', '┌', '╞', '└']));
        rows.map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn tables_are_as_wide_as_the_terminal_at_most() {
        let report = sample(LIMIT);
        for columns in [60, 80, 100] {
            let text = render(&report, Some(columns));
            assert!(widest_row(&text) <= usize::from(columns), "{text}");
            assert!(text.contains("0001:01:00.0"), "{text}");
        }
        assert!(widest_row(&render(&report, None)) > 80);
    }
}

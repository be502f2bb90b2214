//! What a terminal shows of a run: the targets, in as many columns as there are. All rows are in the report.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use spapr_lab::benchmark::results::Results;

use super::{targets, text};

/// The targets as a table of at most `columns`; those that do not hold come last, where the eye is.
pub(super) fn verdicts(results: &Results, columns: u16) -> String {
    let mut targets = targets::judge(results);
    targets.sort_by_key(|target| !target.holds());
    let held = targets.iter().filter(|target| target.holds()).count();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(columns);
    table.set_header(["what", "is", "at most", ""]);
    for target in &targets {
        let (is, at_most) = text::target(target);
        let number = |text| Cell::new(text).set_alignment(CellAlignment::Right);
        let verdict = Cell::new(text::verdict(target));
        table.add_row([
            Cell::new(&target.what),
            number(is),
            number(at_most),
            verdict,
        ]);
    }
    format!("{table}\n{held} of {} targets hold\n", targets.len())
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::results::Peer;

    use super::*;
    use crate::bench::compare::tests::results;

    #[test]
    fn a_terminal_of_80_columns_shows_targets_in_its_width_and_what_is_missed_last() {
        let results = results(&[
            (Peer::FloorExit, "exit", 1, 1000),
            (Peer::QemuKernel, "exit", 1, 1500),
            (Peer::Auto, "exit", 1, 1031),
            (Peer::QemuSafe, "indirect-live-scattered", 512, 100),
            (Peer::Auto, "indirect-live-scattered", 512, 80),
        ]);
        let shown = verdicts(&results, 80);
        let widest = shown.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{shown}");
        let position = |text| shown.find(text).unwrap_or(usize::MAX);
        assert!(position("holds") < position("missed"), "{shown}");
        assert!(position("missed") != usize::MAX, "{shown}");
        assert!(shown.contains(" targets hold\n"), "{shown}");
    }
}

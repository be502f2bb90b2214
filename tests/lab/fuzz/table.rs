//! Telling of targets: a line for each, of which all but a finding fit 80 columns.

use std::io::Write;

use super::{Outcome, Target};

/// What the columns are called.
pub(super) fn heading() {
    line(&format!(
        "{:<18} {:>10} {:>8} {:>7} {:>9} {:>7}  {}",
        "target", "runs", "per s", "edges", "features", "corpus", "found"
    ));
}

/// What came of a target.
pub(super) fn row(outcome: &Outcome) {
    let Outcome {
        name,
        said,
        took,
        result,
    } = outcome;
    let rate = said.runs / took.as_secs().max(1);
    let found = result.as_ref().map_or_else(String::as_str, |()| "nothing");
    line(&format!(
        "{name:<18} {:>10} {rate:>8} {:>7} {:>9} {:>7}  {found}",
        said.runs, said.edges, said.features, said.corpus
    ));
}

/// All targets that there are.
pub(super) fn list(targets: &[Target]) {
    for Target { name, what, .. } in targets {
        line(&format!("{name:<18} {what}"));
    }
}

/// The exit status says the result even where nobody reads.
fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

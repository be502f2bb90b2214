//! Whether two runs agree: medians of the same rows, side by side.

use std::fmt::Write;

use spapr_lab::benchmark::results::{Peer, Results};
use spapr_lab::benchmark::row::Unit;

use super::compare::as_number;
use super::{names, text};

/// Two runs agree within this.
const WITHIN: f64 = 0.02;

/// A row of which two runs say different things.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    peer: Peer,
    name: String,
    n: u64,
    medians: [u64; 2],
    /// Share of the larger.
    share: f64,
}

/// What came of a comparison.
#[derive(Debug)]
pub(super) struct Agreement {
    rows: usize,
    worst: f64,
    differences: Vec<Difference>,
}

impl Agreement {
    /// Compares the times of both runs.
    pub(super) fn of(results: &Results, earlier: &Results) -> Self {
        let mut agreement = Self {
            rows: 0,
            worst: 0.0,
            differences: Vec::new(),
        };
        let times = results
            .measured
            .iter()
            .filter(|measured| measured.row.unit == Unit::Nanoseconds);
        for measured in times {
            let (peer, row) = (measured.peer, &measured.row);
            let Some(other) = earlier.row(peer, &row.name, row.n) else {
                continue;
            };
            let medians = [row.median(), other.median()];
            let larger = medians[0].max(medians[1]).max(1);
            let share = as_number(medians[0].abs_diff(medians[1])) / as_number(larger);
            agreement.rows += 1;
            agreement.worst = agreement.worst.max(share);
            if share > WITHIN {
                agreement.differences.push(Difference {
                    peer,
                    name: row.name.clone(),
                    n: row.n,
                    medians,
                    share,
                });
            }
        }
        agreement
    }

    /// Whether all rows agree, and there are some.
    pub(super) fn holds(&self) -> bool {
        self.rows > 0 && self.differences.is_empty()
    }

    /// In words.
    pub(super) fn report(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            let [now, earlier] = difference.medians.map(text::thousands);
            let (percent, peer) = (difference.share * 100.0, difference.peer.name());
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{} ({}, n = {}): {now}, earlier {earlier}: {percent:.1} % apart",
                names::title(&difference.name),
                peer,
                difference.n
            );
        }
        let (rows, worst) = (self.rows, self.worst * 100.0);
        let apart = self.differences.len();
        let _ = write!(
            text,
            "{rows} rows are in both runs; {apart} are more than 2 % apart, the worst {worst:.2} %"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::results;
    use super::*;

    #[test]
    fn rows_that_are_more_than_two_percent_apart_are_told() {
        let earlier = results(&[
            (Peer::Auto, "exit", 1, 1000),
            (Peer::Auto, "get", 1, 1000),
            (Peer::User, "get", 1, 1000),
        ]);
        let now = results(&[
            (Peer::Auto, "exit", 1, 1020),
            (Peer::Auto, "get", 1, 979),
            (Peer::Kernel, "get", 1, 5),
        ]);
        let agreement = Agreement::of(&now, &earlier);
        assert_eq!(agreement.rows, 2);
        assert_eq!(agreement.differences.len(), 1);
        assert_eq!(agreement.differences[0].name, "get");
        assert!(!agreement.holds());
        assert!(agreement.report().contains("2.1 % apart"));
        assert!(Agreement::of(&now, &now).holds());
        assert!(!Agreement::of(&now, &results(&[])).holds());
    }
}

//! Rows of several runs as one.

use std::collections::BTreeMap;

use spapr_lab::benchmark::row::Row;

use super::linux_runs::Found;

/// The rows of several boots as one of their medians.
pub(super) fn of_medians(found: Found) -> Found {
    let medians = found.rows.iter().filter_map(|row| {
        let median = Row::of_samples(&row.name, row.n, row.unit, &[row.median()])?;
        Some(Row {
            failed: row.failed,
            digest: row.digest,
            ..median
        })
    });
    let medians: Vec<Row> = medians.collect();
    Found {
        rows: merged(&medians),
        ..found
    }
}

/// Rows of the same name from several runs as one. Rows of a few samples have them all among their
/// quantiles; of others, the medians are taken.
pub(super) fn merged(rows: &[Row]) -> Vec<Row> {
    let mut of_names: BTreeMap<(&str, u64), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let of_name = of_names.entry((&row.name, row.n)).or_default();
        of_name.push(row);
    }
    let merged = of_names.into_iter().filter_map(|((name, n), rows)| {
        let samples: Vec<u64> = rows.iter().flat_map(|row| samples(row)).collect();
        let first = rows.first()?;
        let agree = rows.iter().all(|row| row.digest == first.digest);
        Some(Row {
            failed: rows.iter().map(|row| row.failed).sum(),
            digest: first.digest.filter(|_| agree),
            ..Row::of_samples(name, n, first.unit, &samples)?
        })
    });
    merged.collect()
}

fn samples(row: &Row) -> Vec<u64> {
    if row.samples == 3 {
        [0, 50, 100].map(|percent| row.quantile(percent)).to_vec()
    } else {
        vec![row.median()]
    }
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::row::Unit;

    use super::*;

    fn row(name: &str, value: u64, digest: u64) -> Row {
        let row = Row::of_samples(name, 1, Unit::Nanoseconds, &[value]).unwrap();
        Row {
            digest: Some(digest),
            ..row
        }
    }

    #[test]
    fn rows_of_several_runs_become_one_that_has_a_digest_if_they_agree() {
        let rows = [
            row("first", 5, 1),
            row("other", 7, 1),
            row("first", 9, 1),
            row("first", 6, 1),
            row("other", 7, 2),
        ];
        let merged = merged(&rows);
        let [first, other] = merged.as_slice() else {
            panic!("{merged:?}")
        };
        assert_eq!(
            (first.median(), first.samples, first.digest),
            (6, 3, Some(1))
        );
        assert_eq!((other.median(), other.samples, other.digest), (7, 2, None));
    }
}

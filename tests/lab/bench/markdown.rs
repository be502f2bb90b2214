//! The report as Markdown: in short, for docs/benchmarks.md and the terminal, and every row in full.

use std::collections::BTreeSet;
use std::fmt::Write;

use spapr_lab::benchmark::results::{Peer, Results};

use super::compare::{self, Compared};
use super::{targets, text};

/// The targets, and the medians of all side by side.
pub(super) fn short(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_short(&mut text, results);
    text
}

/// Every row, with its spread.
pub(super) fn full(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_full(&mut text, results);
    text
}

fn write_short(out: &mut String, results: &Results) -> std::fmt::Result {
    write_facts(out, results)?;
    write_targets(out, results)?;
    writeln!(out, "\n### Medians\n")?;
    writeln!(
        out,
        "Of `auto` also as a multiple of QEMU in kernel and of its floor.\n"
    )?;
    write!(out, "| what | n |")?;
    for peer in SHOWN {
        write!(out, " {} |", peer.name())?;
    }
    writeln!(out, " auto × QEMU | auto × floor |")?;
    writeln!(out, "|---|--:|{}", "--:|".repeat(SHOWN.len() + 2))?;
    for (name, n) in names(results) {
        write_medians(out, results, name, n)?;
    }
    write_omitted(out, results)
}

/// The peers that have a column.
const SHOWN: [Peer; 9] = [
    Peer::Auto,
    Peer::Kernel,
    Peer::User,
    Peer::UserV1,
    Peer::QemuKernel,
    Peer::QemuUser,
    Peer::FloorKernel,
    Peer::FloorMap,
    Peer::Host,
];

/// The rows' names and numbers, each once: names as they were measured, numbers growing.
fn names(results: &Results) -> Vec<(&str, u64)> {
    let mut names: Vec<&str> = Vec::new();
    for measured in &results.measured {
        if !names.contains(&measured.row.name.as_str()) {
            names.push(&measured.row.name);
        }
    }
    let numbers = |name: &str| {
        let rows = results.measured.iter().map(|measured| &measured.row);
        let numbers: BTreeSet<u64> = rows
            .filter(|row| row.name == name)
            .map(|row| row.n)
            .collect();
        numbers
    };
    names
        .into_iter()
        .flat_map(|name| numbers(name).into_iter().map(move |n| (name, n)))
        .collect()
}

fn write_medians(out: &mut String, results: &Results, name: &str, n: u64) -> std::fmt::Result {
    write!(out, "| {} | {n} |", text::title(name))?;
    for peer in SHOWN {
        // What needs no VFIO call has the exit for its floor.
        let row = results.row(peer, name, n);
        let row = match peer {
            Peer::FloorMap if compare::takes_no_call(name) => results.row(Peer::FloorExit, name, n),
            _ => row,
        };
        match row {
            Some(row) => write!(out, " {} |", text::value(row.median(), row.unit))?,
            None => write!(out, " |")?,
        }
    }
    match results.row(Peer::Auto, name, n) {
        Some(row) => {
            let compared = compare::of(results, Peer::Auto, row);
            let (qemu, floor) = (text::ratio(&compared.qemu), text::ratio(&compared.floor));
            writeln!(out, " {qemu} | {floor} |")
        }
        None => writeln!(out, " | |"),
    }
}

fn write_full(out: &mut String, results: &Results) -> std::fmt::Result {
    write_facts(out, results)?;
    writeln!(
        out,
        "| what | n | mode | median | p99 | min | max | samples | × QEMU | × floor |"
    )?;
    writeln!(out, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")?;
    for compared in compare::all(results) {
        write_row(out, &compared)?;
    }
    write_omitted(out, results)
}

fn write_omitted(out: &mut String, results: &Results) -> std::fmt::Result {
    if !results.omitted.is_empty() {
        writeln!(out, "\n### Not measured\n")?;
    }
    for omission in &results.omitted {
        writeln!(out, "- {}: {}", omission.what, one_line(&omission.why))?;
    }
    Ok(())
}

fn write_facts(out: &mut String, results: &Results) -> std::fmt::Result {
    let facts = &results.facts;
    let what = if facts.counts_instructions {
        "instructions (a nanosecond of the emulated host's clock is one)"
    } else {
        "nanoseconds"
    };
    let qemu = facts.qemu.as_deref().unwrap_or("no QEMU");
    writeln!(
        out,
        "Host: {}, Linux {}, pages of {} KiB{}. Peer: {qemu}. Times are {what}.{}\n",
        facts.cpu,
        facts.kernel,
        facts.page_bytes >> 10,
        text::guest_kernel(facts),
        text::packages(facts),
    )
}

fn write_targets(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "### Targets\n")?;
    writeln!(out, "| what | is | at most | |")?;
    writeln!(out, "|---|--:|--:|---|")?;
    for target in targets::judge(results) {
        let (is, at_most) = text::target(&target);
        let mark = if target.holds() { "" } else { "**" };
        let verdict = text::verdict(&target);
        writeln!(
            out,
            "| {} | {is} | {at_most} | {mark}{verdict}{mark} |",
            target.what
        )?;
    }
    Ok(())
}

fn write_row(out: &mut String, compared: &Compared<'_>) -> std::fmt::Result {
    let row = compared.row;
    let value = |number| text::value(number, row.unit);
    writeln!(
        out,
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        text::title(&row.name),
        row.n,
        compared.peer.name(),
        value(row.median()),
        value(row.quantile(99)),
        value(row.quantile(0)),
        value(row.quantile(100)),
        row.samples,
        text::ratio(&compared.qemu),
        text::ratio(&compared.floor),
    )
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::results::Omission;

    use super::super::compare::tests::results;
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_row_of_ours() {
        let mut results = results(&[
            (Peer::FloorExit, "exit", 1, 5_400),
            (Peer::Auto, "exit", 1, 5_600),
            (Peer::QemuKernel, "exit", 1, 6_300),
        ]);
        results.omitted.push(Omission {
            what: "reads".to_owned(),
            why: "no\ndevice".to_owned(),
        });
        let text = full(&results);
        assert!(
            text.contains("| auto | 5,600 | 5,600 | 5,600 | 5,600 | 9 | 0.889 | 1.037 |"),
            "{text}"
        );
        let text = short(&results);
        assert!(
            text.contains("| 1 | 5,600 | | | | 6,300 | | | 5,400 | | 0.889 | 1.037 |"),
            "{text}"
        );
        assert!(
            text.contains(
                "| exit round trip, auto | 1.037 × the floor | 1.10 × the floor | holds |"
            )
        );
        assert!(text.contains("- reads: no device"));
    }
}

//! The report as Markdown: in short, for docs/benchmarks.md, and every row in full.

use std::collections::BTreeSet;
use std::fmt::Write;

use spapr_lab::benchmark::results::{Peer, Results};
use spapr_lab::benchmark::row::Row;

use super::compare::{self, Compared, Ratio};
use super::{defences, names, targets, text};

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
    let (machine, calls): (Vec<_>, Vec<_>) = names(results)
        .into_iter()
        .partition(|(name, _)| names::is_of_machine(name));
    writeln!(out, "### Starts, memory and reads\n")?;
    writeln!(out, "Medians, and `auto` as a multiple of QEMU.\n")?;
    Medians::of(results, machine).write(out)?;
    write_defences(out, results)?;
    write_targets(out, results)?;
    writeln!(out, "\n### Hypercalls\n")?;
    let note = text::WARM_UP;
    writeln!(
        out,
        "Medians, and `auto` as a multiple of QEMU and of its floor. {note}\n"
    )?;
    Medians::of(results, calls).write(out)?;
    write_omitted(out, results)
}

/// The peers that have a column, if anything was measured of them.
const SHOWN: [Peer; 13] = [
    Peer::Auto,
    Peer::Kernel,
    Peer::User,
    Peer::UserV1,
    Peer::QemuKernel,
    Peer::QemuSafe,
    Peer::QemuUser,
    Peer::QemuVof,
    Peer::QemuNext,
    Peer::QemuNextVof,
    Peer::FloorKernel,
    Peer::FloorMap,
    Peer::Host,
];

/// The peers of which `auto` is shown as a multiple, if there is such a multiple.
const BESIDE: [Peer; 5] = [
    Peer::QemuKernel,
    Peer::QemuSafe,
    Peer::QemuVof,
    Peer::QemuNext,
    Peer::QemuNextVof,
];

/// A table of medians side by side: the columns that have something to show.
struct Medians<'a> {
    results: &'a Results,
    rows: Vec<(&'a str, u64)>,
    peers: Vec<Peer>,
    beside: Vec<Peer>,
    has_floor: bool,
}

impl<'a> Medians<'a> {
    fn of(results: &'a Results, rows: Vec<(&'a str, u64)>) -> Self {
        let autos: Vec<&Row> = rows
            .iter()
            .filter_map(|(name, n)| results.row(Peer::Auto, name, *n))
            .collect();
        let is_measured = |peer: &Peer| {
            rows.iter()
                .any(|(name, n)| median_of(results, *peer, name, *n).is_some())
        };
        let is_beside = |peer: &Peer| {
            let mut ratios = autos.iter().map(|row| compare::with(results, row, *peer));
            ratios.any(|ratio| ratio != Ratio::None)
        };
        let has_floor = |row: &&Row| compare::floor(results, Peer::Auto, row).is_some();
        Self {
            peers: SHOWN.into_iter().filter(is_measured).collect(),
            beside: BESIDE.into_iter().filter(is_beside).collect(),
            has_floor: autos.iter().any(has_floor),
            results,
            rows,
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "| what | n |")?;
        for peer in &self.peers {
            write!(out, " {} |", peer.name())?;
        }
        for peer in &self.beside {
            write!(out, " auto × {} |", peer.name())?;
        }
        if self.has_floor {
            write!(out, " auto × floor |")?;
        }
        let columns = self.peers.len() + self.beside.len() + usize::from(self.has_floor);
        writeln!(out, "\n|---|--:|{}", "--:|".repeat(columns))?;
        for &(name, n) in &self.rows {
            self.write_row(out, name, n)?;
        }
        Ok(())
    }

    fn write_row(&self, out: &mut String, name: &str, n: u64) -> std::fmt::Result {
        let results = self.results;
        write!(out, "| {} | {n} |", names::title(name))?;
        for peer in &self.peers {
            match median_of(results, *peer, name, n) {
                Some(row) => write!(out, " {} |", text::value(row.median(), row.unit))?,
                None => write!(out, " |")?,
            }
        }
        let auto = results.row(Peer::Auto, name, n);
        let beside = |other: &Peer| auto.map(|row| compare::with(results, row, *other));
        let mut ratios: Vec<Option<Ratio>> = self.beside.iter().map(beside).collect();
        if self.has_floor {
            ratios.push(auto.map(|row| compare::of(results, Peer::Auto, row).floor));
        }
        for ratio in ratios {
            match ratio {
                Some(ratio) => write!(out, " {} |", text::ratio(&ratio))?,
                None => write!(out, " |")?,
            }
        }
        writeln!(out)
    }
}

/// The row that a peer's column shows: what needs no VFIO call has the exit for its floor.
fn median_of<'a>(results: &'a Results, peer: Peer, name: &str, n: u64) -> Option<&'a Row> {
    match peer {
        Peer::FloorMap if compare::takes_no_call(name) => results.row(Peer::FloorExit, name, n),
        _ => results.row(peer, name, n),
    }
}

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

fn write_full(out: &mut String, results: &Results) -> std::fmt::Result {
    write_facts(out, results)?;
    writeln!(
        out,
        "| what | n | mode | median | p99 | min | max | samples | × QEMU | × QEMU, lists in user space | × floor |"
    )?;
    writeln!(out, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
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
    writeln!(
        out,
        "Host: {}, Linux {}, pages of {} KiB{}. {}. Times are {what}.{}\n",
        facts.cpu,
        facts.kernel,
        facts.page_bytes >> 10,
        text::guest_kernel(facts),
        text::peers(facts),
        text::packages(facts),
    )
}

fn write_targets(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n### Targets\n")?;
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
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        names::title(&row.name),
        row.n,
        compared.peer.name(),
        value(row.median()),
        value(row.quantile(99)),
        value(row.quantile(0)),
        value(row.quantile(100)),
        row.samples,
        text::ratio(&compared.qemu),
        text::ratio(&compared.safe),
        text::ratio(&compared.floor),
    )
}

/// The proof that the Linux guests that are compared are equal.
fn write_defences(out: &mut String, results: &Results) -> std::fmt::Result {
    let told = defences::told(results);
    if told.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Defences of the Linux guests\n")?;
    writeln!(out, "{}\n", text::DEFENCES)?;
    for (number, told) in (1..).zip(&told) {
        writeln!(out, "{number}. {}", told.who)?;
    }
    write!(out, "\n| file |")?;
    for number in 1..=told.len() {
        write!(out, " {number} |")?;
    }
    writeln!(out, "\n|---|{}", "---|".repeat(told.len()))?;
    for file in defences::files(&told) {
        write!(out, "| {file} |")?;
        for told in &told {
            let text = told.defences.0.get(file).map_or("–", String::as_str);
            write!(out, " {text} |")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::results::{Defences, Omission};

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
            text.contains("| auto | 5,600 | 5,600 | 5,600 | 5,600 | 9 | 0.889 | – | 1.037 |"),
            "{text}"
        );
        let text = short(&results);
        assert!(
            text.contains("| 1 | 5,600 | 6,300 | 5,400 | 0.889 | 1.037 |"),
            "{text}"
        );
        assert!(text.contains(
            "| exit round trip, auto | 1.037 × the floor | 1.03 × the floor | **missed** |"
        ));
        assert!(text.contains("- reads: no device"));
    }

    #[test]
    fn starts_memory_and_reads_come_first_then_the_targets_with_the_proof_between() {
        let name = "nvme-random-4k-busy";
        let mut results = results(&[
            (Peer::Auto, "exit", 1, 5_600),
            (Peer::FloorExit, "exit", 1, 5_400),
            (Peer::Auto, name, 1, 90),
            (Peer::QemuKernel, name, 1, 100),
        ]);
        let told = |text: &str| Defences([("meltdown".to_owned(), text.to_owned())].into());
        let ours = results.number_of(&told("Vulnerable"));
        let qemus = results.number_of(&told("Mitigation: RFI Flush"));
        results.measured[2].row.defences = ours;
        results.measured[3].row.defences = qemus;
        let text = short(&results);
        let places = [
            "### Starts",
            "### Defences",
            "### Targets",
            "### Hypercalls",
        ];
        let places = places.map(|heading| text.find(heading).expect(heading));
        assert!(places.is_sorted(), "{text}");
        let refused = "| 1 | 90 | 100 | refused: the guests' defences differ |";
        assert!(text[..places[1]].contains(refused), "{text}");
        let proof = "| meltdown | Vulnerable | Mitigation: RFI Flush |";
        assert!(text[places[1]..places[2]].contains(proof), "{text}");
    }
}

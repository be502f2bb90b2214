//! What Linux guests said of their defences: the proof that those that are compared are equal.

use std::collections::{BTreeMap, BTreeSet};

use spapr_lab::benchmark::results::{Defences, Peer, Results};

use super::names;

/// What some guests said alike.
#[derive(Debug)]
pub(super) struct Told<'a> {
    /// Which guests, in words.
    pub(super) who: String,
    /// What they said.
    pub(super) defences: &'a Defences,
}

/// What was said, each different answer once.
pub(super) fn told(results: &Results) -> Vec<Told<'_>> {
    let numbered = results.defences.iter().enumerate();
    let told = numbered.map(|(number, defences)| Told {
        who: who(results, number),
        defences,
    });
    told.collect()
}

/// The names of all files that guests have, in order.
pub(super) fn files<'a>(told: &[Told<'a>]) -> Vec<&'a str> {
    let files: BTreeSet<&str> = told
        .iter()
        .flat_map(|told| told.defences.0.keys().map(String::as_str))
        .collect();
    files.into_iter().collect()
}

/// The guests that said this: their VMMs, by variant.
fn who(results: &Results, number: usize) -> String {
    let mut variants: BTreeMap<String, BTreeSet<Peer>> = BTreeMap::new();
    for measured in &results.measured {
        if measured.row.defences == Some(number) {
            let (_, variant) = names::parts(&measured.row.name);
            variants.entry(variant).or_default().insert(measured.peer);
        }
    }
    let variants = variants.into_iter().map(|(variant, peers)| {
        let peers: Vec<&str> = peers.into_iter().map(Peer::name).collect();
        let peers = peers.join("; ");
        match variant.strip_prefix(", ") {
            Some(variant) => format!("{variant}: {peers}"),
            None => peers,
        }
    });
    variants.collect::<Vec<_>>().join(". ")
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::results;
    use super::*;

    #[test]
    fn each_answer_names_the_guests_that_gave_it() {
        let mut results = results(&[
            (Peer::Auto, "start-init", 1, 5),
            (Peer::QemuKernel, "start-init", 1, 5),
            (Peer::Auto, "mitigations-off-start-init", 1, 5),
        ]);
        for (text, rows) in [("Mitigation: RFI Flush", 0..2), ("Vulnerable", 2..3)] {
            let file = ("meltdown".to_owned(), text.to_owned());
            let number = results.number_of(&Defences(BTreeMap::from([file])));
            for measured in &mut results.measured[rows] {
                measured.row.defences = number;
            }
        }
        let told = told(&results);
        let who: Vec<&str> = told.iter().map(|told| told.who.as_str()).collect();
        assert_eq!(
            who,
            ["auto; QEMU, in kernel", "guests with mitigations=off: auto"]
        );
        assert_eq!(files(&told), ["meltdown"]);
    }
}

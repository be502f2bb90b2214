//! Setting rows beside each other: ours beside QEMU's and beside the floor.

use spapr_lab::benchmark::results::{Peer, Results};
use spapr_lab::benchmark::row::Row;

use super::names;

/// What one row is beside another.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ratio {
    /// There is none to compare with.
    None,
    /// So many times the other's median.
    Of {
        /// The ratio.
        ratio: f64,
        /// The other's median.
        other: u64,
    },
    /// They must not be compared.
    Refused(&'static str),
}

/// A row beside others.
#[derive(Clone, Debug)]
pub(super) struct Compared<'a> {
    /// Whose it is.
    pub(super) peer: Peer,
    /// The row.
    pub(super) row: &'a Row,
    /// Of one of ours: beside QEMU's way that does the same.
    pub(super) qemu: Ratio,
    /// Of `--tce auto`: beside QEMU when it serves lists itself.
    pub(super) safe: Ratio,
    /// Beside the least that such a way takes.
    pub(super) floor: Ratio,
}

/// All rows, in the order in which they were measured.
pub(super) fn all(results: &Results) -> Vec<Compared<'_>> {
    results
        .measured
        .iter()
        .map(|measured| of(results, measured.peer, &measured.row))
        .collect()
}

/// One row.
pub(super) fn of<'a>(results: &Results, peer: Peer, row: &'a Row) -> Compared<'a> {
    let safe = (peer == Peer::Auto).then_some(Peer::QemuSafe);
    let beside = |other: Option<Peer>| other.map_or(Ratio::None, |other| with(results, row, other));
    Compared {
        peer,
        row,
        qemu: beside(peer.qemu()),
        safe: beside(safe),
        floor: floor(results, peer, row).map_or(Ratio::None, |floor| quotient(row, floor)),
    }
}

/// One row beside a peer's.
pub(super) fn with(results: &Results, row: &Row, peer: Peer) -> Ratio {
    let other = results.row(peer, &row.name, row.n);
    other.map_or(Ratio::None, |other| beside(row, other))
}

/// One row beside another whose guest must have seen the same and, if it is Linux, must have the same
/// defences against attacks by speculation: they make its way into the kernel and back longer.
pub(super) fn beside(row: &Row, other: &Row) -> Ratio {
    if row.failed > 0 || other.failed > 0 {
        return Ratio::Refused("calls failed");
    }
    if row.digest != other.digest {
        return Ratio::Refused("the guests' results differ");
    }
    if names::is_of_linux(&row.name) {
        match (row.defences, other.defences) {
            (Some(its), Some(others)) if its == others => {}
            (Some(_), Some(_)) => return Ratio::Refused("the guests' defences differ"),
            _ => return Ratio::Refused("it is not known which defences the guests have"),
        }
    }
    quotient(row, other)
}

/// The ratio of the medians.
pub(super) fn quotient(row: &Row, other: &Row) -> Ratio {
    let other = other.median();
    if other == 0 {
        return Ratio::None;
    }
    Ratio::Of {
        ratio: as_number(row.median()) / as_number(other),
        other,
    }
}

/// For a ratio or a plot, where the last digits do not matter.
#[expect(clippy::cast_precision_loss, reason = "no value comes near 2^53")]
pub(super) const fn as_number(value: u64) -> f64 {
    value as f64
}

/// Whether a row's calls take no call of VFIO: entries that are clear already, or only read.
pub(super) fn takes_no_call(name: &str) -> bool {
    [
        "exit",
        "rtas-config-read",
        "get",
        "put-clear",
        "stuff-clear",
    ]
    .contains(&names::parts(name).0)
}

/// The row of a floor for the same call: that of one processor in the default window.
fn floor_name(row: &Row) -> (&str, u64) {
    match names::parts(&row.name).0 {
        "exit-processors" => ("exit", 1),
        "put-remap-processors-apart" | "put-remap-processors-together" => ("put-remap", 1),
        "window-map-last" => ("put-map", 1),
        same => (same, row.n),
    }
}

/// The least that a row can take: what the kernel takes if it serves the call, else an exit and the
/// VFIO calls that cannot be avoided. None for rows that have no such thing.
pub(super) fn floor<'a>(results: &'a Results, peer: Peer, row: &Row) -> Option<&'a Row> {
    let (name, n) = floor_name(row);
    let at = |floor| results.row(floor, name, n);
    let takes_none = takes_no_call(name);
    let user = |mapping| at(if takes_none { Peer::FloorExit } else { mapping });
    match peer {
        Peer::Kernel => at(Peer::FloorKernel).or_else(|| at(Peer::FloorExit)),
        Peer::User => user(Peer::FloorMap),
        Peer::UserV1 => user(Peer::FloorMapV1),
        Peer::Auto => {
            let floors = [at(Peer::FloorKernel), user(Peer::FloorMap)];
            floors.into_iter().flatten().min_by_key(|row| row.median())
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use spapr_lab::benchmark::results::Measured;
    use spapr_lab::benchmark::row::Unit;

    use super::*;

    /// Results of one row each, `(peer, name, n, median)`, all with one digest.
    pub(in super::super) fn results(rows: &[(Peer, &str, u64, u64)]) -> Results {
        let measured = rows
            .iter()
            .map(|&(peer, name, n, median)| {
                let mut row = Row::of_samples(name, n, Unit::Nanoseconds, &[median; 9]).unwrap();
                row.digest = Some(7);
                Measured { peer, row }
            })
            .collect();
        Results {
            measured,
            ..Results::default()
        }
    }

    fn ratio(ratio: &Ratio) -> Option<f64> {
        match ratio {
            Ratio::Of { ratio, .. } => Some(*ratio),
            _ => None,
        }
    }

    #[test]
    fn rows_stand_beside_their_way_of_qemu_and_their_floor() {
        let results = results(&[
            (Peer::FloorMap, "put-map", 1, 100),
            (Peer::FloorKernel, "put-map", 1, 40),
            (Peer::User, "put-map", 1, 150),
            (Peer::Auto, "put-map", 1, 60),
            (Peer::QemuUser, "put-map", 1, 300),
            (Peer::QemuKernel, "put-map", 1, 120),
        ]);
        let mut compared = all(&results);
        assert_eq!(compared.len(), 6);
        compared.retain(|it| it.peer.is_ours());
        assert_eq!(ratio(&compared[0].qemu), Some(0.5));
        assert_eq!(ratio(&compared[0].floor), Some(1.5));
        assert_eq!(ratio(&compared[1].qemu), Some(0.5));
        assert_eq!(ratio(&compared[1].floor), Some(1.5));
    }

    #[test]
    fn what_takes_no_vfio_call_has_the_exit_for_its_floor() {
        let results = results(&[
            (Peer::FloorExit, "stuff-clear", 512, 100),
            (Peer::FloorMap, "stuff-clear", 512, 1000),
            (Peer::User, "stuff-clear", 512, 150),
        ]);
        assert_eq!(ratio(&all(&results)[2].floor), Some(1.5));
        assert_eq!(all(&results)[2].qemu, Ratio::None);
    }

    #[test]
    fn several_processors_have_the_floor_of_one() {
        let results = results(&[
            (Peer::FloorExit, "exit", 1, 100),
            (Peer::User, "exit-processors", 4, 150),
        ]);
        assert_eq!(ratio(&all(&results)[1].floor), Some(1.5));
    }

    #[test]
    fn rows_whose_guests_saw_something_else_are_not_compared() {
        let mut results = results(&[
            (Peer::Auto, "get", 1, 100),
            (Peer::QemuKernel, "get", 1, 100),
        ]);
        results.measured[1].row.digest = Some(8);
        let refused = all(&results)[0].qemu.clone();
        assert_eq!(refused, Ratio::Refused("the guests' results differ"));
        results.measured[1].row.digest = Some(7);
        results.measured[1].row.failed = 1;
        let refused = all(&results)[0].qemu.clone();
        assert_eq!(refused, Ratio::Refused("calls failed"));
    }

    #[test]
    fn linux_guests_are_compared_only_when_their_defences_are_known_and_equal() {
        let name = "nvme-random-4k-busy";
        let mut results = results(&[(Peer::Auto, name, 1, 90), (Peer::QemuKernel, name, 1, 100)]);
        let mut with = |ours, qemus| {
            results.measured[0].row.defences = ours;
            results.measured[1].row.defences = qemus;
            all(&results)[0].qemu.clone()
        };
        assert_eq!(ratio(&with(Some(0), Some(0))), Some(0.9));
        let differ = Ratio::Refused("the guests' defences differ");
        assert_eq!(with(Some(0), Some(1)), differ);
        for (ours, qemus) in [(None, None), (Some(0), None), (None, Some(0))] {
            assert!(matches!(with(ours, qemus), Ratio::Refused(_)));
        }
    }

    #[test]
    fn auto_stands_also_beside_a_qemu_that_serves_lists_itself() {
        let results = results(&[
            (Peer::Auto, "stuff-mapped", 512, 50),
            (Peer::Kernel, "stuff-mapped", 512, 50),
            (Peer::QemuSafe, "stuff-mapped", 512, 100),
        ]);
        let compared = all(&results);
        assert_eq!(ratio(&compared[0].safe), Some(0.5));
        assert_eq!(compared[1].safe, Ratio::None);
    }

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        let results = results(&[(Peer::Auto, "get", 1, 100), (Peer::QemuKernel, "get", 1, 0)]);
        assert_eq!(all(&results)[0].qemu, Ratio::None);
    }
}

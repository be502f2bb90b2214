//! What is promised, and whether it holds.

use spapr_lab::benchmark::results::{Peer, Results};
use spapr_lab::benchmark::row::Row;

use super::compare::{self, Ratio, as_number};
use super::names;

/// One promise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// What of.
    pub(super) what: String,
    /// What it is, or why that cannot be said.
    pub(super) is: Result<f64, &'static str>,
    /// What it is to be at most.
    pub(super) at_most: f64,
    /// In which unit.
    pub(super) unit: TargetUnit,
    /// It is more than that by no more than boots of one guest differ.
    pub(super) is_within_spread: bool,
}

/// How a promise is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetUnit {
    /// As a multiple of another row.
    Times(&'static str),
    /// In instructions.
    Instructions,
    /// In bytes.
    Bytes,
    /// In returns of a processor to the VMM.
    Exits,
}

impl Target {
    /// Whether it holds; one that cannot be judged does not.
    pub(super) fn holds(&self) -> bool {
        self.is.is_ok_and(|is| is <= self.at_most)
    }
}

/// What targets call it.
const FLOOR_NAME: &str = "the floor";

/// Two runs agree within this: a row is no worse than another if it is no more than this above it.
const AGREEMENT: f64 = 1.02;
/// What is at most added to what cannot be avoided.
const FLOOR: f64 = 1.03;
/// Instructions for which a hypercall may hold its processor at most.
const LONGEST_STALL: u64 = 5_000_000;
/// Returns to the VMM around a series of reads that make none: the guest says when it begins and ends, and prints to do
/// so, sixteen bytes by each H_PUT_TERM_CHAR.
const SAID_EXITS: f64 = 16.0;
/// The modes that share the way of an exit.
const MODES: [Peer; 4] = [Peer::Auto, Peer::Kernel, Peer::User, Peer::UserV1];

/// All promises about what these results have of spapr-vmm.
pub(super) fn judge(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    exits(results, &mut targets);
    kernel_singles(results, &mut targets);
    user_singles(results, &mut targets);
    if results.facts.counts_instructions {
        instructions(results, &mut targets);
    }
    adaptive(results, &mut targets);
    whole(results, &mut targets);
    reads(results, &mut targets);
    virtio(results, &mut targets);
    growth(results, &mut targets);
    targets
}

fn times(
    targets: &mut Vec<Target>,
    what: String,
    of: (Option<&Row>, Option<&Row>),
    at_most: f64,
    name: &'static str,
) {
    let (Some(row), other) = of else {
        return;
    };
    let ratio = other.map_or(Ratio::None, |other| match name {
        // It answers without doing, so its guest sees something else.
        FLOOR_NAME if row.failed == 0 && other.failed == 0 => compare::quotient(row, other),
        _ => compare::beside(row, other),
    });
    let is = match ratio {
        Ratio::Of { ratio, .. } => Ok(ratio),
        Ratio::Refused(why) => Err(why),
        Ratio::None => Err("there is nothing to compare with"),
    };
    targets.push(Target {
        what,
        is,
        at_most,
        unit: TargetUnit::Times(name),
        is_within_spread: is.is_ok_and(|is| is > at_most)
            && other.is_some_and(|other| boots_overlap(row, other, at_most)),
    });
}

/// Whether one boot of a Linux guest kept to the limit beside one of the other's: then the medians tell nothing,
/// for which boots a guest has is a matter of chance. Single calls cost the same each time.
fn boots_overlap(row: &Row, other: &Row, at_most: f64) -> bool {
    let (lowest, highest) = (row.quantile(0), other.quantile(100));
    names::is_of_linux(&row.name) && as_number(lowest) <= at_most * as_number(highest)
}

/// A row's median, if all its calls went well.
fn median(row: &Row) -> Result<f64, &'static str> {
    if row.failed > 0 {
        return Err("calls failed");
    }
    Ok(as_number(row.median()))
}

fn exits(results: &Results, targets: &mut Vec<Target>) {
    for peer in MODES {
        let row = results.row(peer, "exit", 1);
        let what = format!("exit round trip, {}", peer.name());
        let floor = results.row(Peer::FloorExit, "exit", 1);
        times(targets, what.clone(), (row, floor), FLOOR, FLOOR_NAME);
        let qemu = results.row(Peer::QemuKernel, "exit", 1);
        times(targets, what, (row, qemu), 0.92, "QEMU");
    }
}

fn kernel_singles(results: &Results, targets: &mut Vec<Target>) {
    for name in ["put-map", "put-remap", "put-unmap"] {
        let row = results.row(Peer::Auto, name, 1);
        let qemu = results.row(Peer::QemuKernel, name, 1);
        let what = format!("{}, auto", names::title(name));
        times(targets, what, (row, qemu), 1.0, "QEMU");
    }
}

/// Single calls that are served in user space.
fn user_singles(results: &Results, targets: &mut Vec<Target>) {
    for name in ["put-map", "put-remap", "put-unmap"] {
        let row = results.row(Peer::User, name, 1);
        let floor = row.and_then(|row| compare::floor(results, Peer::User, row));
        let what = format!("{}, user", names::title(name));
        times(targets, what, (row, floor), FLOOR, FLOOR_NAME);
    }
}

/// Figures that were given in instructions, for one registered region and the default window.
fn instructions(results: &Results, targets: &mut Vec<Target>) {
    let given = [
        // 374,207 when this was promised, and what two runs differ by: the floor alone is 375,029 now.
        (Peer::Auto, "indirect-live-contiguous", 512, 381_700),
        (Peer::Auto, "indirect-empty-contiguous", 512, 265_000),
        (Peer::Auto, "stuff-clear", 512, 160_000),
        (Peer::Auto, "stuff-mapped", 512, 275_000),
        (Peer::Auto, "longest-stall-put", 1, LONGEST_STALL),
        (Peer::Auto, "longest-away-put", 1, LONGEST_STALL),
        (Peer::Auto, "longest-away-list", 1, LONGEST_STALL),
        (Peer::Auto, "longest-away-stuff", 1, LONGEST_STALL),
    ];
    for (peer, name, n, at_most) in given {
        if let Some(row) = results.row(peer, name, n) {
            targets.push(Target {
                what: format!("{}, n = {n}, {}", names::title(name), peer.name()),
                is: median(row),
                at_most: as_number(at_most),
                unit: TargetUnit::Instructions,
                is_within_spread: false,
            });
        }
    }
}

/// What `--tce auto` chooses is no worse than what is always possible, and better than what QEMU takes where it
/// serves lists itself.
fn adaptive(results: &Results, targets: &mut Vec<Target>) {
    for order in ["live-scattered", "empty-scattered"] {
        let name = format!("indirect-{order}");
        let row = results.row(Peer::Auto, &name, 512);
        let qemu = results.row(Peer::QemuSafe, &name, 512);
        let what = format!("{}, n = 512, auto", names::title(&name));
        let other = "QEMU, lists in user space";
        times(targets, what, (row, qemu), 0.8, other);
    }
    for n in [2, 4, 8, 16] {
        for order in ["contiguous", "scattered"] {
            let name = format!("indirect-live-{order}");
            let [row, user] = [Peer::Auto, Peer::User].map(|peer| results.row(peer, &name, n));
            let what = format!("{}, n = {n}, auto", names::title(&name));
            times(targets, what, (row, user), AGREEMENT, "user");
        }
    }
}

fn whole(results: &Results, targets: &mut Vec<Target>) {
    let mut beside_qemu = |name: &str, what: &str, at_most| {
        let row = results.row(Peer::Auto, name, 1);
        let qemu = results.row(Peer::QemuKernel, name, 1);
        times(targets, what.to_owned(), (row, qemu), at_most, "QEMU");
    };
    beside_qemu(
        "start-first-instruction",
        "exec to the guest's first instruction",
        0.1,
    );
    for name in ["start-init", "mitigations-off-start-init"] {
        beside_qemu(name, &names::title(name), 0.45);
    }
    // What systemd takes in the guest is the same under both, and most of a start.
    beside_qemu("login-agetty", &names::title("login-agetty"), 0.35);
    beside_qemu("resident-above-guest-ram", "resident above guest RAM", 0.1);
    beside_qemu(
        "resident-with-device",
        "resident above guest RAM, with a device",
        0.1,
    );
    for (name, what, at_most) in [
        (
            "resident-above-guest-ram",
            "resident above guest RAM",
            4 << 20,
        ),
        (
            "resident-with-device",
            "resident above guest RAM, with a device",
            4 << 20,
        ),
        (
            "resident-with-virtio",
            "resident above guest RAM, with a virtio device of each kind",
            6 << 20,
        ),
    ] {
        if let Some(row) = results.row(Peer::Auto, name, 1) {
            targets.push(Target {
                what: what.to_owned(),
                is: median(row),
                at_most: as_number(at_most),
                unit: TargetUnit::Bytes,
                is_within_spread: false,
            });
        }
    }
}

/// Reads by Linux guests, with and without their defences.
fn reads(results: &Results, targets: &mut Vec<Target>) {
    let kind = if results.facts.counts_instructions {
        "busy"
    } else {
        "latency"
    };
    let mut beside = |name: String, peer: Peer, qemu: Option<Peer>, at_most: f64| {
        let row = results.row(peer, &name, 1);
        let other = qemu.and_then(|qemu| results.row(qemu, &name, 1));
        let what = format!("{}, {}", names::title(&name), peer.name());
        let unit = match qemu {
            Some(Peer::QemuSafe) => "QEMU, lists in user space",
            _ => "QEMU",
        };
        times(targets, what, (row, other), at_most, unit);
    };
    for mitigations in ["", "mitigations-off-"] {
        let name = |variant, read| format!("{mitigations}{variant}{read}-{kind}");
        let (random, sequential) = ("nvme-random-4k", "nvme-sequential-1m");
        for peer in MODES {
            // Short reads make one call that maps and one that clears: what a guest waits for is where they are
            // served, which is a matter of safety. Long ones are faster even than without it.
            beside(name("", random), peer, as_safe(peer), 1.0);
            let at_most = if peer == Peer::Auto { 0.51 } else { 1.0 };
            beside(name("", sequential), peer, peer.qemu(), at_most);
        }
        beside(name("xics-", random), Peer::Auto, as_safe(Peer::Auto), 1.0);
        beside(
            name("xics-", sequential),
            Peer::Auto,
            Peer::Auto.qemu(),
            1.0,
        );
        // Each is one interrupt.
        for line in ["line-windows-on-", "line-xics-windows-on-"] {
            beside(name(line, random), Peer::Auto, Peer::Auto.qemu(), 0.9);
        }
        // These make none.
        for read in [random, sequential] {
            beside(
                name("windows-on-", read),
                Peer::Auto,
                Peer::Auto.qemu(),
                1.01,
            );
        }
    }
}

/// Reads of a virtio disk, and exchanges over a virtio network.
fn virtio(results: &Results, targets: &mut Vec<Target>) {
    let kind = if results.facts.counts_instructions {
        "busy"
    } else {
        "latency"
    };
    for (series, at_most) in [
        ("virtio-random-4k", 0.70),
        ("virtio-sequential-1m", 0.90),
        ("network-echo-64", 0.70),
        ("network-send-64k", 0.70),
        ("network-receive-64k", 0.70),
        ("vhost-network-echo-64", 1.00),
        ("vhost-network-send-64k", 1.00),
        ("vhost-network-receive-64k", 1.00),
    ] {
        let name = format!("{series}-{kind}");
        let [row, qemu] = [Peer::Auto, Peer::QemuKernel].map(|peer| results.row(peer, &name, 1));
        times(targets, names::title(&name), (row, qemu), at_most, "QEMU");
        let name = format!("{series}-exits");
        if let Some(row) = results.row(Peer::Auto, &name, 1) {
            targets.push(Target {
                what: names::title(&name),
                is: median(row),
                at_most: SAID_EXITS,
                unit: TargetUnit::Exits,
                is_within_spread: false,
            });
        }
    }
}

/// The QEMU whose guests can reach no more of the host than this one's.
fn as_safe(peer: Peer) -> Option<Peer> {
    match peer {
        Peer::Auto => Some(Peer::QemuSafe),
        other => other.qemu(),
    }
}

fn growth(results: &Results, targets: &mut Vec<Target>) {
    for name in ["engine-get-liobns", "engine-put-liobns"] {
        let rows = [256, 1].map(|n| results.row(Peer::Host, name, n));
        let what = format!("{}, n = 256", names::title(name));
        times(targets, what, (rows[0], rows[1]), 1.10, "one LIOBN");
    }
    for peer in [Peer::Auto, Peer::User] {
        for name in ["put-remap-processors-apart", "indirect-16-processors-apart"] {
            let series = results.series(peer, name);
            let (Some(first), Some(last)) = (series.first(), series.last()) else {
                continue;
            };
            if last.n > 1 {
                let what = format!("{}, n = {}, {}", names::title(name), last.n, peer.name());
                let is = median(last).and_then(|last| Ok(last / median(first)?.max(1.0)));
                targets.push(Target {
                    what,
                    is,
                    at_most: 1.10,
                    unit: TargetUnit::Times("one alone"),
                    is_within_spread: false,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spapr_lab::benchmark::row::Unit;

    use super::super::compare::tests::results;
    use super::super::text;
    use super::*;

    #[test]
    fn a_target_holds_up_to_its_limit() {
        let rows = |exit| {
            results(&[
                (Peer::FloorExit, "exit", 1, 1000),
                (Peer::QemuKernel, "exit", 1, 1500),
                (Peer::Auto, "exit", 1, exit),
            ])
        };
        let held = |exit| {
            judge(&rows(exit))
                .iter()
                .map(Target::holds)
                .collect::<Vec<_>>()
        };
        assert_eq!(held(1030), [true, true]);
        assert_eq!(held(1031), [false, true]);
        assert_eq!(held(1400), [false, false]);
    }

    #[test]
    fn boots_that_differ_by_more_than_what_is_missed_are_no_proof_of_a_miss() {
        let row = |name: &str, samples: [u64; 3]| {
            let mut row = Row::of_samples(name, 1, Unit::Nanoseconds, &samples).unwrap();
            row.defences = Some(1);
            row
        };
        let verdict = |name: &str, its: [u64; 3], others: [u64; 3]| {
            let mut targets = Vec::new();
            let rows = (row(name, its), row(name, others));
            let both = (Some(&rows.0), Some(&rows.1));
            times(&mut targets, String::new(), both, 1.0, "QEMU");
            text::verdict(&targets[0])
        };
        let read = "nvme-sequential-1m-busy";
        assert_eq!(
            verdict(read, [100, 102, 103], [99, 101, 102]),
            "within the boots' spread"
        );
        assert_eq!(verdict(read, [100, 101, 103], [99, 101, 102]), "holds");
        assert_eq!(verdict(read, [103, 104, 105], [99, 101, 102]), "missed");
        // What costs the same each time.
        assert_eq!(
            verdict("put-map", [100, 102, 103], [99, 101, 102]),
            "missed"
        );
    }

    #[test]
    fn what_failed_or_stands_alone_is_not_judged_and_does_not_hold() {
        let mut results = results(&[
            (Peer::FloorExit, "exit", 1, 1000),
            (Peer::Auto, "exit", 1, 1000),
        ]);
        let verdicts = |results: &Results| {
            let targets = judge(results);
            targets.iter().map(|it| it.is).collect::<Vec<_>>()
        };
        let alone = Err("there is nothing to compare with");
        assert_eq!(verdicts(&results), [Ok(1.0), alone]);
        results.measured[1].row.failed = 1;
        assert_eq!(verdicts(&results), [Err("calls failed"), alone]);
        assert!(!judge(&results).iter().any(Target::holds));
    }

    #[test]
    fn instructions_are_promised_only_where_they_are_counted() {
        let mut results = results(&[(Peer::Auto, "longest-stall-put", 1, 5_000_001)]);
        assert!(judge(&results).is_empty());
        results.facts.counts_instructions = true;
        let targets = judge(&results);
        assert_eq!(targets.len(), 1);
        assert!(!targets[0].holds());
    }

    #[test]
    fn auto_is_no_worse_than_user_and_better_than_a_qemu_that_is_as_safe() {
        let results = results(&[
            (Peer::User, "indirect-live-contiguous", 4, 90),
            (Peer::Auto, "indirect-live-contiguous", 4, 100),
            (Peer::QemuSafe, "indirect-live-scattered", 512, 100),
            (Peer::Auto, "indirect-live-scattered", 512, 80),
        ]);
        let held: Vec<bool> = judge(&results).iter().map(Target::holds).collect();
        assert_eq!(held, [true, false]);
    }

    #[test]
    fn reads_are_judged_only_between_guests_with_equal_defences() {
        let name = "windows-on-nvme-random-4k-latency";
        let mut results = results(&[(Peer::Auto, name, 1, 101), (Peer::QemuKernel, name, 1, 100)]);
        results.measured[0].row.defences = Some(0);
        results.measured[1].row.defences = Some(1);
        assert_eq!(judge(&results)[0].is, Err("the guests' defences differ"));
        results.measured[1].row.defences = Some(0);
        assert!(judge(&results)[0].holds());
    }

    #[test]
    fn short_reads_are_judged_beside_a_qemu_that_is_as_safe() {
        let name = "nvme-random-4k-latency";
        let mut results = results(&[
            (Peer::QemuKernel, name, 1, 80),
            (Peer::QemuSafe, name, 1, 100),
            (Peer::Auto, name, 1, 100),
            (Peer::Kernel, name, 1, 81),
        ]);
        for measured in &mut results.measured {
            measured.row.defences = Some(0);
        }
        let held: Vec<bool> = judge(&results).iter().map(Target::holds).collect();
        assert_eq!(held, [true, false]);
    }

    #[test]
    fn processors_in_windows_of_their_own_are_as_fast_as_one() {
        let name = "put-remap-processors-apart";
        let results = results(&[
            (Peer::Auto, name, 1, 100),
            (Peer::Auto, name, 2, 300),
            (Peer::Auto, name, 4, 109),
        ]);
        assert!(judge(&results)[0].holds());
    }
}

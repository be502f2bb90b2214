//! Two processors that change entries of a DMA window at once, in the default mode, where the kernel serves
//! single entries. What counts is what the device finds.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::front_end::FrontEnd;
use crate::harness::host::{assert_nothing_is_left, expect_kept};

/// Rounds of each kind, if a host is quick enough to make so many in the seconds that there are for each; and
/// how few that show something would be none. A host that is busy with other things runs the two processors
/// at the same time now and then only.
const ROUNDS: u64 = 400;
const SECONDS: u64 = 10;
const FEWEST: u64 = 5;
/// The longest that they all may take.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A number of the line that the guest printed of one kind.
#[track_caller]
fn counted(finished: &Finished, kind: &str, name: &str) -> u64 {
    let start = format!("TCE-RACE {kind} ");
    let line = finished
        .console()
        .lines()
        .find_map(|line| line.split_once(&start))
        .unwrap_or_else(|| panic!("no {start}\n{finished}"))
        .1;
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {line:?}\n{finished}"))
}

/// Memory that the VMM says the host's kernel keeps, in bytes.
fn kept_bytes(finished: &Finished) -> u64 {
    let Some((_, rest)) = finished.errors().split_once("the host's kernel keeps ") else {
        return 0;
    };
    let number = rest.split_once(" bytes").expect("a number of bytes").0;
    number.parse().expect("a number of bytes")
}

fn vmm(rounds: u64, seconds: u64) -> Vmm {
    let bounds = format!("rounds={rounds} seconds={seconds}");
    let vmm = Vmm::bare_metal("tce-race-guest", &bounds);
    let vmm = vmm.nvme_with_windows().option("--cpus", "2");
    vmm.time_limit(TIME_LIMIT)
}

/// Fails unless the VMM has told what the host's kernel keeps, no more and no less, and ended accordingly. Linux
/// loses count of what such a guest maps (`kvmppc_tce_iommu_do_map`).
#[track_caller]
fn assert_kept_memory_is_told(finished: &Finished) {
    let kept = kept_bytes(finished);
    finished.assert_status(i32::from(kept > 0));
    let outcome = ["power-off", "error"][usize::from(kept > 0)];
    assert_eq!(finished.stat("/outcome"), outcome, "{finished}");
    expect_kept(kept);
    assert_nothing_is_left();
}

#[test]
fn libvirts_front_end_tells_what_the_host_keeps() {
    let front_end = FrontEnd::bare_metal("tce-race-guest", "rounds=200 seconds=5");
    let (running, _monitor) = front_end
        .nvme()
        .option("-smp", "2")
        .time_limit(TIME_LIMIT)
        .start();
    let finished = running.finish();
    assert_kept_memory_is_told(&finished);
    assert!(finished.console().contains("TCE-RACE-DONE"), "{finished}");
}

/// Without the kernel there is no one to lose count; a guest served here can change one entry from as many
/// processors as it likes.
#[test]
fn in_user_mode_the_host_gets_all_of_its_memory_back() {
    let finished = vmm(100, 5).option("--tce", "user").run();
    let finished = finished.assert_powered_off();
    assert!(finished.console().contains("TCE-RACE-DONE"), "{finished}");
    for window in ["default", "dynamic"] {
        for shown in ["shown", "clear"] {
            let counted = counted(&finished, &format!("clearing {window}"), shown);
            assert!(counted > 0, "{finished}");
        }
    }
    assert_eq!(finished.errors(), "", "{finished}");
    assert_nothing_is_left();
}

#[test]
fn in_the_default_mode_no_mapping_is_lost_and_none_outlives_its_clearing() {
    let finished = vmm(ROUNDS, SECONDS).run();
    assert_kept_memory_is_told(&finished);
    assert!(finished.console().contains("TCE-RACE-DONE"), "{finished}");
    for window in ["default", "dynamic"] {
        let first = |name| counted(&finished, &format!("first-mappings {window}"), name);
        assert_eq!([first("lost"), first("unseen")], [0, 0], "{finished}");
        let clearing = |name| counted(&finished, &format!("clearing {window}"), name);
        let wrong = ["leaked", "stuck", "dead"].map(clearing);
        assert_eq!(wrong, [0; 3], "{finished}");
        // There were enough, and the calls did meet.
        for shown in [first("together"), clearing("shown"), clearing("clear")] {
            assert!(shown >= FEWEST, "{finished}");
        }
    }
    for kind in ["resets default", "made dynamic"] {
        let counted = |name| counted(&finished, kind, name);
        assert_eq!([counted("lost"), counted("leaked")], [0, 0], "{finished}");
        for shown in [counted("shown"), counted("clear")] {
            assert!(shown >= FEWEST, "{finished}");
        }
    }
    // The kernel served all but the first, for which memory is locked, and what came before a window was there.
    for (window, kind) in [("0", "resets default"), ("1", "made dynamic")] {
        let of = |what| format!("/windows/{window}/{what}");
        assert_eq!(finished.stat(&of("path")), "bound", "{finished}");
        let here = finished.stat(&of("calls"))["H_PUT_TCE"].as_u64();
        let early = counted(&finished, kind, "rounds");
        assert!(here.unwrap_or(0) < early + 10, "{finished}");
    }
}

/// KVM maps what any group of the process has locked; VFIO unmaps for a group only if something was locked for it.
#[test]
fn what_one_devices_group_locked_is_unmapped_for_the_other() {
    let vmm = Vmm::bare_metal("tce-race-guest", "rounds=40 seconds=5");
    let vmm = vmm.nic().nvme_with_windows().option("--cpus", "2");
    let finished = vmm.time_limit(TIME_LIMIT).run();
    assert_kept_memory_is_told(&finished);
    for window in ["default", "dynamic"] {
        let clearing = |name| counted(&finished, &format!("clearing {window}"), name);
        let wrong = ["leaked", "stuck", "dead"].map(clearing);
        assert_eq!(wrong, [0; 3], "{finished}");
        assert!(clearing("clear") >= FEWEST, "{finished}");
    }
    // Nothing was locked for the NVMe's group: the kernel served all that was mapped there.
    let windows = finished.stat("/windows").as_array().expect("windows").len();
    assert!(windows >= 3, "{finished}");
}

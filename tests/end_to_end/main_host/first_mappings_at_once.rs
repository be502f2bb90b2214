//! Two processors that change entries of a DMA window at once, in the default mode, where the kernel serves
//! single entries. What counts is what the device finds.

use std::time::Duration;

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;

/// Rounds of each kind, if a host is quick enough to make so many in the seconds that there are for each; and
/// how few would show nothing.
const ROUNDS: u64 = 400;
const SECONDS: u64 = 15;
const FEWEST: u64 = 25;
/// The longest that they all may take.
const TIME_LIMIT: Duration = Duration::from_secs(150);

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

#[test]
fn in_the_default_mode_no_mapping_is_lost_and_none_outlives_its_clearing() {
    let bounds = format!("rounds={ROUNDS} seconds={SECONDS}");
    let vmm = Vmm::bare_metal("tce-race-guest", &bounds);
    let vmm = vmm.nvme_with_windows().option("--cpus", "2");
    let finished = vmm.time_limit(TIME_LIMIT).run().assert_powered_off();
    assert!(finished.console().contains("TCE-RACE-DONE"), "{finished}");
    for window in ["default", "dynamic"] {
        let first = |name| counted(&finished, &format!("first-mappings {window}"), name);
        assert_eq!([first("lost"), first("unseen")], [0, 0], "{finished}");
        let clearing = |name| counted(&finished, &format!("clearing {window}"), name);
        let wrong = ["leaked", "stuck", "dead"].map(clearing);
        assert_eq!(wrong, [0; 3], "{finished}");
        // There were enough, and the calls did meet.
        assert!(first("rounds") >= FEWEST, "{finished}");
        assert!(first("together") > first("rounds") / 8, "{finished}");
        assert!(clearing("rounds") >= FEWEST, "{finished}");
        assert!(clearing("shown") > clearing("rounds") / 8, "{finished}");
        assert!(clearing("clear") > clearing("rounds") / 8, "{finished}");
    }
    // The kernel served all but the first, for which memory is locked.
    for window in ["0", "1"] {
        let of = |what| format!("/windows/{window}/{what}");
        assert_eq!(finished.stat(&of("path")), "bound", "{finished}");
        let here = finished.stat(&of("calls"))["H_PUT_TCE"].as_u64();
        assert!(here.unwrap_or(0) < 10, "{finished}");
    }
    assert_nothing_is_left();
}

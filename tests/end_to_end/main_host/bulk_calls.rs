//! Lists of TCEs go over to the kernel's handler and come back, as the guest makes them, where that is safe.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::{assert_nothing_is_left, checks_where_lists_end};
use crate::harness::tce_handlers::Handler;

/// Lists of 1 to 512 entries, contiguous and then scattered.
fn lists(mode: &str) -> Finished {
    let vmm = Vmm::bare_metal("tce-cost-guest", "calls=50 settle=30 only=indirect").nvme();
    let finished = vmm.option("--tce", mode).run().assert_powered_off();
    let console = finished.console();
    assert!(console.contains("TCE-COST-DONE"), "{finished}");
    let kinds = console.lines().filter(|line| line.contains("TCE-COST "));
    assert_eq!(kinds.clone().count(), 36, "{finished}");
    assert!(
        kinds
            .clone()
            .all(|line| line.trim_end().ends_with("failed=0")),
        "{finished}"
    );
    assert_nothing_is_left();
    finished
}

fn changes(finished: &Finished) -> [u64; 2] {
    ["handed_over", "taken_back"]
        .map(|count| finished.number(&format!("/bulk_calls/H_PUT_TCE_INDIRECT/{count}")))
}

#[test]
fn in_auto_mode_lists_are_handed_over_to_a_kernel_that_checks_where_they_end_and_to_no_other() {
    let handler = Handler::watch("put_tce_indirect");
    let finished = lists("auto");
    let [handed_over, taken_back] = changes(&finished);
    let kernel = handler.returns();
    let here = finished.tce_calls("H_PUT_TCE_INDIRECT");
    if !checks_where_lists_end() {
        assert_eq!([handed_over, taken_back], [0, 0], "{finished}");
        // The two lists that tried the kernel, which it left to user space.
        assert_eq!((kernel.answered, kernel.left), (0, 2), "{finished}");
        assert!(here > 36 * 50, "{here} reached the VMM\n{finished}");
        return;
    }
    assert!(handed_over > 2 && taken_back > 2, "{finished}");
    assert!(handed_over - taken_back <= 1, "{finished}");
    // 18 kinds of scattered lists and six of short ones are the kernel's.
    assert!(kernel.answered > 18 * 50, "{kernel:?}\n{finished}");
    // Most of the others are ours.
    assert!(here > 12 * 40, "{here} reached the VMM\n{finished}");
    // A call that the kernel left to us is seen once by each; another one has tried the kernel.
    assert!(kernel.left <= 6, "{kernel:?}\n{finished}");
}

#[test]
fn forced_modes_change_nothing_while_the_guest_runs() {
    for mode in ["kernel", "user"] {
        let finished = lists(mode);
        assert_eq!(changes(&finished), [0, 0], "{finished}");
        let in_kernel = finished.stat("/bulk_calls/H_PUT_TCE_INDIRECT/in_kernel");
        assert_eq!(in_kernel, &(mode == "kernel"), "{finished}");
    }
}

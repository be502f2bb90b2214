//! Bulk TCE calls go over to the kernel's handlers and come back, as the guest makes them.

use crate::harness::Vmm;
use crate::harness::finished::Finished;
use crate::harness::host::assert_nothing_is_left;
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
fn in_auto_mode_lists_are_handed_over_and_taken_back() {
    let handler = Handler::watch("put_tce_indirect");
    let finished = lists("auto");
    let [handed_over, taken_back] = changes(&finished);
    assert!(handed_over > 2 && taken_back > 2, "{finished}");
    assert!(handed_over - taken_back <= 1, "{finished}");
    // 18 kinds of scattered lists and six of short ones are the kernel's.
    let kernel = handler.returns();
    assert!(kernel.answered > 18 * 50, "{kernel:?}\n{finished}");
    // Most of the others are ours.
    let here = finished.tce_calls("H_PUT_TCE_INDIRECT");
    assert!(here > 12 * 40, "{here} reached the VMM\n{finished}");
    // A call that the kernel left to us is seen once by each.
    assert!(kernel.left <= 5, "{kernel:?}\n{finished}");
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

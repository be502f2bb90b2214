//! Writes to the disk: the device reads memory.

use spapr_test_guests::nvme::Command;

use crate::bench::{Bench, Outcome};
use crate::reads::SECOND_WINDOW;
use spapr_test_guests::disk::{PAGE_BLOCKS, SCRATCH_BLOCK};
use spapr_test_guests::dma_window::Permission;

/// All trials.
pub(crate) fn all(bench: &mut Bench) {
    after_unmap(bench);
    never_mapped(bench);
    from_a_page_to_write(bench);
}

/// Has a page at a bus address written to the disk.
pub(crate) fn attempt(bench: &mut Bench, ioba: u64) -> Outcome {
    bench.attempt(Command::write(SCRATCH_BLOCK, PAGE_BLOCKS, [ioba, 0]))
}

fn after_unmap(bench: &mut Bench) {
    let ioba = bench.unmapped_again(0);
    let outcome = attempt(bench, ioba);
    bench.conclude("write-after-unmap", outcome);
}

fn never_mapped(bench: &mut Bench) {
    let page = bench.arena.watched(7).address();
    for (name, ioba) in [
        ("write-never-mapped", bench.tried_ioba(100)),
        ("write-guest-address", page),
        ("write-window-end", bench.window.end()),
        ("write-second-window", SECOND_WINDOW),
        ("write-second-window-guest-address", SECOND_WINDOW + page),
    ] {
        let outcome = attempt(bench, ioba);
        bench.conclude(name, outcome);
    }
}

/// A page that the device may write, and was not allowed to read.
fn from_a_page_to_write(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    bench
        .window
        .map(ioba, bench.arena.watched(11), Permission::Write);
    bench.prove_read(ioba, 11);
    let outcome = attempt(bench, ioba);
    bench.conclude("write-from-write-only-page", outcome);
    bench.window.unmap(ioba);
}

//! Reads of the disk: the device writes to memory.

use spapr_test_guests::nvme::Command;

use crate::bench::{Bench, Outcome};
use spapr_test_guests::disk::{PAGE_BLOCKS, is_data};
use spapr_test_guests::dma_window::{PAGE_BYTES, Permission};

/// What is read where nothing may come of it.
const BLOCK: u64 = 4096;
/// Bus addresses from here on choose the second window of a container on POWER8 and later; without
/// one, the host's firmware can have them go straight to memory (Linux,
/// arch/powerpc/platforms/powernv/pci-ioda.c, "tce_bypass_base").
pub(crate) const SECOND_WINDOW: u64 = 1 << 59;

/// All trials.
pub(crate) fn all(bench: &mut Bench) {
    after_unmap(bench);
    after_stuff(bench);
    after_remap(bench);
    never_mapped(bench);
    across_an_unmapped_page(bench);
    across_the_end(bench);
    without_permission(bench);
}

/// Has a page read into a bus address.
pub(crate) fn attempt(bench: &mut Bench, ioba: u64) -> Outcome {
    bench.attempt(Command::read(BLOCK, PAGE_BLOCKS, [ioba, 0]))
}

fn attempt_two_pages(bench: &mut Bench, first: u64, second: u64) -> Outcome {
    bench.attempt(Command::read(BLOCK, 2 * PAGE_BLOCKS, [first, second]))
}

fn after_unmap(bench: &mut Bench) {
    let ioba = bench.unmapped_again(0);
    let outcome = attempt(bench, ioba);
    bench.conclude("read-after-unmap", outcome);
}

/// The same with calls for many pages, of which the one in the middle is tried.
fn after_stuff(bench: &mut Bench) {
    const PAGES: u64 = 64;
    let first = bench.tried_ioba(0);
    let ioba = bench.tried_ioba(PAGES / 2);
    let list = bench.arena.tce_list();
    bench
        .window
        .map_list(first, bench.arena.watched(0), PAGES, list);
    for index in [0, PAGES / 2, PAGES - 1] {
        bench.prove_read(bench.tried_ioba(index), index);
    }
    bench.window.unmap_all(first, PAGES);
    let outcome = attempt(bench, ioba);
    bench.conclude("read-after-stuff", outcome);
}

/// A page that is mapped elsewhere: the device writes there, and no longer where it did.
fn after_remap(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    bench
        .window
        .map(ioba, bench.arena.watched(3), Permission::ReadWrite);
    bench.prove_read(ioba, 3);
    bench
        .window
        .map(ioba, bench.arena.watched(5), Permission::ReadWrite);
    let outcome = attempt(bench, ioba);
    if is_data(bench.arena.watched(5), BLOCK) {
        bench.arena.restore(5);
    }
    bench.conclude("read-after-remap", outcome);
    bench.window.unmap(ioba);
}

/// Bus addresses that never were mapped, in the window and beyond. Some are the address of a
/// watched page in the guest: that they are no bus address there has to keep the device out.
fn never_mapped(bench: &mut Bench) {
    let page = bench.arena.watched(7).address();
    let end = bench.window.end();
    for (name, ioba) in [
        ("read-never-mapped", bench.tried_ioba(100)),
        ("read-guest-address", page),
        ("read-window-end", end),
        ("read-beyond-window", end + page),
        ("read-above-4g", (4 << 30) + page),
        ("read-second-window", SECOND_WINDOW),
        ("read-second-window-guest-address", SECOND_WINDOW + page),
    ] {
        let outcome = attempt(bench, ioba);
        bench.conclude(name, outcome);
    }
}

/// Two pages, of which the second is not mapped; in the guest's memory it follows the first.
fn across_an_unmapped_page(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    bench
        .window
        .map(ioba, bench.arena.watched(9), Permission::ReadWrite);
    let outcome = attempt_two_pages(bench, ioba, ioba + PAGE_BYTES);
    // The first may have been written.
    bench.arena.restore(9);
    bench.window.unmap(ioba);
    bench.conclude("read-next-page-unmapped", outcome);
}

/// The window's last page is mapped, and the one behind it is beyond.
fn across_the_end(bench: &mut Bench) {
    let end = bench.window.end();
    let last = end - PAGE_BYTES;
    bench
        .window
        .map(last, bench.arena.watched(9), Permission::ReadWrite);
    bench.prove_read(last, 9);
    let outcome = attempt_two_pages(bench, last, end);
    bench.arena.restore(9);
    bench.window.unmap(last);
    bench.conclude("read-across-window-end", outcome);
}

/// A page that the device may only read.
fn without_permission(bench: &mut Bench) {
    let ioba = bench.tried_ioba(0);
    bench
        .window
        .map(ioba, bench.arena.watched(11), Permission::Read);
    bench.prove_write(ioba, 11);
    bench.prepare_disk();
    let outcome = attempt(bench, ioba);
    bench.conclude("read-without-permission", outcome);
    bench.window.unmap(ioba);
}

//! A DMA window that the guest makes and removes (PAPR 7.3.10.4).

use spapr_test_guests::dma_window::{DynamicWindows, Permission};
use spapr_test_guests::rtas;

use crate::bench::Bench;
use crate::{reads, writes};

/// 4 KiB and 16 MiB, as powers of two.
const PAGE_SHIFT: u32 = 12;
const WINDOW_SHIFT: u32 = 24;

/// All trials.
pub(crate) fn all(bench: &mut Bench, windows: &DynamicWindows) {
    let window = windows
        .create(PAGE_SHIFT, WINDOW_SHIFT)
        .unwrap_or_else(|status| rtas::stop_with(format_args!("no dynamic window: {status}")));
    let ioba = window.start + (1 << 20);
    window.map(ioba, bench.arena.watched(17), Permission::ReadWrite);
    bench.prove(ioba, 17);
    bench.prepare_disk();
    window.unmap(ioba);
    let outcome = reads::attempt(bench, ioba);
    bench.conclude("read-after-unmap-in-dynamic-window", outcome);
    let outcome = writes::attempt(bench, ioba);
    bench.conclude("write-after-unmap-in-dynamic-window", outcome);
    let outcome = reads::attempt(bench, window.end());
    bench.conclude("read-dynamic-window-end", outcome);

    window.map(ioba, bench.arena.watched(17), Permission::ReadWrite);
    bench.prove_read(ioba, 17);
    if let Err(status) = windows.remove(&window) {
        rtas::stop_with(format_args!("a dynamic window was not removed: {status}"));
    }
    let outcome = reads::attempt(bench, ioba);
    bench.conclude("read-after-dynamic-window", outcome);
    let outcome = writes::attempt(bench, ioba);
    bench.conclude("write-after-dynamic-window", outcome);
}

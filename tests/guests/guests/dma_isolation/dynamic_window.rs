//! A DMA window that the guest makes and removes (PAPR 7.3.10.4).

use spapr_test_guests::machine::{DmaWindow, HostBridge, Machine, PciFunction};
use spapr_test_guests::rtas;

use crate::bench::Bench;
use crate::window::{Permission, Window};
use crate::{reads, writes};

/// 4 KiB and 16 MiB, as powers of two.
const PAGE_SHIFT: u32 = 12;
const WINDOW_SHIFT: u32 = 24;

/// All trials.
pub(crate) fn all(
    bench: &mut Bench,
    machine: &Machine<'_>,
    bridge: &HostBridge<'_>,
    function: &PciFunction<'_>,
) {
    let window = make(machine, bridge, function);
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
    remove(machine, &window);
    let outcome = reads::attempt(bench, ioba);
    bench.conclude("read-after-dynamic-window", outcome);
    let outcome = writes::attempt(bench, ioba);
    bench.conclude("write-after-dynamic-window", outcome);
}

fn make(machine: &Machine<'_>, bridge: &HostBridge<'_>, function: &PciFunction<'_>) -> Window {
    let [a, b, c, d, e, f, g, h] = bridge.buid.to_be_bytes();
    let arguments = [
        function.config_address,
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
        PAGE_SHIFT,
        WINDOW_SHIFT,
    ];
    let [liobn, high, low] = serve(machine, "ibm,create-pe-dma-window", &arguments);
    Window::of(&DmaWindow {
        liobn,
        start: u64::from(high) << 32 | u64::from(low),
        bytes: 1 << WINDOW_SHIFT,
    })
}

fn remove(machine: &Machine<'_>, window: &Window) {
    let [] = serve(machine, "ibm,remove-pe-dma-window", &[window.liobn]);
}

/// Has a service done that has to succeed; gives what it returns beside its status.
fn serve<const N: usize>(machine: &Machine<'_>, service: &str, arguments: &[u32]) -> [u32; N] {
    let Some(token) = machine.rtas_token(service) else {
        rtas::stop_with(format_args!("there is no {service}"));
    };
    let mut returns = [0; 4];
    // SAFETY: what devices can reach by windows is for DMA alone; the service changes no other
    // memory than the returns.
    unsafe { rtas::call(token, arguments, &mut returns[..=N]) };
    if returns[0] != 0 {
        rtas::stop_with(format_args!("{service}: {}", returns[0].cast_signed()));
    }
    let mut values = [0; N];
    values.copy_from_slice(&returns[1..=N]);
    values
}

//! Rows of dynamic DMA windows (PAPR 7.3.10.4): what it costs to make one, to map at its end, and to
//! remove it, for windows of growing size.

use spapr_test_guests::machine::{HostBridge, Machine};
use spapr_test_guests::rtas;

use crate::calls::{Window, page};
use crate::meter::{Meter, Row, Samples};

/// The sizes, as powers of two: 16 MiB to 64 GiB, as far as there are such windows.
const SHIFTS: core::ops::RangeInclusive<u32> = 24..=36;
const PAGE_SHIFT: u32 = 12;
/// Windows of each size: fewer of those that take long to remove.
const fn windows_of(shift: u32) -> u64 {
    if shift >= 29 && shift <= 33 { 5 } else { 9 }
}

/// Makes and removes windows behind a bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DynamicWindows {
    address: [u32; 3],
    create: u32,
    remove: u32,
}

impl DynamicWindows {
    /// None when the machine offers no such windows behind `bridge`.
    pub(crate) fn of(machine: &Machine<'static>, bridge: &HostBridge<'static>) -> Option<Self> {
        let create = machine.rtas_token("ibm,create-pe-dma-window");
        let remove = machine.rtas_token("ibm,remove-pe-dma-window");
        let function = bridge.functions().next();
        let address = function.map_or(0, |function| function.config_address);
        let [high, low] = [bridge.buid >> 32, bridge.buid]
            .map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
        Some(Self {
            address: [address, high, low],
            create: create?,
            remove: remove?,
        })
    }

    /// A window of `1 << shift` bytes; else RTAS's status.
    pub(crate) fn create(&self, shift: u32) -> Result<Window, i64> {
        let [address, high, low] = self.address;
        let mut returns = [0; 4];
        // SAFETY: the service writes to the returns alone.
        unsafe {
            rtas::call(
                self.create,
                &[address, high, low, PAGE_SHIFT, shift],
                &mut returns,
            )
        };
        let [status, liobn, high, low] = returns;
        if status != 0 {
            return Err(status.cast_signed().into());
        }
        Ok(Window {
            liobn: liobn.into(),
            start: u64::from(high) << 32 | u64::from(low),
        })
    }

    /// Removes a window; RTAS's status.
    pub(crate) fn remove(&self, window: Window) -> i64 {
        let liobn = u32::try_from(window.liobn).unwrap_or(0);
        let mut returns = [0];
        // SAFETY: the service writes to the returns alone.
        unsafe { rtas::call(self.remove, &[liobn], &mut returns) };
        returns[0].cast_signed().into()
    }
}

/// All rows, up to the size that is refused.
pub(crate) fn measure(meter: &Meter, machine: &Machine<'static>, bridge: &HostBridge<'static>) {
    let Some(windows) = DynamicWindows::of(machine, bridge) else {
        return;
    };
    for shift in SHIFTS {
        let (mut made, mut removed) = (Samples::new(), Samples::new());
        let mut mapped = None;
        for _ in 0..windows_of(shift) {
            let before = meter.clock.now();
            let window = windows.create(shift);
            let after = meter.clock.now();
            let Ok(window) = window else { return };
            made.add(after - before, 0, 0);
            let last = (1 << shift) - (1 << PAGE_SHIFT);
            let clear = |_| {
                window.put_at(last, 0);
            };
            let map = |_| window.put_at(last, page(0));
            mapped = Some(meter.sample(0, clear, map));
            window.put_at(last, 0);
            let before = meter.clock.now();
            let status = windows.remove(window);
            let after = meter.clock.now();
            removed.add(after - before, status, 0);
        }
        let row = |name| Row {
            name,
            detail: "",
            n: shift.into(),
        };
        made.report(row("window-create"));
        removed.report(row("window-remove"));
        if let Some(mut mapped) = mapped {
            mapped.report(row("window-map-last"));
        }
    }
}

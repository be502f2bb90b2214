//! Rows of calls about one entry, and of calls about none.

use spapr_test_guests::hypercall::code;
use spapr_test_guests::machine::{HostBridge, Machine};
use spapr_test_guests::rtas;

use crate::calls::{Window, entry_for, page, unknown};
use crate::meter::{Meter, Row, Samples};

/// Memory is locked in pieces no smaller than this.
const REGION_BYTES: u64 = 256 << 20;
/// In a region, away from what lies at its start.
const IN_REGION: u64 = 128 << 20;

/// A hypercall that nobody knows: to the VMM and back.
pub(crate) fn exit(meter: &Meter) {
    let mut samples = meter.sample(code::H_FUNCTION, |_| {}, |_| unknown());
    samples.report(Row::single("exit"));
}

/// The first mapping of all.
pub(crate) fn first(meter: &Meter, window: Window) {
    let mut samples = Samples::new();
    timed_put(meter, window, &mut samples, page(0));
    samples.report(Row::single("first-map"));
    window.put(0);
}

/// The first mapping in each further piece of memory, which is locked then.
pub(crate) fn regions(meter: &Meter, window: Window, ram_bytes: Option<u64>) {
    let regions = ram_bytes.unwrap_or(0) / REGION_BYTES;
    let mut samples = Samples::new();
    for region in 1..regions {
        let entry = entry_for(region * REGION_BYTES + IN_REGION);
        timed_put(meter, window, &mut samples, entry);
    }
    samples.report(Row::single("first-map-in-region"));
    window.put(0);
}

fn timed_put(meter: &Meter, window: Window, samples: &mut Samples, entry: u64) {
    let before = meter.clock.now();
    let code = window.put(entry);
    let after = meter.clock.now();
    samples.add(after - before, code, 0);
}

/// H_PUT_TCE and H_GET_TCE.
pub(crate) fn measure(meter: &Meter, window: Window) {
    let ended = |mut samples: Samples, name| {
        samples.read_back(window, 1);
        samples.report(Row::single(name));
    };
    let clear = |_| {
        window.put(0);
    };
    let map = |_| {
        window.put(page(0));
    };
    ended(meter.sample(0, clear, |_| window.put(page(0))), "put-map");
    let remap = |number: u64| window.put(page(number & 1));
    ended(meter.sample(0, |_| {}, remap), "put-remap");
    let get = |_| window.get_at(0).0;
    ended(meter.sample(0, |_| {}, get), "get");
    ended(meter.sample(0, map, |_| window.put(0)), "put-unmap");
    ended(meter.sample(0, |_| {}, |_| window.put(0)), "put-clear");
}

/// Reading a device's vendor and device number.
pub(crate) fn read_config(meter: &Meter, machine: &Machine<'static>, bridge: &HostBridge<'static>) {
    let function = bridge.functions().next();
    let token = machine.rtas_token("ibm,read-pci-config");
    let (Some(function), Some(token)) = (function, token) else {
        rtas::stop_with("there is no PCI device");
    };
    let [high, low] =
        [bridge.buid >> 32, bridge.buid].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
    let arguments = [function.config_address, high, low, 4];
    let read = |_| {
        let mut returns = [0; 2];
        // SAFETY: the service writes to the returns alone.
        let code = unsafe { rtas::call(token, &arguments, &mut returns) };
        let [status, value] = returns;
        code | i64::from(status) | i64::from(value == 0)
    };
    let mut samples = meter.sample(0, |_| {}, read);
    samples.report(Row::single("rtas-config-read"));
}

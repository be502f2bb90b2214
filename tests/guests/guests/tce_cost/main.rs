//! A guest that measures what TCE hypercalls cost it.
//!
//! Command line: `calls=COUNT` of each kind (at most 512), after `settle=MILLISECONDS` of making
//! the same calls unmeasured; `only=WORD` leaves out kinds whose name does not start with the word.
//! It prints a line for each kind, in nanoseconds of the time base (on an emulated host whose clock
//! counts instructions: in instructions),
//!
//!     TCE-COST NAME n=ENTRIES calls=COUNT median=… min=… p99=… max=… mean=… failed=COUNT
//!
//! then `TCE-COST-DONE`, and powers off.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod calls;
#[cfg(target_arch = "powerpc64")]
mod meter;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Console;
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::rtas;

    use crate::calls::{Lists, Window};
    use crate::meter::{Kind, Meter};

    /// Entries of a list, and entries that are stuffed at once.
    const LENGTHS: [u64; 9] = [1, 2, 3, 4, 6, 8, 16, 64, 512];

    fn main(machine: &Machine<'static>) {
        let bridge = machine.host_bridges().next();
        let (Some(bridge), Some(hertz)) = (bridge, machine.timebase_hertz()) else {
            rtas::stop_with("there is no PCI host bridge or no time base");
        };
        let window = Window {
            liobn: bridge.window.liobn.into(),
            start: bridge.window.start,
        };
        let mut meter = Meter {
            clock: Clock::new(hertz),
            calls: machine.number_argument("calls").unwrap_or(200),
            settle_milliseconds: machine.number_argument("settle").unwrap_or(0),
            only: machine.argument("only").unwrap_or(""),
        };
        let lists = Lists::fill();
        singles(&mut meter, window);
        for (order, list) in [
            ("contiguous", lists.contiguous),
            ("scattered", lists.scattered),
        ] {
            for n in LENGTHS {
                indirect(&mut meter, window, order, list, n);
            }
        }
        for n in LENGTHS {
            stuff(&mut meter, window, lists, n);
        }
        writeln!(Console, "TCE-COST-DONE").unwrap_or_default();
    }

    fn singles(meter: &mut Meter<'_>, window: Window) {
        let nothing = || 0;
        let entry = Lists::page(0);
        let kind = |name| Kind {
            name,
            detail: "",
            n: 1,
        };
        meter.measure(kind("unknown"), nothing, || Window::unknown_call() + 2);
        meter.measure(kind("put-live"), nothing, || window.put(entry));
        meter.measure(kind("put-empty"), || window.put(0), || window.put(entry));
        meter.measure(kind("put-unmap"), || window.put(entry), || window.put(0));
        meter.measure(kind("put-clear"), nothing, || window.put(0));
        meter.measure(kind("get"), nothing, || window.get());
    }

    fn indirect(meter: &mut Meter<'_>, window: Window, order: &'static str, list: u64, n: u64) {
        let kind = |name| Kind {
            name,
            detail: order,
            n,
        };
        let map = || window.put_list(list, n);
        meter.measure(kind("indirect-live-"), || 0, map);
        meter.measure(kind("indirect-empty-"), || window.stuff(n), map);
        window.stuff(512);
    }

    fn stuff(meter: &mut Meter<'_>, window: Window, lists: Lists, n: u64) {
        let kind = |name| Kind {
            name,
            detail: "",
            n,
        };
        let clear = || window.stuff(n);
        let map = || window.put_list(lists.contiguous, n);
        meter.measure(kind("stuff-mapped"), map, clear);
        meter.measure(kind("stuff-clear"), || 0, clear);
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

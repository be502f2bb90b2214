//! A guest whose two processors change entries of a DMA window at the same moment, with an NVMe as the
//! witness of what came of it.
//!
//! `rounds=COUNT` on the command line is how often it does each of these, in the default window and in a
//! dynamic one, and `seconds=COUNT` the time after which it goes on with the next, five times as long if
//! the calls seldom meet; `seed=NUMBER` is for the delays and places:
//!
//! - The first two mappings of a window (H_PUT_TCE of different entries). The device then reads a block
//!   through each. Between rounds the window goes and comes back.
//!
//!       TCE-RACE first-mappings WINDOW rounds=COUNT together=COUNT lost=COUNT unseen=COUNT
//!
//!   `together` are rounds in which both calls were under way at once; `lost` entries that H_GET_TCE shows
//!   and the device does not find; `unseen` entries that H_GET_TCE does not show.
//!
//! - One clears a range (H_STUFF_TCE) while the other maps an entry in it (H_PUT_TCE). An entry that then
//!   reads as clear must keep the device out; so must each one when it is cleared once more; and one that is
//!   mapped once more must let it through.
//!
//!       TCE-RACE clearing WINDOW rounds=COUNT shown=COUNT clear=COUNT leaked=COUNT stuck=COUNT dead=COUNT
//!
//!   `shown` and `clear` say what entries read as after the two calls, the others what was wrong.
//!
//! - One has a window made, or the default window reset (ibm,create- and ibm,reset-pe-dma-window), while the
//!   other maps an entry in it.
//!
//!       TCE-RACE resets default rounds=COUNT shown=COUNT clear=COUNT lost=COUNT leaked=COUNT
//!       TCE-RACE made dynamic rounds=COUNT shown=COUNT clear=COUNT lost=COUNT leaked=COUNT
//!
//!   `lost` are entries that H_GET_TCE shows and the device does not find, `leaked` those that it does not
//!   show and the device finds.
//!
//! If there is another host bridge, the memory that the device reaches is first mapped there, so that the
//! host has it locked for that one's group.
//!
//! It ends with `TCE-RACE-DONE` and powers off, with a dynamic window in which something is mapped.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod clearing;
#[cfg(target_arch = "powerpc64")]
mod first_mappings;
#[cfg(target_arch = "powerpc64")]
mod race;
#[cfg(target_arch = "powerpc64")]
mod windows;
#[cfg(target_arch = "powerpc64")]
mod witness;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::{Arguments, Write};

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::{Console, Line};
    use spapr_test_guests::dma_window::{DynamicWindows, Window};
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::pci::ConfigSpace;
    use spapr_test_guests::random::Random;
    use spapr_test_guests::{nvme, processors, rtas};

    use crate::race::Budget;
    use crate::witness::Witness;
    use crate::{clearing, first_mappings, windows as whole_windows};

    fn main(machine: &Machine<'static>) {
        let (bridge, function) = nvme::find(machine);
        let parts = (
            ConfigSpace::of(machine, &bridge, &function),
            bridge.bar(&function, 0),
            machine.timebase_hertz(),
            DynamicWindows::of(machine, &bridge),
        );
        let (Some(config), Some(registers), Some(hertz), Some(windows)) = parts else {
            rtas::stop_with("the NVMe or the machine lacks something that this guest needs");
        };
        if processors::start(2) != 2 {
            rtas::stop_with("there is no second processor");
        }
        config.enable(true);
        let default = Window::of(&bridge.window);
        let clock = Clock::new(hertz);
        // SAFETY: the device tree says that the registers are there, and the function decodes them.
        let mut witness = unsafe { Witness::new(registers.start, config, default, clock) };
        for other in machine.host_bridges() {
            let window = Window::of(&other.window);
            if window.liobn != default.liobn {
                witness.lock_memory_by(&window);
            }
        }
        let budget = Budget {
            rounds: machine.number_argument("rounds").unwrap_or(10),
            seconds: machine.number_argument("seconds").unwrap_or(60),
            clock,
        };
        let mut random = Random::new(machine.number_argument("seed").unwrap_or(1));

        let first = first_mappings::in_default_window(&mut witness, windows, budget, &mut random);
        say(format_args!("first-mappings default {first}"));
        let cleared = clearing::rounds(&mut witness, &default, budget, &mut random);
        say(format_args!("clearing default {cleared}"));
        let first = first_mappings::in_dynamic_windows(&mut witness, windows, budget, &mut random);
        say(format_args!("first-mappings dynamic {first}"));
        let reset = whole_windows::resets(&mut witness, windows, budget, &mut random);
        say(format_args!("resets default {reset}"));
        let made = whole_windows::made(&mut witness, windows, budget, &mut random);
        say(format_args!("made dynamic {made}"));
        let dynamic = first_mappings::make(windows);
        let cleared = clearing::rounds(&mut witness, &dynamic, budget, &mut random);
        say(format_args!("clearing dynamic {cleared}"));

        processors::stop();
        writeln!(Console, "TCE-RACE-DONE").unwrap_or_default();
    }

    fn say(what: Arguments<'_>) {
        let mut line = Line::default();
        // A terminal that does not take it shows in what is missing.
        write!(line, "TCE-RACE {what}").unwrap_or_default();
        line.print().unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

//! A guest that drives a virtio disk, or else a network card, a serial device or an entropy device, and between its requests
//! writes nonsense into the device's registers and rings. What it says to the device must stop the device at most, until that
//! is reset.
//!
//! With `first=NUMBER` it writes and flushes instead, from the operation of that number on, until the machine ends
//! (`sequence.rs`).
//!
//! Command line: `seed=NUMBER`, and `rounds=COUNT` of nonsense. Where the device takes bus addresses, its pages are
//! mapped in the bridge's default DMA window. It prints a line `VIRTIO-GUEST-WRONG …` for each thing that is not as it
//! must be, ends with `VIRTIO-GUEST-DONE rounds=… requests=… stopped=… wrong=…` (requests that were served, and rounds
//! in which the device asked for its reset), and powers off.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod arena;
#[cfg(target_arch = "powerpc64")]
mod driver;
#[cfg(target_arch = "powerpc64")]
mod nonsense;
#[cfg(target_arch = "powerpc64")]
mod sequence;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::{Arguments, Write};

    use spapr_test_guests::clock::Clock;
    use spapr_test_guests::console::Console;
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::random::Random;
    use spapr_test_guests::rtas;

    use crate::driver::Driver;
    use crate::{nonsense, sequence};

    /// Rounds of nonsense after which the device is reset and has to work.
    const ROUNDS_AT_ONCE: u64 = 4;
    /// Lines that are printed for what is wrong; more is only counted.
    const MOST_LINES: u64 = 20;

    fn main(machine: &Machine<'static>) {
        let hertz = machine.timebase_hertz().unwrap_or(1);
        let Some(mut driver) = Driver::of(machine, Clock::new(hertz)) else {
            rtas::stop_with("there is no virtio disk, network card, serial or entropy device");
        };
        if let Some(first) = machine.number_argument("first") {
            if let Err(why) = sequence::write(&mut driver, first) {
                writeln!(Console, "\nVIRTIO-GUEST-WRONG {why}").unwrap_or_default();
            }
            return;
        }
        let ram_bytes = machine.ram_bytes().unwrap_or(0);
        let mut random = Random::new(machine.number_argument("seed").unwrap_or(1));
        let rounds = machine.number_argument("rounds").unwrap_or(256);
        let (mut served, mut stopped, mut wrong) = (0, 0, 0);
        let mut check = |holds: bool, what: Arguments<'_>| {
            wrong += u64::from(!holds);
            if !holds && wrong <= MOST_LINES {
                writeln!(Console, "\nVIRTIO-GUEST-WRONG {what}").unwrap_or_default();
            }
        };
        for round in 0..rounds {
            if round.is_multiple_of(ROUNDS_AT_ONCE) {
                match driver.start().and_then(|()| driver.request()) {
                    Ok(()) => served += 1,
                    Err(why) => check(false, format_args!("round {round}: after a reset {why}")),
                }
            }
            nonsense::round(&mut driver, &mut random, ram_bytes);
            stopped += u64::from(driver.needs_reset());
            let changed = driver.arena().first_change();
            check(
                changed.is_none(),
                format_args!(
                    "round {round}: memory changed that no descriptor named, word {changed:?}"
                ),
            );
            driver.arena().watch();
        }
        driver.reset();
        writeln!(
            Console,
            "\nVIRTIO-GUEST-DONE rounds={rounds} requests={served} stopped={stopped} wrong={wrong}"
        )
        .unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

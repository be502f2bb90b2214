//! Loads and stores where there is no RAM: a device's registers, a window with nothing in it, or
//! nothing at all.

use spapr_test_guests::access::{WIDTHS, load, store};
use spapr_test_guests::random::Random;

use crate::report::Report;
use crate::values::Values;

/// Makes accesses at random. Whatever they find, and if they are interrupted, the guest goes on.
pub(crate) fn at_random(values: &Values, random: &mut Random, rounds: u64, report: &mut Report) {
    for _ in 0..rounds {
        let address = values.outside_ram(random);
        if address < values.ram_bytes {
            continue;
        }
        let width = random.one_of(&WIDTHS);
        report.called();
        if random.below(2) == 0 {
            // SAFETY: there is no RAM, and no device answers that matters to this guest.
            let _found_or_not = unsafe { load(address, width) };
        } else {
            let value = values.any(random);
            // SAFETY: there is no RAM.
            let _taken_or_not = unsafe { store(address, width, value) };
        }
    }
}

//! A guest that passes nonsense to everything that a VMM serves, and checks what comes back.
//!
//! Command line: `seed=NUMBER` for the pseudo-random part, `rounds=COUNT` for how long it is.
//! It prints a line `HOSTILE-GUEST-WRONG …` for each answer that is not as it must be, and for each DMA
//! window how many ranges behind its end were refused, of how many that were tried:
//!
//!     HOSTILE-GUEST-RANGES default|dynamic H_STUFF_TCE=COUNT/COUNT H_PUT_TCE_INDIRECT=COUNT/COUNT
//!
//! It ends with `HOSTILE-GUEST-DONE calls=… wrong=…`, and powers off.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod accesses;
#[cfg(target_arch = "powerpc64")]
mod arena;
#[cfg(target_arch = "powerpc64")]
mod hypercalls;
#[cfg(target_arch = "powerpc64")]
mod interrupts;
#[cfg(target_arch = "powerpc64")]
mod ranges;
#[cfg(target_arch = "powerpc64")]
mod report;
#[cfg(target_arch = "powerpc64")]
mod services;
#[cfg(target_arch = "powerpc64")]
mod translation;
#[cfg(target_arch = "powerpc64")]
mod values;

#[cfg(target_arch = "powerpc64")]
mod guest {
    use spapr_test_guests::machine::Machine;
    use spapr_test_guests::random::Random;

    use crate::arena::Arena;
    use crate::report::Report;
    use crate::values::Values;
    use crate::{accesses, hypercalls, interrupts, ranges, services};

    fn main(machine: &Machine<'static>) {
        let mut report = Report::default();
        let Some(values) = Values::of(machine) else {
            report.wrong(format_args!("the device tree has no memory"));
            return report.done();
        };
        let mut random = Random::new(machine.number_argument("seed").unwrap_or(1));
        let rounds = machine.number_argument("rounds").unwrap_or(2_000);
        let mut arena = Arena::new(values.ram_bytes);
        hypercalls::mistakes(&values, &mut report);
        ranges::behind_the_end(machine, &mut report);
        interrupts::mistakes(machine, &values, &mut report);
        services::mistakes(&values, &mut arena, &mut report);
        services::at_random(&values, &mut random, &mut arena, rounds, &mut report);
        services::default_windows(machine, &mut report);
        accesses::at_random(&values, &mut random, rounds / 8, &mut report);
        hypercalls::at_random(&values, &mut random, rounds, &mut report);
        interrupts::at_random(machine, &values, &mut random, rounds / 2, &mut report);
        hypercalls::process_table_mistakes(&mut report);
        report.check(
            arena.is_unchanged(),
            format_args!("memory that no call named has changed"),
        );
        report.done();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

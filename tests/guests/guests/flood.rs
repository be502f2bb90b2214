//! A guest that writes many lines to its terminal: `lines=COUNT`, each of 64 bytes.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest {
    use core::fmt::Write;

    use spapr_test_guests::console::{Console, Line};
    use spapr_test_guests::machine::Machine;

    fn main(machine: &Machine<'static>) {
        let lines = machine.number_argument("lines").unwrap_or(10);
        for line in 0..lines {
            // A terminal that does not take it shows in what is missing.
            let mut text = Line::default();
            write!(text, "FLOOD-LINE {line:010} {:.<41}", "").unwrap_or_default();
            text.print().unwrap_or_default();
        }
        writeln!(Console, "FLOOD-DONE").unwrap_or_default();
    }

    spapr_test_guests::guest!(main);
}

/// Exists so that the package builds for any target; the guest is for ppc64le without a system.
#[cfg(not(target_arch = "powerpc64"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}

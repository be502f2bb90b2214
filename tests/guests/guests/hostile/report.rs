//! What the guest found.

use core::fmt::{Arguments, Write};

use spapr_test_guests::console::Console;

/// Lines that are printed for wrong answers; more are only counted.
const MOST_LINES: u64 = 20;

/// Counts of calls and of wrong answers.
#[derive(Debug, Default)]
pub(crate) struct Report {
    calls: u64,
    wrong: u64,
}

impl Report {
    /// One more call was made.
    pub(crate) fn called(&mut self) {
        self.calls += 1;
    }

    /// Something is not as it must be.
    pub(crate) fn wrong(&mut self, what: Arguments<'_>) {
        self.wrong += 1;
        if self.wrong <= MOST_LINES {
            say(format_args!("\nHOSTILE-GUEST-WRONG {what}"));
        }
    }

    /// Notes what is wrong unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, what: Arguments<'_>) {
        if !holds {
            self.wrong(what);
        }
    }

    /// Prints something else that was found.
    pub(crate) fn tell(&self, what: Arguments<'_>) {
        say(format_args!("\n{what}"));
    }

    /// Prints the end.
    pub(crate) fn done(&self) {
        say(format_args!(
            "\nHOSTILE-GUEST-DONE calls={} wrong={}",
            self.calls, self.wrong
        ));
    }
}

fn say(what: Arguments<'_>) {
    // A terminal that does not work shows in the lines that are missing.
    writeln!(Console, "{what}").unwrap_or_default();
}

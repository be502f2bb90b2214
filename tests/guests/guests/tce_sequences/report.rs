//! What a block of calls came to.

use core::fmt::{Arguments, Write};

use spapr_test_guests::console::Line;
use spapr_test_guests::digest::Digest;
use spapr_test_guests::hypercall::{Answer, code};

use crate::calls::{Call, READ_WRITE};

/// A block of calls, and the entries after it.
#[derive(Debug)]
pub(crate) struct Block {
    /// Which it is.
    pub(crate) number: u64,
    /// Whether each call and entry is printed.
    pub(crate) is_printed: bool,
    /// Calls that returned H_SUCCESS.
    pub(crate) succeeded: u64,
    /// Entries that map something.
    pub(crate) live: u64,
    /// Of what the calls returned.
    pub(crate) codes: Digest,
    /// Of the entries.
    pub(crate) view: Digest,
}

impl Block {
    /// Notes what a call returned.
    pub(crate) fn called(&mut self, index: u64, call: Call, answer: &Answer) {
        self.succeeded += u64::from(answer.code == code::H_SUCCESS);
        self.codes.add(answer.code.cast_unsigned());
        for register in answer.registers {
            self.codes.add(register);
        }
        if self.is_printed {
            let [liobn, ioba, third, count] = call.arguments;
            print(format_args!(
                "TCE-SEQUENCES-CALL {index} {} {liobn:#x} {ioba:#x} {third:#x} {count:#x} \
                 code={} r4={:#x}",
                call.name(),
                answer.code,
                answer.registers[0],
            ));
        }
    }

    /// Notes what H_GET_TCE said of entry `index`.
    pub(crate) fn read(&mut self, index: u64, answer: &Answer) {
        let entry = answer.registers[0];
        self.view.add(answer.code.cast_unsigned());
        self.view.add(entry);
        self.live += u64::from(entry & READ_WRITE != 0);
        if self.is_printed && entry != 0 {
            print(format_args!(
                "TCE-SEQUENCES-ENTRY {index} code={} {entry:#x}",
                answer.code
            ));
        }
    }

    /// Prints the block's line.
    pub(crate) fn print(&self, calls: u64) {
        let Self {
            number,
            succeeded,
            live,
            ..
        } = self;
        print(format_args!(
            "TCE-SEQUENCES-BLOCK {number} calls={calls} succeeded={succeeded} live={live} \
             codes={:#018x} view={:#018x}",
            self.codes.value(),
            self.view.value(),
        ));
    }
}

/// Prints a line.
pub(crate) fn print(what: Arguments<'_>) {
    let mut line = Line::default();
    // A terminal that does not take it shows in what is missing.
    line.write_fmt(what).unwrap_or_default();
    line.print().unwrap_or_default();
}

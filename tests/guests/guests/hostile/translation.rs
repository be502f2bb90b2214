//! Mistakes in the calls that write and read translation control entries (TCEs), each with one right
//! answer: H_PARAMETER.

use spapr_test_guests::hypercall::{code, number};
use spapr_test_guests::machine::DmaWindow;

use crate::arena::MIDDLE;
use crate::hypercalls::must;
use crate::report::Report;

/// Bytes of a page of the default DMA window.
const PAGE: u64 = 4096;
const READ_WRITE: u64 = 3;
/// An entry that is right.
const ENTRY: u64 = MIDDLE.start | READ_WRITE;
/// A list in RAM.
const LIST: u64 = MIDDLE.start;
/// The last page below 2^64.
const LAST_PAGE: u64 = !(PAGE - 1);
/// No window has this number.
const NO_LIOBN: u64 = 0x8000_fe00;

/// The calls on one window.
struct Calls<'a> {
    liobn: u64,
    report: &'a mut Report,
}

impl Calls<'_> {
    fn refuse_put(&mut self, ioba: u64, tce: u64) {
        let arguments = [self.liobn, ioba, tce];
        must(self.report, code::H_PARAMETER, number::H_PUT_TCE, arguments);
    }

    fn refuse_list(&mut self, ioba: u64, list: u64, count: u64) {
        let arguments = [self.liobn, ioba, list, count];
        must(
            self.report,
            code::H_PARAMETER,
            number::H_PUT_TCE_INDIRECT,
            arguments,
        );
    }

    fn refuse_stuff(&mut self, ioba: u64, tce: u64, count: u64) {
        let arguments = [self.liobn, ioba, tce, count];
        must(
            self.report,
            code::H_PARAMETER,
            number::H_STUFF_TCE,
            arguments,
        );
    }

    fn refuse_get(&mut self, ioba: u64) {
        let arguments = [self.liobn, ioba];
        must(self.report, code::H_PARAMETER, number::H_GET_TCE, arguments);
    }

    /// What the entry reads as.
    fn get(&mut self, ioba: u64) -> u64 {
        let arguments = [self.liobn, ioba];
        must(self.report, code::H_SUCCESS, number::H_GET_TCE, arguments).registers[0]
    }
}

/// Windows that do not exist.
pub(crate) fn without_window(report: &mut Report) {
    for liobn in [NO_LIOBN, 0, 1, 1 << 32, u64::MAX] {
        let mut calls = Calls { liobn, report };
        calls.refuse_put(0, ENTRY);
        calls.refuse_list(0, LIST, 1);
        calls.refuse_stuff(0, 0, 1);
        calls.refuse_get(0);
    }
}

/// A window that exists.
pub(crate) fn with_window(window: DmaWindow, ram_bytes: u64, report: &mut Report) {
    let mut calls = Calls {
        liobn: window.liobn.into(),
        report,
    };
    outside_the_window(&mut calls, window);
    to_what_is_no_ram(&mut calls, window.start, ram_bytes);
    bad_lists_and_counts(&mut calls, window);
    what_is_right_still_works(&mut calls, window.start + window.bytes - PAGE);
}

fn outside_the_window(calls: &mut Calls<'_>, window: DmaWindow) {
    let end = window.start + window.bytes;
    for ioba in [
        window.start + 1,
        window.start + PAGE - 1,
        end,
        end + PAGE,
        1 << 59,
        LAST_PAGE,
    ] {
        calls.refuse_put(ioba, ENTRY);
        calls.refuse_list(ioba, LIST, 1);
        calls.refuse_stuff(ioba, 0, 1);
    }
    for ioba in [end, end + PAGE, LAST_PAGE] {
        calls.refuse_get(ioba);
    }
    // From the last entry over the end.
    calls.refuse_list(end - PAGE, LIST, 2);
    calls.refuse_stuff(end - PAGE, 0, 2);
}

fn to_what_is_no_ram(calls: &mut Calls<'_>, ioba: u64, ram_bytes: u64) {
    for address in [ram_bytes, ram_bytes + PAGE, 1 << 40, 1 << 52, LAST_PAGE] {
        calls.refuse_put(ioba, address | READ_WRITE);
        calls.refuse_list(ioba, address, 1);
    }
}

fn bad_lists_and_counts(calls: &mut Calls<'_>, window: DmaWindow) {
    let start = window.start;
    for count in [513, 1 << 32, u64::MAX] {
        calls.refuse_list(start, LIST, count);
    }
    for unaligned in [LIST + 8, LIST + 2048, u64::MAX] {
        calls.refuse_list(start, unaligned, 1);
    }
    calls.refuse_stuff(start, READ_WRITE, 1);
    for count in [window.bytes / PAGE + 1, 1 << 52, u64::MAX] {
        calls.refuse_stuff(start, 0, count);
    }
}

fn what_is_right_still_works(calls: &mut Calls<'_>, ioba: u64) {
    let liobn = calls.liobn;
    must(
        calls.report,
        code::H_SUCCESS,
        number::H_PUT_TCE,
        [liobn, ioba, ENTRY],
    );
    let entry = calls.get(ioba);
    calls.report.check(
        entry == ENTRY,
        format_args!("{ENTRY:#x} reads back as {entry:#x}"),
    );
    must(
        calls.report,
        code::H_SUCCESS,
        number::H_STUFF_TCE,
        [liobn, ioba, 0, 1],
    );
    let entry = calls.get(ioba);
    calls.report.check(
        entry & READ_WRITE == 0,
        format_args!("a cleared entry reads as {entry:#x}"),
    );
}

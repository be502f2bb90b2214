//! How long one call holds its processor at most: while all memory is mapped for the first time, when a VMM
//! may have memory to lock, and when it is about a whole window.

use crate::calls::{LONGEST, Lists, PAGE_BYTES, Window, entry_for};
use crate::meter::{Meter, Row, Samples};

/// From one single mapping to the next: finer than the pieces in which memory is locked.
const STEP_BYTES: u64 = 1 << 20;

/// The longest H_PUT_TCE, of those that map a page in each piece of memory.
pub(crate) fn puts(meter: &Meter, window: Window, ram_bytes: Option<u64>) {
    let steps = ram_bytes.unwrap_or(0) / STEP_BYTES;
    let (mut longest, mut wrong) = (0, 0);
    for step in 0..steps {
        let before = meter.clock.now();
        let code = window.put(entry_for(step * STEP_BYTES));
        let after = meter.clock.now();
        longest = longest.max(after - before);
        if code != 0 {
            wrong = code;
        }
    }
    window.put(0);
    report("longest-stall-put", 1, longest, wrong);
}

/// One H_PUT_TCE_INDIRECT of as many pages as it takes, all over memory.
pub(crate) fn list(meter: &Meter, window: Window, ram_bytes: Option<u64>) {
    let list = Lists::fill_spread(ram_bytes.unwrap_or(0));
    let before = meter.clock.now();
    let code = window.put_list(list, LONGEST);
    let after = meter.clock.now();
    window.stuff(LONGEST);
    report("longest-stall-list", LONGEST, after - before, code);
}

/// H_STUFF_TCE of all of a window of `bytes`, with every entry mapped; what that took, however often the VMM has
/// the call made again.
pub(crate) fn stuff(meter: &Meter, window: Window, bytes: u64) {
    let list = Lists::fill().contiguous;
    let entries = bytes / PAGE_BYTES;
    for number in 0..entries.div_ceil(LONGEST) {
        let first = number * LONGEST;
        window.put_list_at(first * PAGE_BYTES, list, LONGEST.min(entries - first));
    }
    let before = meter.clock.now();
    let code = window.stuff(entries);
    let after = meter.clock.now();
    report("stuff-window", entries, after - before, code);
}

fn report(name: &'static str, n: u64, ticks: u64, code: i64) {
    let mut samples = Samples::new();
    samples.add(ticks, code, 0);
    samples.report(Row {
        name,
        detail: "",
        n,
    });
}

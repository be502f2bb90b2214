//! Rows of calls about many entries.

use crate::calls::{LONGEST, Lists, Window};
use crate::meter::{Meter, Row, Samples};

/// Entries of a list, and entries that are stuffed at once.
const LENGTHS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// H_PUT_TCE_INDIRECT, of pages that follow each other and of pages that do not, over entries that are
/// mapped and over clear ones.
pub(crate) fn indirect(meter: &Meter, window: Window, lists: Lists) {
    let orders = [
        ("contiguous", lists.contiguous),
        ("scattered", lists.scattered),
    ];
    for (order, list) in orders {
        for n in LENGTHS {
            let meter = meter.for_entries(n);
            let map = |_| window.put_list(list, n);
            let clear = |_| {
                window.stuff(n);
            };
            let ended = |mut samples: Samples, name| {
                samples.read_back(window, n);
                let detail = order;
                samples.report(Row { name, detail, n });
            };
            ended(meter.sample(0, |_| {}, map), "indirect-live-");
            ended(meter.sample(0, clear, map), "indirect-empty-");
            window.stuff(LONGEST);
        }
    }
}

/// H_STUFF_TCE of mapped entries and of clear ones.
pub(crate) fn stuff(meter: &Meter, window: Window, lists: Lists) {
    for n in LENGTHS {
        let meter = meter.for_entries(n);
        let clear = |_| window.stuff(n);
        let map = |_| {
            window.put_list(lists.contiguous, n);
        };
        let ended = |mut samples: Samples, name| {
            samples.read_back(window, n);
            let detail = "";
            samples.report(Row { name, detail, n });
        };
        ended(meter.sample(0, map, clear), "stuff-mapped");
        ended(meter.sample(0, |_| {}, clear), "stuff-clear");
    }
}

/// The first calls about many entries, without any before them.
pub(crate) fn cold(meter: &Meter, window: Window, lists: Lists) {
    let meter = meter.cold();
    indirect(&meter, window, lists);
    stuff(&meter, window, lists);
}
